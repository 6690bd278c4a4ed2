-- +goose Up

-- The abort budget of a share set: how many runs its client broke since it was made or released, and since when it is locked for it.
ALTER TABLE share_sets ADD COLUMN aborts INTEGER NOT NULL DEFAULT 0 CHECK (aborts >= 0);
ALTER TABLE share_sets ADD COLUMN lock_time INTEGER CHECK (lock_time IS NULL OR aborts > 0);
