package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/mpcd/mpcd/internal/session"
)

// Sweep implements session.Housekeeper.
func (s *Store) Sweep(ctx context.Context, now time.Time, keep time.Duration) (session.Swept, error) {
	var swept session.Swept
	err := s.write(ctx, "sweep", func(tx *sql.Tx) error {
		var err error
		if swept, err = sweepSets(ctx, tx, now); err != nil {
			return err
		}
		if swept.Results, err = sweepResults(ctx, tx, now); err != nil {
			return err
		}
		// Not before its result was erased, whatever keep is: the result is found only through its session.
		n, err := exec(ctx, tx, `DELETE FROM sessions WHERE create_time < ? AND state NOT IN (1, 2) AND NOT EXISTS
			(SELECT 1 FROM session_results WHERE session_id = sessions.id AND data IS NOT NULL)`, micros(now.Add(-keep)))
		swept.Sessions = int(n)
		return err
	})
	if err != nil {
		return session.Swept{}, err
	}
	if swept.Sets+swept.Results > 0 {
		s.scrub(ctx)
	}
	return swept, nil
}

// sweepSets erases expired PENDING sets, and wallets that never had another set.
func sweepSets(ctx context.Context, tx *sql.Tx, now time.Time) (swept session.Swept, err error) {
	type pending struct{ walletID, id, sessionID string }
	due, err := collect(ctx, tx, func(r row, p *pending) error { return r.Scan(&p.walletID, &p.id, &p.sessionID) },
		"SELECT wallet_id, id, session_id FROM share_sets WHERE state = 1 AND expire_time <= ? ORDER BY seq", micros(now))
	if err != nil {
		return swept, err
	}
	for _, p := range due {
		if err := scheduleDeletion(ctx, tx, p.id, now); err != nil {
			return swept, err
		}
		if _, err := exec(ctx, tx, "UPDATE share_set_halves SET ciphertext = NULL WHERE share_set_id = ?", p.id); err != nil {
			return swept, err
		}
		if err := eraseResult(ctx, tx, p.id); err != nil {
			return swept, err
		}
		if _, err := exec(ctx, tx, "DELETE FROM share_sets WHERE id = ?", p.id); err != nil {
			return swept, err
		}
		if _, err := exec(ctx, tx, "UPDATE sessions SET state = ? WHERE id = ? AND state = ?", session.Expired, p.sessionID,
			session.Succeeded); err != nil {
			return swept, err
		}
		n, err := exec(ctx, tx, "DELETE FROM wallets WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM share_sets WHERE "+
			"wallet_id = ?1)", p.walletID)
		if err != nil {
			return swept, err
		}
		swept.Sets++
		swept.Wallets += int(n)
		e := session.Entry{Time: now, Action: "share_set.expire", WalletID: p.walletID, ShareSetID: p.id,
			SessionID: p.sessionID, Outcome: "ok"}
		if err := record(ctx, tx, e); err != nil {
			return swept, err
		}
	}
	return swept, nil
}

// sweepResults erases expired results that still wait: signatures that were not fetched again.
func sweepResults(ctx context.Context, tx *sql.Tx, now time.Time) (int, error) {
	n, err := exec(ctx, tx, `UPDATE session_results SET data = NULL WHERE data IS NOT NULL AND session_id IN
		(SELECT id FROM sessions WHERE state = 3 AND expire_time <= ?)`, micros(now))
	if err != nil {
		return 0, err
	}
	_, err = exec(ctx, tx, `UPDATE sessions SET state = ? WHERE state = 3 AND operation = 4 AND expire_time <= ?`,
		session.Expired, micros(now))
	return int(n), err
}
