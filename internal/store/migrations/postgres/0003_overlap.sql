-- Credentials whose successor has been used: they end when the overlap that
-- their profile grants is over.
CREATE TABLE overlap (
  credential BIGINT PRIMARY KEY,
  ends_at    BIGINT NOT NULL
);
CREATE INDEX overlap_ends ON overlap (ends_at, credential);
