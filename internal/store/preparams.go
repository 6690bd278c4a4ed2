package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/mpcd/mpcd/internal/session"
)

// AddPreParams keeps a sealed set of pre-params under an id of its own.
func (s *Store) AddPreParams(ctx context.Context, id string, sealed []byte, made time.Time) error {
	return s.write(ctx, "add pre-params", func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, "INSERT INTO preparams (id, sealed, make_time) VALUES (?, ?, ?)", id, sealed, made.UnixMicro())
		return err
	})
}

// ClaimPreParams takes the oldest set out of the pool. It is gone when the method
// returns, so that no two claimants get the same one, whatever process they are in, and
// none gets it again after a crash. Where the pool is empty, id is "".
func (s *Store) ClaimPreParams(ctx context.Context) (id string, sealed []byte, err error) {
	err = s.write(ctx, "claim pre-params", func(tx *sql.Tx) error {
		// Claim and delete are one statement.
		err := tx.QueryRowContext(ctx, `DELETE FROM preparams WHERE id = (SELECT id FROM preparams ORDER BY make_time, id LIMIT 1)
			RETURNING id, sealed`).Scan(&id, &sealed)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return "", nil, err
	}
	return id, sealed, nil
}

// DropPreParams erases the sets that were made before a time, and says how many.
func (s *Store) DropPreParams(ctx context.Context, before time.Time) (dropped int, err error) {
	err = s.write(ctx, "drop pre-params", func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, "DELETE FROM preparams WHERE make_time < ?", before.UnixMicro())
		dropped = int(n)
		return err
	})
	if dropped > 0 && err == nil {
		s.scrub(ctx)
	}
	return dropped, err
}

// CountPreParams says how many sets there are, and when the oldest was made.
func (s *Store) CountPreParams(ctx context.Context) (n int, oldest time.Time, err error) {
	err = s.read(ctx, "count pre-params", func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, "SELECT count(*), min(make_time) FROM preparams").Scan(&n, timeColumn{&oldest})
	})
	return n, oldest, err
}

// ReserveModuli implements session.Wallets.
func (s *Store) ReserveModuli(ctx context.Context, walletID string, sums ...[32]byte) error {
	return s.write(ctx, "reserve moduli", func(tx *sql.Tx) error {
		for _, sum := range sums {
			n, err := exec(ctx, tx, "INSERT INTO wallet_moduli (wallet_id, sha256) VALUES (?, ?) ON CONFLICT DO NOTHING", walletID, sum[:])
			if err != nil {
				return err
			}
			if n == 0 {
				return session.ErrModulusUsed
			}
		}
		return nil
	})
}
