-- Hardware proof: whose TPMs are genuine, which firmware is released, what was
-- shown for each credential, and which TPM is whose.

CREATE TABLE tpm_roots (
  id          BIGINT PRIMARY KEY,
  name        TEXT   NOT NULL,
  version     BIGINT NOT NULL,
  content     BYTEA  NOT NULL,
  digest      BYTEA  NOT NULL,
  signer      BYTEA  NOT NULL,
  repinned    BIGINT NOT NULL,
  imported_by TEXT   NOT NULL,
  imported_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX tpm_roots_version ON tpm_roots (name, version);

-- A policy without content says that the product has none any more.
CREATE TABLE tpm_policy (
  id      BIGINT PRIMARY KEY,
  product BIGINT NOT NULL,
  version BIGINT NOT NULL,
  content BYTEA  NOT NULL,
  digest  BYTEA  NOT NULL,
  author  TEXT   NOT NULL,
  set_at  BIGINT NOT NULL
);
CREATE UNIQUE INDEX tpm_policy_version ON tpm_policy (product, version);

-- Challenges that were answered. Their ids begin with the time, so that rows go in
-- at the end and are pruned from the start.
CREATE TABLE attest_ticket (
  id         BYTEA  PRIMARY KEY,
  expires_at BIGINT NOT NULL
);

-- One row. It and attest_ticket are in no backup: a restored installation forgets
-- which tickets were spent, so it must not take those of its former life.
CREATE TABLE attest_key (
  id         BIGINT PRIMARY KEY,
  ticket_key BYTEA  NOT NULL
);

CREATE TABLE evidence (
  id      BIGINT PRIMARY KEY, -- credential
  device  BIGINT NOT NULL,
  kind    TEXT   NOT NULL,
  claims  BIGINT NOT NULL,
  content BYTEA  NOT NULL,
  digest  BYTEA  NOT NULL,
  made_at BIGINT NOT NULL
);

-- A TPM as it was seen last. clock and firmware are 64 bits without sign.
CREATE TABLE tpm (
  id            BIGINT PRIMARY KEY, -- keyed 63-bit hash of the EK's digest
  ek            BYTEA  NOT NULL,
  device        BIGINT NOT NULL,
  chip          BIGINT NOT NULL,
  ak            BYTEA  NOT NULL,
  plain         BIGINT NOT NULL,
  reset_count   BIGINT NOT NULL,
  restart_count BIGINT NOT NULL,
  clock         BIGINT NOT NULL,
  safe          BIGINT NOT NULL,
  firmware      BIGINT NOT NULL,
  vendor        TEXT   NOT NULL,
  model         TEXT   NOT NULL,
  seen_at       BIGINT NOT NULL
);
CREATE INDEX tpm_device ON tpm (device);

ALTER TABLE authority ADD COLUMN hardware_model TEXT NOT NULL DEFAULT '';
ALTER TABLE authority ADD COLUMN hardware_certificate TEXT NOT NULL DEFAULT '';
ALTER TABLE authority ADD COLUMN hardware_level TEXT NOT NULL DEFAULT '';
