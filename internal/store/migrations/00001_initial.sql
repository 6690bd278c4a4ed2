-- Times are microseconds since 1970, UTC; NULL is "never" or "not yet". The numbers of purposes, methods, states, operations and
-- curves are those of the API's enums, which never change.
--
-- Bytes that must be erasable (halves, results) stand in tables of their own whose rows are only ever appended and emptied in place,
-- never deleted: see doc.go.

-- +goose Up
CREATE TABLE wallets (
    id           TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
    owner        TEXT    NOT NULL,
    create_time  INTEGER NOT NULL,
    hosted_since INTEGER
) STRICT;

CREATE INDEX wallets_by_owner ON wallets (owner, id);

CREATE TABLE wallet_keys (
    wallet_id  TEXT    NOT NULL REFERENCES wallets (id) ON DELETE CASCADE,
    curve      INTEGER NOT NULL CHECK (curve IN (1, 2)),
    public_key BLOB    NOT NULL CHECK (length(public_key) > 0),
    PRIMARY KEY (wallet_id, curve)
) STRICT;

CREATE TABLE share_sets (
    seq                 INTEGER NOT NULL PRIMARY KEY, -- order of creation, whatever the clock did
    id                  TEXT    NOT NULL UNIQUE CHECK (id <> ''),
    wallet_id           TEXT    NOT NULL REFERENCES wallets (id) ON DELETE CASCADE,
    purpose             INTEGER NOT NULL,
    method              INTEGER NOT NULL,
    state               INTEGER NOT NULL CHECK (state IN (1, 2, 3)),
    parent_id           TEXT,
    display_name        TEXT    NOT NULL,
    create_time         INTEGER NOT NULL,
    expire_time         INTEGER CHECK (expire_time IS NULL OR state = 1),
    revoke_time         INTEGER CHECK ((revoke_time IS NOT NULL) = (state = 3)),
    record              BLOB    NOT NULL,
    client_share_sha256 BLOB    NOT NULL CHECK (length(client_share_sha256) = 32),
    -- No foreign key: a session is swept after a month, its set is not.
    session_id          TEXT    NOT NULL,
    UNIQUE (wallet_id, id),
    -- A parent is of the same wallet. It cannot be deleted before its descendants, and with its wallet they all go in one statement.
    FOREIGN KEY (wallet_id, parent_id) REFERENCES share_sets (wallet_id, id) ON DELETE NO ACTION,
    -- Only a BACKUP set has a method.
    CHECK ((purpose = 1 AND method = 0) OR (purpose = 2 AND method BETWEEN 1 AND 6))
) STRICT;

CREATE INDEX share_sets_by_parent ON share_sets (wallet_id, parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE share_set_halves (
    id           INTEGER NOT NULL PRIMARY KEY,
    share_set_id TEXT REFERENCES share_sets (id) ON DELETE SET NULL, -- the row stays, or a delete would move its neighbours
    curve        INTEGER NOT NULL CHECK (curve IN (1, 2)),
    ciphertext   BLOB, -- NULL once erased
    UNIQUE (share_set_id, curve)
) STRICT;

CREATE TABLE sessions (
    id              TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
    caller          TEXT    NOT NULL,
    request_id      TEXT    NOT NULL,
    fingerprint     BLOB    NOT NULL,
    -- No foreign keys: a session is recorded before the wallet and the set that it makes, and outlives what is swept.
    wallet_id       TEXT    NOT NULL,
    share_set_id    TEXT    NOT NULL,
    operation       INTEGER NOT NULL CHECK (operation BETWEEN 1 AND 4),
    state           INTEGER NOT NULL CHECK (state BETWEEN 1 AND 7),
    attempt         INTEGER NOT NULL CHECK (attempt >= 0),
    progress        TEXT    NOT NULL CHECK (json_valid(progress)), -- read and written whole; nothing asks for a part of it
    failure_reason  TEXT,
    failure_culprit TEXT,
    failure_round   INTEGER,
    create_time     INTEGER NOT NULL,
    expire_time     INTEGER,
    UNIQUE (caller, request_id),
    CHECK ((failure_reason IS NULL) = (failure_culprit IS NULL) AND (failure_reason IS NULL) = (failure_round IS NULL))
) STRICT;

CREATE INDEX sessions_not_ended ON sessions (state) WHERE state IN (1, 2);

CREATE TABLE session_results (
    id         INTEGER NOT NULL PRIMARY KEY,
    session_id TEXT UNIQUE REFERENCES sessions (id) ON DELETE SET NULL, -- as in share_set_halves
    sealed_to  INTEGER NOT NULL CHECK (sealed_to IN (0, 1)),
    data       BLOB CHECK (length(data) > 0) -- NULL once erased
) STRICT;

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;
