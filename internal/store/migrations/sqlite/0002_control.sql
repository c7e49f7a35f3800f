-- The control plane (authorities, profiles, products, labels), status and
-- access. Times are unix microseconds, 0 is "not yet". Lists of ids and names
-- are JSON arrays: they are read whole and never searched.

CREATE TABLE authority (
  id          INTEGER PRIMARY KEY,
  name        TEXT    NOT NULL UNIQUE,
  kind        TEXT    NOT NULL,
  state       INTEGER NOT NULL,
  key_uri     TEXT    NOT NULL,
  certificate BLOB,
  parent      INTEGER NOT NULL,
  credential  INTEGER NOT NULL,
  crl_shards  INTEGER NOT NULL,
  created_at  INTEGER NOT NULL,
  changed_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE profile_version (
  id          INTEGER PRIMARY KEY,
  name        TEXT    NOT NULL,
  version     INTEGER NOT NULL,
  body        BLOB    NOT NULL,
  digest      BLOB    NOT NULL,
  author      TEXT    NOT NULL,
  approval    INTEGER NOT NULL,
  imported_at INTEGER NOT NULL,
  UNIQUE (name, version)
) STRICT;

CREATE TABLE product (
  id             INTEGER PRIMARY KEY,
  name           TEXT    NOT NULL UNIQUE,
  description    TEXT    NOT NULL,
  part_numbers   TEXT    NOT NULL,
  profiles       TEXT    NOT NULL,
  least_evidence TEXT    NOT NULL,
  created_at     INTEGER NOT NULL
) STRICT;

CREATE TABLE est_label (
  name    TEXT PRIMARY KEY,
  profile TEXT    NOT NULL,
  purpose TEXT    NOT NULL,
  wrap    INTEGER NOT NULL
) STRICT;

CREATE TABLE site (
  id         INTEGER PRIMARY KEY,
  name       TEXT    NOT NULL UNIQUE,
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE owner (
  id         INTEGER PRIMARY KEY,
  name       TEXT    NOT NULL UNIQUE,
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE operator (
  name       TEXT PRIMARY KEY,
  roles      TEXT    NOT NULL,
  disabled   INTEGER NOT NULL,
  products   TEXT    NOT NULL,
  sites      TEXT    NOT NULL,
  owners     TEXT    NOT NULL,
  sees_all   INTEGER NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE token (
  id         INTEGER PRIMARY KEY,
  name       TEXT    NOT NULL,
  hash       BLOB    NOT NULL UNIQUE,
  actions    TEXT    NOT NULL,
  products   TEXT    NOT NULL,
  sites      TEXT    NOT NULL,
  owners     TEXT    NOT NULL,
  sees_all   INTEGER NOT NULL,
  operator   TEXT    NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  revoked_at INTEGER NOT NULL
) STRICT;

CREATE TABLE approval (
  id           INTEGER PRIMARY KEY,
  kind         TEXT    NOT NULL,
  params       BLOB    NOT NULL,
  digest       BLOB    NOT NULL,
  requester    TEXT    NOT NULL,
  reason       TEXT    NOT NULL,
  state        INTEGER NOT NULL,
  decided_by   TEXT    NOT NULL,
  requested_at INTEGER NOT NULL,
  decided_at   INTEGER NOT NULL,
  expires_at   INTEGER NOT NULL
) STRICT;

CREATE INDEX approval_digest ON approval (digest, id);
CREATE INDEX approval_state ON approval (state, id);

-- What is on a CRL: one row for each revoked or held certificate, in the order
-- in which CRLs are written.
CREATE TABLE revocation (
  authority   INTEGER NOT NULL,
  shard       INTEGER NOT NULL,
  credential  INTEGER NOT NULL,
  cert_serial BLOB    NOT NULL,
  revoked_at  INTEGER NOT NULL,
  reason      INTEGER NOT NULL,
  not_after   INTEGER NOT NULL,
  PRIMARY KEY (authority, shard, credential)
) STRICT, WITHOUT ROWID;
CREATE INDEX revocation_credential ON revocation (credential);

-- The published list of each shard; its bytes are the parts of the same number.
CREATE TABLE crl (
  authority   INTEGER NOT NULL,
  shard       INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  this_update INTEGER NOT NULL,
  next_update INTEGER NOT NULL,
  entries     INTEGER NOT NULL,
  parts       INTEGER NOT NULL,
  digest      BLOB    NOT NULL,
  PRIMARY KEY (authority, shard)
) STRICT, WITHOUT ROWID;

-- Parts are staged before the row in crl points at them. A number is reserved
-- once, so two nodes never mix their parts.
CREATE TABLE crl_part (
  authority INTEGER NOT NULL,
  shard     INTEGER NOT NULL,
  number    INTEGER NOT NULL,
  part      INTEGER NOT NULL,
  data      BLOB    NOT NULL,
  PRIMARY KEY (authority, shard, number, part)
) STRICT;

-- The counter half of CRL numbers, and the newest thisUpdate ever published.
CREATE TABLE crl_number (
  authority   INTEGER NOT NULL,
  shard       INTEGER NOT NULL,
  counter     INTEGER NOT NULL,
  this_update INTEGER NOT NULL,
  PRIMARY KEY (authority, shard)
) STRICT, WITHOUT ROWID;

-- Bulk registrations: rows of device with a batch are staged and seen by nobody
-- until the batch is visible. digest covers the devices staged so far, so that a
-- repeated call goes on where the first one stopped, with the same devices;
-- totals is what the batch adds to tally, as JSON.
CREATE TABLE device_batch (
  id      INTEGER PRIMARY KEY,
  name    TEXT    NOT NULL UNIQUE,
  staged  INTEGER NOT NULL,
  digest  BLOB    NOT NULL,
  totals  TEXT    NOT NULL,
  visible INTEGER NOT NULL
) STRICT;

ALTER TABLE device ADD COLUMN batch INTEGER NOT NULL DEFAULT 0;
CREATE INDEX device_staged ON device (batch) WHERE batch <> 0;
