-- +goose Up

-- A database's incarnation: its life from when it was made, or from when a copy or an older state of it was put to use.
CREATE TABLE incarnation (
    one    INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), -- there is one row
    nonce  BLOB    NOT NULL CHECK (length(nonce) = 16),
    noted  BLOB, -- the nonce that a service noted last in its lock's file; NULL: no service has had the database
    claims INTEGER NOT NULL DEFAULT 0 CHECK (claims >= 0), -- of sets of pre-params, ever
    file   TEXT -- which file the database stands in; NULL: nobody has looked yet
) STRICT;

INSERT INTO incarnation (one, nonce) VALUES (1, randomblob(16));

-- Each set of pre-params is for one party, in one incarnation. Nobody knows whose a set that was made before would be.
UPDATE preparams SET id = NULL, sealed = NULL, make_time = NULL WHERE id IS NOT NULL;
ALTER TABLE preparams ADD COLUMN role INTEGER CHECK (role IN (0, 1)) CHECK ((role IS NULL) = (id IS NULL)); -- 0: CLIENT, 1: SERVER
ALTER TABLE preparams ADD COLUMN incarnation BLOB CHECK ((incarnation IS NULL) = (id IS NULL));
DROP INDEX preparams_by_age;
CREATE INDEX preparams_by_age ON preparams (role, make_time) WHERE id IS NOT NULL;

-- Who made a modulus: 1: a device, 2: the service, 0: not known, since it was noted before this column was there. A device's is new to its
-- wallet and none of the service's; the service's is nowhere in the table.
ALTER TABLE wallet_moduli ADD COLUMN maker INTEGER NOT NULL DEFAULT 0 CHECK (maker IN (0, 1, 2));
CREATE INDEX wallet_moduli_by_sha256 ON wallet_moduli (sha256);
