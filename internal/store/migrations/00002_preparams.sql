-- +goose Up

-- The pool of pre-params: sealed sets that nobody has used yet. Rows are emptied and used again, never deleted: see doc.go.
CREATE TABLE preparams (
    seq       INTEGER NOT NULL PRIMARY KEY,
    id        TEXT    UNIQUE, -- NULL while the row is empty
    sealed    BLOB,
    make_time INTEGER,
    CHECK ((id IS NULL) = (sealed IS NULL) AND (id IS NULL) = (make_time IS NULL))
) STRICT;

CREATE INDEX preparams_by_age ON preparams (make_time) WHERE id IS NOT NULL;

-- Which moduli (Paillier N, NTilde) a wallet's sets ever used, by their SHA-256. No foreign key: they are
-- reserved before the wallet's first set is made, and outlive sets that were never confirmed.
CREATE TABLE wallet_moduli (
    wallet_id TEXT NOT NULL,
    sha256    BLOB NOT NULL CHECK (length(sha256) = 32),
    PRIMARY KEY (wallet_id, sha256)
) STRICT, WITHOUT ROWID;
