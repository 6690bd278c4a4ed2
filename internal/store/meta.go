package store

import (
	"context"
	"database/sql"
	"errors"
)

// Meta returns the value that the service stored under a key, or nil if there is none.
func (s *Store) Meta(ctx context.Context, key string) (value []byte, err error) {
	err = s.read(ctx, "read meta "+key, func(tx *sql.Tx) error {
		value, err = meta(ctx, tx, key)
		return err
	})
	return value, err
}

// SetMetaOnce stores a value under a key unless it has one, and returns the value that is there afterwards: callers
// that race all get the first one's. A value never changes.
func (s *Store) SetMetaOnce(ctx context.Context, key string, value []byte) (there []byte, err error) {
	err = s.write(ctx, "write meta "+key, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", key,
			value); err != nil {
			return err
		}
		there, err = meta(ctx, tx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return there, nil
}

func meta(ctx context.Context, tx *sql.Tx, key string) (value []byte, err error) {
	err = tx.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return value, err
}
