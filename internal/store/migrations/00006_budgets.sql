-- +goose Up

-- Soft aborts of a share set: runs that ended between arming and disarming (docs/adr/0007). They fill a bucket that empties by one a day;
-- this is when it is empty, and the whole budget there, again. NULL or past: it is.
ALTER TABLE share_sets ADD COLUMN soft_full_time INTEGER;

-- The same for all sets of a wallet, whose shares are of one key. Hard aborts are those of its sets that nobody has released.
ALTER TABLE wallets ADD COLUMN hard_aborts INTEGER NOT NULL DEFAULT 0 CHECK (hard_aborts >= 0);
ALTER TABLE wallets ADD COLUMN soft_aborts INTEGER NOT NULL DEFAULT 0 CHECK (soft_aborts >= 0);
ALTER TABLE wallets ADD COLUMN lock_time INTEGER CHECK (lock_time IS NULL OR hard_aborts + soft_aborts > 0);
UPDATE wallets SET hard_aborts = (SELECT coalesce(sum(aborts), 0) FROM share_sets WHERE wallet_id = wallets.id);

-- The set that a session uses; '' for a new wallet, and for sessions from before this column.
ALTER TABLE sessions ADD COLUMN used_set_id TEXT NOT NULL DEFAULT '';
-- Of the present attempt. 1: it is armed, and whoever ends it charges a soft abort; 2: one was charged.
ALTER TABLE sessions ADD COLUMN armed INTEGER NOT NULL DEFAULT 0 CHECK (armed IN (0, 1, 2));
CREATE INDEX sessions_armed ON sessions (wallet_id) WHERE armed = 1;

-- The attempts that their client broke, each once, whoever ended the session.
CREATE TABLE blames (
    session_id TEXT    NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    attempt    INTEGER NOT NULL,
    PRIMARY KEY (session_id, attempt)
) STRICT, WITHOUT ROWID;
