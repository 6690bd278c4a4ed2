-- +goose Up

-- The audit log: append-only, one chain for each wallet, and one, with wallet_id '', for what has no wallet.
CREATE TABLE audit (
    wallet_id    TEXT    NOT NULL,
    n            INTEGER NOT NULL CHECK (n > 0), -- place in the chain, from 1
    time         INTEGER NOT NULL,
    caller       TEXT    NOT NULL,
    action       TEXT    NOT NULL CHECK (action <> ''),
    share_set_id TEXT    NOT NULL,
    session_id   TEXT    NOT NULL,
    outcome      TEXT    NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed')),
    reason       TEXT    NOT NULL,
    detail       TEXT    NOT NULL,
    hash         BLOB    NOT NULL CHECK (length(hash) = 32), -- over the fields above and the hash before
    PRIMARY KEY (wallet_id, n)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

-- INSERT OR REPLACE deletes without asking the trigger above.
CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE wallet_id = NEW.wallet_id AND n = NEW.n)
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

-- What is swept is found by these.
CREATE INDEX sessions_by_share_set ON sessions (share_set_id) WHERE share_set_id <> '';
CREATE INDEX sessions_by_expiry ON sessions (expire_time) WHERE state = 3;
CREATE INDEX sessions_by_age ON sessions (create_time);
CREATE INDEX share_sets_pending ON share_sets (expire_time) WHERE state = 1;
