-- The factory: stations, orders, manifests, chips and units. As before: keyed
-- 63-bit hashes for what is looked up by content (chip, chip_key), dense numbers
-- for what is appended (unit has its credential's), counters instead of counting.

CREATE TABLE station (
  id              INTEGER PRIMARY KEY,
  name            TEXT    NOT NULL UNIQUE,
  site            INTEGER NOT NULL,
  state           INTEGER NOT NULL,
  version         INTEGER NOT NULL,
  code_hash       BLOB,
  code_expires_at INTEGER NOT NULL,
  code_spent_at   INTEGER NOT NULL,
  code_spki       BLOB,
  credential      INTEGER NOT NULL,
  created_at      INTEGER NOT NULL,
  changed_at      INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX station_code ON station (code_hash) WHERE code_hash IS NOT NULL;

-- terms grows with every change of what people decide, not with the counts.
CREATE TABLE production_order (
  id           INTEGER PRIMARY KEY,
  number       TEXT    NOT NULL UNIQUE,
  product      INTEGER NOT NULL,
  site         INTEGER NOT NULL,
  state        INTEGER NOT NULL,
  terms        INTEGER NOT NULL,
  quantity     INTEGER NOT NULL,
  spares       INTEGER NOT NULL,
  stations     TEXT    NOT NULL, -- JSON array of ids
  chip_types   TEXT    NOT NULL, -- JSON array
  serial_from  TEXT    NOT NULL,
  serial_to    TEXT    NOT NULL,
  external_ref TEXT    NOT NULL,
  takt         INTEGER NOT NULL, -- microseconds
  grace        INTEGER NOT NULL, -- microseconds
  frozen       INTEGER NOT NULL,
  created_at   INTEGER NOT NULL,
  opened_at    INTEGER NOT NULL,
  closed_at    INTEGER NOT NULL,
  issued       INTEGER NOT NULL,
  live         INTEGER NOT NULL,
  confirmed    INTEGER NOT NULL,
  scrapped     INTEGER NOT NULL,
  shipped      INTEGER NOT NULL,
  activated    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX order_reference ON production_order (external_ref) WHERE external_ref <> '';
CREATE INDEX order_state ON production_order (state, id);
CREATE INDEX order_product ON production_order (product, id);

CREATE TABLE manifest_signer (
  id           INTEGER PRIMARY KEY,
  name         TEXT    NOT NULL UNIQUE,
  format       TEXT    NOT NULL,
  fingerprint  BLOB    NOT NULL,
  certificate  BLOB    NOT NULL,
  pinned_by    TEXT    NOT NULL,
  pinned_at    INTEGER NOT NULL,
  withdrawn_at INTEGER NOT NULL
) STRICT;

CREATE TABLE manifest (
  id           INTEGER PRIMARY KEY,
  name         TEXT    NOT NULL,
  format       TEXT    NOT NULL,
  digest       BLOB    NOT NULL UNIQUE,
  signer       INTEGER NOT NULL,
  product      INTEGER NOT NULL,
  importer     TEXT    NOT NULL,
  imported_at  INTEGER NOT NULL,
  chips        INTEGER NOT NULL,
  not_provable INTEGER NOT NULL,
  findings     TEXT    NOT NULL, -- JSON array
  staged       INTEGER NOT NULL, -- number of the last entry that is staged
  visible      INTEGER NOT NULL  -- 0 staged, 1 seen, 2 discarded
) STRICT;
CREATE INDEX manifest_open ON manifest (visible, id) WHERE visible <> 1;

-- What is staged, as it came: 1 row for each call. Only publishing sorts it into
-- chip and chip_key, in the order of their keys, because rows that go in at
-- random cost a page each.
CREATE TABLE chip_part (
  manifest INTEGER NOT NULL,
  part     INTEGER NOT NULL, -- number of its first entry
  chips    BLOB NOT NULL,
  PRIMARY KEY (manifest, part)
) STRICT;

-- Every vendor that ever was in a manifest, so that a chip is found by its UID.
CREATE TABLE chip_vendor (
  name TEXT PRIMARY KEY
) STRICT;

-- A chip is seen when its manifest is visible.
CREATE TABLE chip (
  id        INTEGER PRIMARY KEY, -- keyed 63-bit hash of vendor and uid
  vendor    TEXT    NOT NULL,
  uid       TEXT    NOT NULL,
  chip_type TEXT    NOT NULL,
  manifest  INTEGER NOT NULL,
  entry     INTEGER NOT NULL,
  product   INTEGER NOT NULL,
  state     INTEGER NOT NULL,
  order_id  INTEGER NOT NULL,
  device    INTEGER NOT NULL,
  keys      BLOB    NOT NULL -- see chipkeys.go
) STRICT;
CREATE INDEX chip_manifest ON chip (manifest, id);
CREATE INDEX chip_order ON chip (order_id, state, id) WHERE order_id <> 0;

CREATE TABLE chip_key (
  id     INTEGER PRIMARY KEY, -- keyed 63-bit hash of the SPKI's SHA-256; the chip holds the key
  chip   INTEGER NOT NULL
) STRICT;

CREATE TABLE nonce_block (
  id         INTEGER PRIMARY KEY,
  order_id   INTEGER NOT NULL,
  station    INTEGER NOT NULL,
  size       INTEGER NOT NULL,
  key        BLOB    NOT NULL,
  used       BLOB    NOT NULL,
  expires_at INTEGER NOT NULL,
  offline    INTEGER NOT NULL
) STRICT;

CREATE TABLE unit (
  id            INTEGER PRIMARY KEY, -- credential of its IDevID
  order_id      INTEGER NOT NULL,
  device        INTEGER NOT NULL,
  chip          INTEGER NOT NULL,
  station       INTEGER NOT NULL,
  state         INTEGER NOT NULL,
  spare         INTEGER NOT NULL,
  reference     TEXT    NOT NULL,
  evidence      TEXT    NOT NULL,
  confirm_nonce BLOB    NOT NULL,
  issued_at     INTEGER NOT NULL,
  confirmed_at  INTEGER NOT NULL,
  ended_at      INTEGER NOT NULL,
  reason        TEXT    NOT NULL,
  shipped_at    INTEGER NOT NULL,
  activated_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX unit_order ON unit (order_id, id);

CREATE TABLE unit_reference (
  id        INTEGER PRIMARY KEY, -- keyed 63-bit hash of order and reference
  order_id  INTEGER NOT NULL,
  reference TEXT    NOT NULL,
  unit      INTEGER NOT NULL
) STRICT;

CREATE TABLE wrapped_key (
  id       INTEGER PRIMARY KEY, -- credential
  wrapped  BLOB    NOT NULL,
  until_at INTEGER NOT NULL
) STRICT;
CREATE INDEX wrapped_key_until ON wrapped_key (until_at);

CREATE TABLE alarm (
  id              INTEGER PRIMARY KEY,
  kind            TEXT    NOT NULL,
  subject         TEXT    NOT NULL,
  state           INTEGER NOT NULL,
  message         TEXT    NOT NULL,
  order_id        INTEGER NOT NULL,
  station         INTEGER NOT NULL,
  product         INTEGER NOT NULL,
  site            INTEGER NOT NULL,
  total           INTEGER NOT NULL,
  raised_at       INTEGER NOT NULL,
  last_at         INTEGER NOT NULL,
  acknowledged_by TEXT    NOT NULL,
  closed_at       INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX alarm_open ON alarm (kind, subject) WHERE state <> 3;
CREATE INDEX alarm_state ON alarm (state, id);
CREATE INDEX alarm_product ON alarm (product, id);

CREATE TABLE kpi (
  order_id INTEGER NOT NULL,
  station  INTEGER NOT NULL,
  day      INTEGER NOT NULL,
  measure  INTEGER NOT NULL,
  bucket   INTEGER NOT NULL,
  site     INTEGER NOT NULL,
  product  INTEGER NOT NULL,
  total    INTEGER NOT NULL,
  PRIMARY KEY (order_id, station, day, measure, bucket, site, product)
) STRICT, WITHOUT ROWID;
CREATE INDEX kpi_day ON kpi (day, product, site);

CREATE TABLE webhook (
  id         INTEGER PRIMARY KEY,
  name       TEXT    NOT NULL UNIQUE,
  url        TEXT    NOT NULL,
  secret     BLOB    NOT NULL,
  events     TEXT    NOT NULL, -- JSON array
  cursor     INTEGER NOT NULL,
  disabled   INTEGER NOT NULL,
  failure    TEXT    NOT NULL,
  created_at INTEGER NOT NULL,
  changed_at INTEGER NOT NULL
) STRICT;

ALTER TABLE product ADD COLUMN chip_types TEXT NOT NULL DEFAULT '[]';
ALTER TABLE product ADD COLUMN key_model TEXT NOT NULL DEFAULT '';
ALTER TABLE product ADD COLUMN idevid_profile TEXT NOT NULL DEFAULT '';
ALTER TABLE product ADD COLUMN serial_pattern TEXT NOT NULL DEFAULT '';
ALTER TABLE product ADD COLUMN external_ref TEXT NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN order_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN chip INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN built_into INTEGER NOT NULL DEFAULT 0;
CREATE INDEX device_built_into ON device (built_into) WHERE built_into <> 0;
