-- oldest: 1
-- The hot tables. Every random index page costs an issuance 12 to 15
-- microseconds at a million rows, so a look-up key is the row's own number: a
-- keyed hash (device, spki_key) or a dense number that the certificate serial
-- opens to (credential). Times are unix microseconds, 0 where there is none.

CREATE TABLE store_key (
  id         INTEGER PRIMARY KEY CHECK (id = 1),
  hash_key   BLOB NOT NULL,
  serial_key BLOB NOT NULL
) STRICT;

CREATE TABLE installation (
  id              INTEGER PRIMARY KEY CHECK (id = 1),
  installation_id BLOB NOT NULL,
  organization    TEXT NOT NULL,
  status_url      TEXT NOT NULL,
  quickstart      INTEGER NOT NULL,
  restore_epoch   INTEGER NOT NULL,
  created_at      INTEGER NOT NULL
) STRICT;

-- The epoch of the control plane. STORE holds it shared, every change of
-- authorities, profiles, products and labels raises it.
CREATE TABLE control (
  id    INTEGER PRIMARY KEY CHECK (id = 1),
  epoch INTEGER NOT NULL
) STRICT;
INSERT INTO control (id, epoch) VALUES (1, 1);

CREATE TABLE clock_mark (
  id      INTEGER PRIMARY KEY CHECK (id = 1),
  mark_at INTEGER NOT NULL
) STRICT;
INSERT INTO clock_mark (id, mark_at) VALUES (1, 0);

CREATE TABLE device (
  id              INTEGER PRIMARY KEY, -- keyed 63-bit hash of device_serial
  device_serial   TEXT NOT NULL,
  product         INTEGER NOT NULL,
  site            INTEGER NOT NULL,
  owner           INTEGER NOT NULL,
  region          TEXT NOT NULL,
  labels          TEXT NOT NULL, -- JSON object
  state           INTEGER NOT NULL,
  version         INTEGER NOT NULL,
  slots           TEXT NOT NULL, -- "|idevid=17;|ldevid/cloud=23;", the current credentials
  secret_hash     BLOB,
  secret_spent_at INTEGER NOT NULL,
  secret_spki     BLOB,
  registered_at   INTEGER NOT NULL,
  changed_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX device_product ON device (product, id);

CREATE TABLE credential (
  id              INTEGER PRIMARY KEY, -- dense, leased before signing
  cert_serial     BLOB NOT NULL,
  authority       INTEGER NOT NULL,
  authority_index INTEGER NOT NULL,
  profile         INTEGER NOT NULL,
  kind            TEXT NOT NULL,
  purpose         TEXT NOT NULL,
  device          INTEGER NOT NULL,
  product         INTEGER NOT NULL,
  site            INTEGER NOT NULL,
  owner           INTEGER NOT NULL,
  state           INTEGER NOT NULL,
  reason          INTEGER NOT NULL,
  revoked_at      INTEGER NOT NULL,
  key_kind        INTEGER NOT NULL,
  not_before      INTEGER NOT NULL,
  not_after       INTEGER NOT NULL,
  spki            BLOB NOT NULL,
  idempotency     BLOB NOT NULL,
  previous        INTEGER NOT NULL,
  issued_at       INTEGER NOT NULL,
  confirmed_at    INTEGER NOT NULL,
  der             BLOB NOT NULL
) STRICT;
CREATE INDEX credential_product ON credential (product, id);

CREATE TABLE spki_key (
  id         INTEGER PRIMARY KEY, -- keyed 63-bit hash of the SPKI's SHA-256
  credential INTEGER NOT NULL     -- the newest of this key; holds the whole digest
) STRICT;

CREATE TABLE authority_counter (
  authority  INTEGER PRIMARY KEY,
  next_index INTEGER NOT NULL
) STRICT;

-- Maintained counts: kind 1 devices by state, 2 credentials by state, 3 live
-- credentials by the unix day on which they end.
CREATE TABLE tally (
  product INTEGER NOT NULL,
  site    INTEGER NOT NULL,
  owner   INTEGER NOT NULL,
  kind    INTEGER NOT NULL,
  bucket  INTEGER NOT NULL,
  total   INTEGER NOT NULL,
  PRIMARY KEY (kind, bucket, product, site, owner)
) STRICT, WITHOUT ROWID;

CREATE TABLE node (
  name  TEXT PRIMARY KEY,
  fence INTEGER NOT NULL
) STRICT;

CREATE TABLE serial_head (
  id      INTEGER PRIMARY KEY CHECK (id = 1),
  next_id INTEGER NOT NULL
) STRICT;
INSERT INTO serial_head (id, next_id) VALUES (1, 1);

CREATE TABLE serial_lease (
  id        INTEGER PRIMARY KEY, -- the first credential id of the block
  node      TEXT NOT NULL,
  fence     INTEGER NOT NULL,
  size      INTEGER NOT NULL,
  seed      BLOB NOT NULL,
  leased_at INTEGER NOT NULL,
  closed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX serial_lease_open ON serial_lease (node) WHERE closed_at = 0;

CREATE TABLE lease (
  job        TEXT PRIMARY KEY,
  node       TEXT NOT NULL,
  run        INTEGER NOT NULL, -- the node's fence
  fence      INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE ledger_head (
  id   INTEGER PRIMARY KEY CHECK (id = 1),
  size INTEGER NOT NULL
) STRICT;
INSERT INTO ledger_head (id, size) VALUES (1, 0);

-- One row per transaction; leaves are length-prefixed.
CREATE TABLE ledger_batch (
  id      INTEGER PRIMARY KEY, -- index of the first leaf
  size    INTEGER NOT NULL,
  classes INTEGER NOT NULL,
  leaves  BLOB NOT NULL
) STRICT;

CREATE TABLE ledger_private (
  id    INTEGER PRIMARY KEY, -- index of the leaf
  salt  BLOB NOT NULL,
  value TEXT NOT NULL
) STRICT;

CREATE TABLE ledger_tile (
  level  INTEGER NOT NULL,
  n      INTEGER NOT NULL,
  hashes BLOB NOT NULL,
  PRIMARY KEY (level, n)
) STRICT;

CREATE TABLE checkpoint (
  id      INTEGER PRIMARY KEY, -- the tree's size
  root    BLOB NOT NULL,
  note    BLOB NOT NULL,
  made_at INTEGER NOT NULL
) STRICT;
