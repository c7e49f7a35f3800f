-- oldest: 1
-- The hot tables. Every random index page costs an issuance 12 to 15
-- microseconds at a million rows, so a look-up key is the row's own number: a
-- keyed hash (device, spki_key) or a dense number that the certificate serial
-- opens to (credential). Times are unix microseconds, 0 where there is none.

CREATE TABLE store_key (
  id         BIGINT PRIMARY KEY CHECK (id = 1),
  hash_key   BYTEA NOT NULL,
  serial_key BYTEA NOT NULL
);

CREATE TABLE installation (
  id              BIGINT PRIMARY KEY CHECK (id = 1),
  installation_id BYTEA NOT NULL,
  organization    TEXT NOT NULL,
  status_url      TEXT NOT NULL,
  quickstart      BIGINT NOT NULL,
  restore_epoch   BIGINT NOT NULL,
  created_at      BIGINT NOT NULL
);

-- The epoch of the control plane. STORE holds it shared, every change of
-- authorities, profiles, products and labels raises it.
CREATE TABLE control (
  id    BIGINT PRIMARY KEY CHECK (id = 1),
  epoch BIGINT NOT NULL
);
INSERT INTO control (id, epoch) VALUES (1, 1);

CREATE TABLE clock_mark (
  id      BIGINT PRIMARY KEY CHECK (id = 1),
  mark_at BIGINT NOT NULL
);
INSERT INTO clock_mark (id, mark_at) VALUES (1, 0);

CREATE TABLE device (
  id              BIGINT PRIMARY KEY, -- keyed 63-bit hash of device_serial
  device_serial   TEXT NOT NULL,
  product         BIGINT NOT NULL,
  site            BIGINT NOT NULL,
  owner           BIGINT NOT NULL,
  region          TEXT NOT NULL,
  labels          TEXT NOT NULL, -- JSON object
  state           BIGINT NOT NULL,
  version         BIGINT NOT NULL,
  slots           TEXT NOT NULL, -- "|idevid=17;|ldevid/cloud=23;", the current credentials
  secret_hash     BYTEA,
  secret_spent_at BIGINT NOT NULL,
  secret_spki     BYTEA,
  registered_at   BIGINT NOT NULL,
  changed_at      BIGINT NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX device_product ON device (product, id);

CREATE TABLE credential (
  id              BIGINT PRIMARY KEY, -- dense, leased before signing
  cert_serial     BYTEA NOT NULL,
  authority       BIGINT NOT NULL,
  authority_index BIGINT NOT NULL,
  profile         BIGINT NOT NULL,
  kind            TEXT NOT NULL,
  purpose         TEXT NOT NULL,
  device          BIGINT NOT NULL,
  product         BIGINT NOT NULL,
  site            BIGINT NOT NULL,
  owner           BIGINT NOT NULL,
  state           BIGINT NOT NULL,
  reason          BIGINT NOT NULL,
  revoked_at      BIGINT NOT NULL,
  key_kind        BIGINT NOT NULL,
  not_before      BIGINT NOT NULL,
  not_after       BIGINT NOT NULL,
  spki            BYTEA NOT NULL,
  idempotency     BYTEA NOT NULL,
  previous        BIGINT NOT NULL,
  issued_at       BIGINT NOT NULL,
  confirmed_at    BIGINT NOT NULL,
  der             BYTEA NOT NULL
);
CREATE INDEX credential_product ON credential (product, id);

CREATE TABLE spki_key (
  id         BIGINT PRIMARY KEY, -- keyed 63-bit hash of the SPKI's SHA-256
  credential BIGINT NOT NULL     -- the newest of this key; holds the whole digest
);

CREATE TABLE authority_counter (
  authority  BIGINT PRIMARY KEY,
  next_index BIGINT NOT NULL
);

-- Maintained counts: kind 1 devices by state, 2 credentials by state, 3 live
-- credentials by the unix day on which they end.
CREATE TABLE tally (
  product BIGINT NOT NULL,
  site    BIGINT NOT NULL,
  owner   BIGINT NOT NULL,
  kind    BIGINT NOT NULL,
  bucket  BIGINT NOT NULL,
  total   BIGINT NOT NULL,
  PRIMARY KEY (kind, bucket, product, site, owner)
);

CREATE TABLE node (
  name  TEXT PRIMARY KEY,
  fence BIGINT NOT NULL
);

CREATE TABLE serial_head (
  id      BIGINT PRIMARY KEY CHECK (id = 1),
  next_id BIGINT NOT NULL
);
INSERT INTO serial_head (id, next_id) VALUES (1, 1);

CREATE TABLE serial_lease (
  id        BIGINT PRIMARY KEY, -- the first credential id of the block
  node      TEXT NOT NULL,
  fence     BIGINT NOT NULL,
  size      BIGINT NOT NULL,
  seed      BYTEA NOT NULL,
  leased_at BIGINT NOT NULL,
  closed_at BIGINT NOT NULL
);
CREATE INDEX serial_lease_open ON serial_lease (node) WHERE closed_at = 0;

CREATE TABLE lease (
  job        TEXT PRIMARY KEY,
  node       TEXT NOT NULL,
  run        BIGINT NOT NULL, -- the node's fence
  fence      BIGINT NOT NULL,
  expires_at BIGINT NOT NULL
);

CREATE TABLE ledger_head (
  id   BIGINT PRIMARY KEY CHECK (id = 1),
  size BIGINT NOT NULL
);
INSERT INTO ledger_head (id, size) VALUES (1, 0);

-- One row per transaction; leaves are length-prefixed.
CREATE TABLE ledger_batch (
  id      BIGINT PRIMARY KEY, -- index of the first leaf
  size    BIGINT NOT NULL,
  classes BIGINT NOT NULL,
  leaves  BYTEA NOT NULL
);

CREATE TABLE ledger_private (
  id    BIGINT PRIMARY KEY, -- index of the leaf
  salt  BYTEA NOT NULL,
  value TEXT NOT NULL
);

CREATE TABLE ledger_tile (
  level  BIGINT NOT NULL,
  n      BIGINT NOT NULL,
  hashes BYTEA NOT NULL,
  PRIMARY KEY (level, n)
);

CREATE TABLE checkpoint (
  id      BIGINT PRIMARY KEY, -- the tree's size
  root    BYTEA NOT NULL,
  note    BYTEA NOT NULL,
  made_at BIGINT NOT NULL
);

-- Leaves and certificates do not compress; the attempt costs more than it saves.
ALTER TABLE ledger_batch ALTER COLUMN leaves SET STORAGE EXTERNAL;
ALTER TABLE credential ALTER COLUMN der SET STORAGE EXTERNAL;

-- Small rows that every commit rewrites: room on the page keeps the updates
-- there, and early vacuum keeps the page short.
ALTER TABLE ledger_head SET (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE authority_counter SET (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE tally SET (fillfactor = 30, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0);
