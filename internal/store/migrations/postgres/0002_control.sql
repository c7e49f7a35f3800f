-- The control plane (authorities, profiles, products, labels), status and
-- access. Times are unix microseconds, 0 is "not yet". Lists of ids and names
-- are JSON arrays: they are read whole and never searched.

CREATE TABLE authority (
  id          BIGINT PRIMARY KEY,
  name        TEXT    NOT NULL UNIQUE,
  kind        TEXT    NOT NULL,
  state       BIGINT  NOT NULL,
  key_uri     TEXT    NOT NULL,
  certificate BYTEA,
  parent      BIGINT  NOT NULL,
  credential  BIGINT  NOT NULL,
  crl_shards  BIGINT  NOT NULL,
  created_at  BIGINT  NOT NULL,
  changed_at  BIGINT  NOT NULL
);

CREATE TABLE profile_version (
  id          BIGINT PRIMARY KEY,
  name        TEXT    NOT NULL,
  version     BIGINT  NOT NULL,
  body        BYTEA   NOT NULL,
  digest      BYTEA   NOT NULL,
  author      TEXT    NOT NULL,
  approval    BIGINT  NOT NULL,
  imported_at BIGINT  NOT NULL,
  UNIQUE (name, version)
);

CREATE TABLE product (
  id             BIGINT PRIMARY KEY,
  name           TEXT    NOT NULL UNIQUE,
  description    TEXT    NOT NULL,
  part_numbers   TEXT    NOT NULL,
  profiles       TEXT    NOT NULL,
  least_evidence TEXT    NOT NULL,
  created_at     BIGINT  NOT NULL
);

CREATE TABLE est_label (
  name    TEXT PRIMARY KEY,
  profile TEXT    NOT NULL,
  purpose TEXT    NOT NULL,
  wrap    BIGINT  NOT NULL
);

CREATE TABLE site (
  id         BIGINT PRIMARY KEY,
  name       TEXT    NOT NULL UNIQUE,
  created_at BIGINT  NOT NULL
);

CREATE TABLE owner (
  id         BIGINT PRIMARY KEY,
  name       TEXT    NOT NULL UNIQUE,
  created_at BIGINT  NOT NULL
);

CREATE TABLE operator (
  name       TEXT PRIMARY KEY,
  roles      TEXT    NOT NULL,
  disabled   BIGINT  NOT NULL,
  products   TEXT    NOT NULL,
  sites      TEXT    NOT NULL,
  owners     TEXT    NOT NULL,
  sees_all   BIGINT  NOT NULL,
  created_at BIGINT  NOT NULL
);

CREATE TABLE token (
  id         BIGINT PRIMARY KEY,
  name       TEXT    NOT NULL,
  hash       BYTEA   NOT NULL UNIQUE,
  actions    TEXT    NOT NULL,
  products   TEXT    NOT NULL,
  sites      TEXT    NOT NULL,
  owners     TEXT    NOT NULL,
  sees_all   BIGINT  NOT NULL,
  operator   TEXT    NOT NULL,
  created_at BIGINT  NOT NULL,
  expires_at BIGINT  NOT NULL,
  revoked_at BIGINT  NOT NULL
);

CREATE TABLE approval (
  id           BIGINT PRIMARY KEY,
  kind         TEXT    NOT NULL,
  params       BYTEA   NOT NULL,
  digest       BYTEA   NOT NULL,
  requester    TEXT    NOT NULL,
  reason       TEXT    NOT NULL,
  state        BIGINT  NOT NULL,
  decided_by   TEXT    NOT NULL,
  requested_at BIGINT  NOT NULL,
  decided_at   BIGINT  NOT NULL,
  expires_at   BIGINT  NOT NULL
);

CREATE INDEX approval_digest ON approval (digest, id);
CREATE INDEX approval_state ON approval (state, id);

-- What is on a CRL: one row for each revoked or held certificate, in the order
-- in which CRLs are written.
CREATE TABLE revocation (
  authority   BIGINT  NOT NULL,
  shard       BIGINT  NOT NULL,
  credential  BIGINT  NOT NULL,
  cert_serial BYTEA   NOT NULL,
  revoked_at  BIGINT  NOT NULL,
  reason      BIGINT  NOT NULL,
  not_after   BIGINT  NOT NULL,
  PRIMARY KEY (authority, shard, credential)
);
CREATE INDEX revocation_credential ON revocation (credential);

-- The published list of each shard; its bytes are the parts of the same number.
CREATE TABLE crl (
  authority   BIGINT  NOT NULL,
  shard       BIGINT  NOT NULL,
  number      BIGINT  NOT NULL,
  this_update BIGINT  NOT NULL,
  next_update BIGINT  NOT NULL,
  entries     BIGINT  NOT NULL,
  parts       BIGINT  NOT NULL,
  digest      BYTEA   NOT NULL,
  PRIMARY KEY (authority, shard)
);

-- Parts are staged before the row in crl points at them. A number is reserved
-- once, so two nodes never mix their parts.
CREATE TABLE crl_part (
  authority BIGINT  NOT NULL,
  shard     BIGINT  NOT NULL,
  number    BIGINT  NOT NULL,
  part      BIGINT  NOT NULL,
  data      BYTEA   NOT NULL,
  PRIMARY KEY (authority, shard, number, part)
);

-- The counter half of CRL numbers, and the newest thisUpdate ever published.
CREATE TABLE crl_number (
  authority   BIGINT  NOT NULL,
  shard       BIGINT  NOT NULL,
  counter     BIGINT  NOT NULL,
  this_update BIGINT  NOT NULL,
  PRIMARY KEY (authority, shard)
);

-- Bulk registrations: rows of device with a batch are staged and seen by nobody
-- until the batch is visible. digest covers the devices staged so far, so that a
-- repeated call goes on where the first one stopped, with the same devices;
-- totals is what the batch adds to tally, as JSON.
CREATE TABLE device_batch (
  id      BIGINT PRIMARY KEY,
  name    TEXT    NOT NULL UNIQUE,
  staged  BIGINT  NOT NULL,
  digest  BYTEA   NOT NULL,
  totals  TEXT    NOT NULL,
  visible BIGINT  NOT NULL
);

ALTER TABLE device ADD COLUMN batch BIGINT NOT NULL DEFAULT 0;
CREATE INDEX device_staged ON device (batch) WHERE batch <> 0;

-- Signed lists do not compress.
ALTER TABLE crl_part ALTER COLUMN data SET STORAGE EXTERNAL;
