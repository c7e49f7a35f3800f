-- The factory: stations, orders, manifests, chips and units. As before: keyed
-- 63-bit hashes for what is looked up by content (chip, chip_key), dense numbers
-- for what is appended (unit has its credential's), counters instead of counting.

CREATE TABLE station (
  id              BIGINT PRIMARY KEY,
  name            TEXT    NOT NULL UNIQUE,
  site            BIGINT NOT NULL,
  state           BIGINT NOT NULL,
  version         BIGINT NOT NULL,
  code_hash       BYTEA,
  code_expires_at BIGINT NOT NULL,
  code_spent_at   BIGINT NOT NULL,
  code_spki       BYTEA,
  credential      BIGINT NOT NULL,
  created_at      BIGINT NOT NULL,
  changed_at      BIGINT NOT NULL
);
CREATE UNIQUE INDEX station_code ON station (code_hash) WHERE code_hash IS NOT NULL;

-- terms grows with every change of what people decide, not with the counts.
CREATE TABLE production_order (
  id           BIGINT PRIMARY KEY,
  number       TEXT    NOT NULL UNIQUE,
  product      BIGINT NOT NULL,
  site         BIGINT NOT NULL,
  state        BIGINT NOT NULL,
  terms        BIGINT NOT NULL,
  quantity     BIGINT NOT NULL,
  spares       BIGINT NOT NULL,
  stations     TEXT    NOT NULL, -- JSON array of ids
  chip_types   TEXT    NOT NULL, -- JSON array
  serial_from  TEXT    NOT NULL,
  serial_to    TEXT    NOT NULL,
  external_ref TEXT    NOT NULL,
  takt         BIGINT NOT NULL, -- microseconds
  grace        BIGINT NOT NULL, -- microseconds
  frozen       BIGINT NOT NULL,
  created_at   BIGINT NOT NULL,
  opened_at    BIGINT NOT NULL,
  closed_at    BIGINT NOT NULL,
  issued       BIGINT NOT NULL,
  live         BIGINT NOT NULL,
  confirmed    BIGINT NOT NULL,
  scrapped     BIGINT NOT NULL,
  shipped      BIGINT NOT NULL,
  activated    BIGINT NOT NULL
);
CREATE UNIQUE INDEX order_reference ON production_order (external_ref) WHERE external_ref <> '';
CREATE INDEX order_state ON production_order (state, id);
CREATE INDEX order_product ON production_order (product, id);

CREATE TABLE manifest_signer (
  id           BIGINT PRIMARY KEY,
  name         TEXT    NOT NULL UNIQUE,
  format       TEXT    NOT NULL,
  fingerprint  BYTEA    NOT NULL,
  certificate  BYTEA    NOT NULL,
  pinned_by    TEXT    NOT NULL,
  pinned_at    BIGINT NOT NULL,
  withdrawn_at BIGINT NOT NULL
);

CREATE TABLE manifest (
  id           BIGINT PRIMARY KEY,
  name         TEXT    NOT NULL,
  format       TEXT    NOT NULL,
  digest       BYTEA    NOT NULL UNIQUE,
  signer       BIGINT NOT NULL,
  product      BIGINT NOT NULL,
  importer     TEXT    NOT NULL,
  imported_at  BIGINT NOT NULL,
  chips        BIGINT NOT NULL,
  not_provable BIGINT NOT NULL,
  findings     TEXT    NOT NULL, -- JSON array
  staged       BIGINT NOT NULL, -- number of the last entry that is staged
  visible      BIGINT NOT NULL  -- 0 staged, 1 seen, 2 discarded
);
CREATE INDEX manifest_open ON manifest (visible, id) WHERE visible <> 1;

-- What is staged, as it came: 1 row for each call. Only publishing sorts it into
-- chip and chip_key, in the order of their keys, because rows that go in at
-- random cost a page each.
CREATE TABLE chip_part (
  manifest BIGINT NOT NULL,
  part     BIGINT NOT NULL, -- number of its first entry
  chips    BYTEA NOT NULL,
  PRIMARY KEY (manifest, part)
);

-- Every vendor that ever was in a manifest, so that a chip is found by its UID.
CREATE TABLE chip_vendor (
  name TEXT PRIMARY KEY
);

-- A chip is seen when its manifest is visible.
CREATE TABLE chip (
  id        BIGINT PRIMARY KEY, -- keyed 63-bit hash of vendor and uid
  vendor    TEXT    NOT NULL,
  uid       TEXT    NOT NULL,
  chip_type TEXT    NOT NULL,
  manifest  BIGINT NOT NULL,
  entry     BIGINT NOT NULL,
  product   BIGINT NOT NULL,
  state     BIGINT NOT NULL,
  order_id  BIGINT NOT NULL,
  device    BIGINT NOT NULL,
  keys      BYTEA  NOT NULL -- see chipkeys.go
);
CREATE INDEX chip_manifest ON chip (manifest, id);
CREATE INDEX chip_order ON chip (order_id, state, id) WHERE order_id <> 0;

CREATE TABLE chip_key (
  id     BIGINT PRIMARY KEY, -- keyed 63-bit hash of the SPKI's SHA-256; the chip holds the key
  chip   BIGINT NOT NULL
);

CREATE TABLE nonce_block (
  id         BIGINT PRIMARY KEY,
  order_id   BIGINT NOT NULL,
  station    BIGINT NOT NULL,
  size       BIGINT NOT NULL,
  key        BYTEA    NOT NULL,
  used       BYTEA    NOT NULL,
  expires_at BIGINT NOT NULL,
  offline    BIGINT NOT NULL
);

CREATE TABLE unit (
  id            BIGINT PRIMARY KEY, -- credential of its IDevID
  order_id      BIGINT NOT NULL,
  device        BIGINT NOT NULL,
  chip          BIGINT NOT NULL,
  station       BIGINT NOT NULL,
  state         BIGINT NOT NULL,
  spare         BIGINT NOT NULL,
  reference     TEXT    NOT NULL,
  evidence      TEXT    NOT NULL,
  confirm_nonce BYTEA    NOT NULL,
  issued_at     BIGINT NOT NULL,
  confirmed_at  BIGINT NOT NULL,
  ended_at      BIGINT NOT NULL,
  reason        TEXT    NOT NULL,
  shipped_at    BIGINT NOT NULL,
  activated_at  BIGINT NOT NULL
);
CREATE INDEX unit_order ON unit (order_id, id);

CREATE TABLE unit_reference (
  id        BIGINT PRIMARY KEY, -- keyed 63-bit hash of order and reference
  order_id  BIGINT NOT NULL,
  reference TEXT    NOT NULL,
  unit      BIGINT NOT NULL
);

CREATE TABLE wrapped_key (
  id       BIGINT PRIMARY KEY, -- credential
  wrapped  BYTEA    NOT NULL,
  until_at BIGINT NOT NULL
);
CREATE INDEX wrapped_key_until ON wrapped_key (until_at);

CREATE TABLE alarm (
  id              BIGINT PRIMARY KEY,
  kind            TEXT    NOT NULL,
  subject         TEXT    NOT NULL,
  state           BIGINT NOT NULL,
  message         TEXT    NOT NULL,
  order_id        BIGINT NOT NULL,
  station         BIGINT NOT NULL,
  product         BIGINT NOT NULL,
  site            BIGINT NOT NULL,
  total           BIGINT NOT NULL,
  raised_at       BIGINT NOT NULL,
  last_at         BIGINT NOT NULL,
  acknowledged_by TEXT    NOT NULL,
  closed_at       BIGINT NOT NULL
);
CREATE UNIQUE INDEX alarm_open ON alarm (kind, subject) WHERE state <> 3;
CREATE INDEX alarm_state ON alarm (state, id);
CREATE INDEX alarm_product ON alarm (product, id);

CREATE TABLE kpi (
  order_id BIGINT NOT NULL,
  station  BIGINT NOT NULL,
  day      BIGINT NOT NULL,
  measure  BIGINT NOT NULL,
  bucket   BIGINT NOT NULL,
  site     BIGINT NOT NULL,
  product  BIGINT NOT NULL,
  total    BIGINT NOT NULL,
  PRIMARY KEY (order_id, station, day, measure, bucket, site, product)
);
CREATE INDEX kpi_day ON kpi (day, product, site);

CREATE TABLE webhook (
  id         BIGINT PRIMARY KEY,
  name       TEXT    NOT NULL UNIQUE,
  url        TEXT    NOT NULL,
  secret     BYTEA    NOT NULL,
  events     TEXT    NOT NULL, -- JSON array
  cursor     BIGINT NOT NULL,
  disabled   BIGINT NOT NULL,
  failure    TEXT    NOT NULL,
  created_at BIGINT NOT NULL,
  changed_at BIGINT NOT NULL
);

ALTER TABLE product ADD COLUMN chip_types TEXT NOT NULL DEFAULT '[]';
ALTER TABLE product ADD COLUMN key_model TEXT NOT NULL DEFAULT '';
ALTER TABLE product ADD COLUMN idevid_profile TEXT NOT NULL DEFAULT '';
ALTER TABLE product ADD COLUMN serial_pattern TEXT NOT NULL DEFAULT '';
ALTER TABLE product ADD COLUMN external_ref TEXT NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN order_id BIGINT NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN chip BIGINT NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN built_into BIGINT NOT NULL DEFAULT 0;
CREATE INDEX device_built_into ON device (built_into) WHERE built_into <> 0;

-- Chips' keys and chains do not compress; the attempt costs more than it saves.
ALTER TABLE chip ALTER COLUMN keys SET STORAGE EXTERNAL;
ALTER TABLE chip_part ALTER COLUMN chips SET STORAGE EXTERNAL;
ALTER TABLE wrapped_key ALTER COLUMN wrapped SET STORAGE EXTERNAL;

-- Rows that change after they went in: room on the page keeps the update there.
-- Those that every group of units rewrites get much of it, and early vacuum.
ALTER TABLE production_order SET (fillfactor = 20, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE nonce_block SET (fillfactor = 30, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE kpi SET (fillfactor = 30, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE unit SET (fillfactor = 70);
ALTER TABLE chip SET (fillfactor = 80);
