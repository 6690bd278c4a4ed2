-- +goose Up

-- Wallets are listed in the order of their creation; ids of earlier releases are random.
DROP INDEX wallets_by_owner;
CREATE INDEX wallets_by_owner ON wallets (owner, create_time, id);
