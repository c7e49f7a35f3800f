-- Credentials whose successor has been used: they end when the overlap that
-- their profile grants is over.
CREATE TABLE overlap (
  credential INTEGER PRIMARY KEY,
  ends_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX overlap_ends ON overlap (ends_at, credential);
