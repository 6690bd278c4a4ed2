-- +goose Up

-- The pool of pre-params: sealed sets that nobody has used yet.
CREATE TABLE preparams (
    id        TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
    sealed    BLOB    NOT NULL,
    make_time INTEGER NOT NULL
) STRICT;

CREATE INDEX preparams_by_age ON preparams (make_time);

-- Which moduli (Paillier N, NTilde) a wallet's sets ever used, by their SHA-256. No foreign key: they are
-- reserved before the wallet's first set is made, and outlive sets that were never confirmed.
CREATE TABLE wallet_moduli (
    wallet_id TEXT NOT NULL,
    sha256    BLOB NOT NULL CHECK (length(sha256) = 32),
    PRIMARY KEY (wallet_id, sha256)
) STRICT, WITHOUT ROWID;
