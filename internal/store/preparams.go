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
		n, err := exec(ctx, tx, `UPDATE preparams SET id = ?, sealed = ?, make_time = ? WHERE seq = (SELECT min(seq) FROM preparams WHERE id IS NULL)`,
			id, sealed, made.UnixMicro())
		if err != nil || n == 1 {
			return err
		}
		_, err = exec(ctx, tx, "INSERT INTO preparams (id, sealed, make_time) VALUES (?, ?, ?)", id, sealed, made.UnixMicro())
		return err
	})
}

// ClaimPreParams takes the oldest set out of the pool. It is erased when the method
// returns, so that no two claimants get the same one, whatever process they are in, and
// none gets it again after a crash. Where the pool is empty, id is "".
func (s *Store) ClaimPreParams(ctx context.Context) (id string, sealed []byte, err error) {
	err = s.write(ctx, "claim pre-params", func(tx *sql.Tx) error {
		// No other writer comes between the two statements (BEGIN IMMEDIATE). One would do,
		// DELETE ... RETURNING, but a deleted row leaves traces.
		var seq int64
		err := tx.QueryRowContext(ctx, "SELECT seq, id, sealed FROM preparams WHERE id IS NOT NULL ORDER BY make_time, seq LIMIT 1").Scan(&seq, &id, &sealed)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = exec(ctx, tx, "UPDATE preparams SET id = NULL, sealed = NULL, make_time = NULL WHERE seq = ?", seq)
		return err
	})
	if err != nil {
		return "", nil, err
	}
	if id != "" {
		s.scrub(ctx)
	}
	return id, sealed, nil
}

// DropPreParams erases the sets that were made before a time, and says how many.
func (s *Store) DropPreParams(ctx context.Context, before time.Time) (dropped int, err error) {
	err = s.write(ctx, "drop pre-params", func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, "UPDATE preparams SET id = NULL, sealed = NULL, make_time = NULL WHERE make_time < ?", before.UnixMicro())
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
		return tx.QueryRowContext(ctx, "SELECT count(id), min(make_time) FROM preparams").Scan(&n, timeColumn{&oldest})
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
