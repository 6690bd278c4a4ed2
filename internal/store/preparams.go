package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/mpcd/mpcd/internal/session"
)

// empty is the SET clause that removes a set of pre-params from its row for good.
const empty = `UPDATE preparams SET id = NULL, sealed = NULL, make_time = NULL, role = NULL, incarnation = NULL
	WHERE id IS NOT NULL `

// AddPreParams adds a party's sealed set of pre-params with a new id to the database's present incarnation.
func (s *Store) AddPreParams(ctx context.Context, id string, party session.Party, sealed []byte, made time.Time) error {
	return s.write(ctx, "add pre-params", func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, `UPDATE preparams
			SET id = ?, sealed = ?, make_time = ?, role = ?, incarnation = (SELECT nonce FROM incarnation)
			WHERE seq = (SELECT min(seq) FROM preparams WHERE id IS NULL)`, id, sealed, made.UnixMicro(), party)
		if err != nil || n == 1 {
			return err
		}
		_, err = exec(ctx, tx, `INSERT INTO preparams (id, sealed, make_time, role, incarnation)
			VALUES (?, ?, ?, ?, (SELECT nonce FROM incarnation))`, id, sealed, made.UnixMicro(), party)
		return err
	})
}

// ClaimPreParams takes a party's oldest set of pre-params that was made after a given time in the present
// incarnation. It is erased when the method returns, so that no two claimants in any process get the same one, and
// none gets it again after a crash. If there is none, id is "".
func (s *Store) ClaimPreParams(ctx context.Context, party session.Party,
	after time.Time) (id string, sealed []byte, err error) {
	const what = "claim pre-params"
	var now mark
	err = s.write(ctx, what, func(tx *sql.Tx) error {
		// No other writer comes between the statements (BEGIN IMMEDIATE). DELETE ... RETURNING would be a single
		// statement, but a deleted row leaves traces.
		var seq int64
		err := tx.QueryRowContext(ctx, `SELECT seq, id, sealed FROM preparams
			WHERE id IS NOT NULL AND role = ? AND make_time > ? AND incarnation = (SELECT nonce FROM incarnation)
			ORDER BY make_time, seq LIMIT 1`,
			party, after.UnixMicro()).Scan(&seq, &id, &sealed)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err = exec(ctx, tx, empty+"AND seq = ?", seq); err != nil {
			return err
		}
		now, err = claimed(ctx, tx)
		return err
	})
	if err != nil || id == "" {
		return "", nil, err
	}
	s.scrub(ctx)
	// This must come before the set is used: it is how an older state of the database, which still has the set, is
	// recognised.
	if err := s.beside.note(now); err != nil {
		return "", nil, s.fail(ctx, what, err)
	}
	return id, sealed, nil
}

// DropPreParams erases the sets made before a given time, and returns how many.
func (s *Store) DropPreParams(ctx context.Context, before time.Time) (dropped int, err error) {
	err = s.write(ctx, "drop pre-params", func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, empty+"AND make_time < ?", before.UnixMicro())
		dropped = int(n)
		return err
	})
	if dropped > 0 && err == nil {
		s.scrub(ctx)
	}
	return dropped, err
}

// CountPreParams returns how many sets each party has in the present incarnation, and when the oldest was made.
func (s *Store) CountPreParams(ctx context.Context) (n [2]int, oldest time.Time, err error) {
	err = s.read(ctx, "count pre-params", func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `
			SELECT count(*) FILTER (WHERE role = 0), count(*) FILTER (WHERE role = 1), min(make_time)
			FROM preparams WHERE id IS NOT NULL AND incarnation = (SELECT nonce FROM incarnation)`).
			Scan(&n[0], &n[1], timeColumn{&oldest})
	})
	return n, oldest, err
}

// ReserveModuli implements session.Wallets.
func (s *Store) ReserveModuli(ctx context.Context, walletID string, maker session.Maker, sums ...[32]byte) error {
	// Both lookups use an index: by the primary key, and by sha256.
	used := "SELECT EXISTS (SELECT 1 FROM wallet_moduli WHERE sha256 = ?1 AND (wallet_id = ?2 OR maker <> 1))"
	if maker == session.MadeHere {
		used = "SELECT EXISTS (SELECT 1 FROM wallet_moduli WHERE sha256 = ?1)"
	}
	err := s.write(ctx, "reserve moduli", func(tx *sql.Tx) error {
		for _, sum := range sums {
			var there bool
			if err := tx.QueryRowContext(ctx, used, sum[:], walletID).Scan(&there); err != nil {
				return err
			}
			if there {
				return session.ErrModulusUsed
			}
			const note = "INSERT INTO wallet_moduli (wallet_id, sha256, maker) VALUES (?, ?, ?)"
			if _, err := exec(ctx, tx, note, walletID, sum[:], maker); err != nil {
				return err
			}
		}
		return nil
	})
	if maker == session.MadeHere && errors.Is(err, session.ErrModulusUsed) {
		_, rerr := s.Renew(ctx, "a modulus that the service made came a second time")
		return errors.Join(err, rerr)
	}
	return err
}
