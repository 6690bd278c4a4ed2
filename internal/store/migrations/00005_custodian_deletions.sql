-- +goose Up

-- Share sets whose halves a customer's custodian may keep although nobody can use them, until it was told to delete them. Without
-- foreign keys: a set that was never committed has no row, and a set or a wallet that was swept has none any more.
CREATE TABLE custodian_deletions (
    share_set_id TEXT    NOT NULL PRIMARY KEY CHECK (share_set_id <> ''),
    wallet_id    TEXT    NOT NULL,
    owner        TEXT    NOT NULL,
    due_time     INTEGER NOT NULL,
    begun        INTEGER NOT NULL DEFAULT 0 CHECK (begun IN (0, 1)), -- 1: the custodian may have been told, so the set must not come into being
    tries        INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX custodian_deletions_by_time ON custodian_deletions (due_time);

-- What was revoked before there was this list. A set whose half is here, or was, has rows of halves.
INSERT INTO custodian_deletions (share_set_id, wallet_id, owner, due_time, begun)
    SELECT s.id, s.wallet_id, w.owner, s.revoke_time, 1 FROM share_sets s JOIN wallets w ON w.id = s.wallet_id
    WHERE s.purpose = 2 AND s.state = 3 AND NOT EXISTS (SELECT 1 FROM share_set_halves WHERE share_set_id = s.id);
