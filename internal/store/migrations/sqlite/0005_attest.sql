-- Hardware proof: whose TPMs are genuine, which firmware is released, what was
-- shown for each credential, and which TPM is whose.

CREATE TABLE tpm_roots (
  id          INTEGER PRIMARY KEY,
  name        TEXT    NOT NULL,
  version     INTEGER NOT NULL,
  content     BLOB    NOT NULL,
  digest      BLOB    NOT NULL,
  signer      BLOB    NOT NULL,
  repinned    INTEGER NOT NULL,
  imported_by TEXT    NOT NULL,
  imported_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX tpm_roots_version ON tpm_roots (name, version);

-- A policy without content says that the product has none any more.
CREATE TABLE tpm_policy (
  id      INTEGER PRIMARY KEY,
  product INTEGER NOT NULL,
  version INTEGER NOT NULL,
  content BLOB    NOT NULL,
  digest  BLOB    NOT NULL,
  author  TEXT    NOT NULL,
  set_at  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX tpm_policy_version ON tpm_policy (product, version);

-- Challenges that were answered. Their ids begin with the time, so that rows go in
-- at the end and are pruned from the start.
CREATE TABLE attest_ticket (
  id         BLOB    PRIMARY KEY,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row. It and attest_ticket are in no backup: a restored installation forgets
-- which tickets were spent, so it must not take those of its former life.
CREATE TABLE attest_key (
  id         INTEGER PRIMARY KEY,
  ticket_key BLOB    NOT NULL
) STRICT;

CREATE TABLE evidence (
  id      INTEGER PRIMARY KEY, -- credential
  device  INTEGER NOT NULL,
  kind    TEXT    NOT NULL,
  claims  INTEGER NOT NULL,
  content BLOB    NOT NULL,
  digest  BLOB    NOT NULL,
  made_at INTEGER NOT NULL
) STRICT;

-- A TPM as it was seen last. clock and firmware are 64 bits without sign.
CREATE TABLE tpm (
  id            INTEGER PRIMARY KEY, -- keyed 63-bit hash of the EK's digest
  ek            BLOB    NOT NULL,
  device        INTEGER NOT NULL,
  chip          INTEGER NOT NULL,
  ak            BLOB    NOT NULL,
  plain         INTEGER NOT NULL,
  reset_count   INTEGER NOT NULL,
  restart_count INTEGER NOT NULL,
  clock         INTEGER NOT NULL,
  safe          INTEGER NOT NULL,
  firmware      INTEGER NOT NULL,
  vendor        TEXT    NOT NULL,
  model         TEXT    NOT NULL,
  seen_at       INTEGER NOT NULL
) STRICT;
CREATE INDEX tpm_device ON tpm (device);

ALTER TABLE authority ADD COLUMN hardware_model TEXT NOT NULL DEFAULT '';
ALTER TABLE authority ADD COLUMN hardware_certificate TEXT NOT NULL DEFAULT '';
ALTER TABLE authority ADD COLUMN hardware_level TEXT NOT NULL DEFAULT '';
