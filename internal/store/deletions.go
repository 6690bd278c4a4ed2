package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/mpcd/mpcd/internal/session"
)

// PlanDeletion implements session.Deletions.
func (s *Store) PlanDeletion(ctx context.Context, d session.Deletion) error {
	return s.write(ctx, "plan the deletion of share set "+d.ShareSetID, func(tx *sql.Tx) error {
		var there int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM share_sets WHERE id = ?",
			d.ShareSetID).Scan(&there); err != nil {
			return err
		}
		if there > 0 {
			return errors.New("the set is committed: it is revoked first")
		}
		_, err := exec(ctx, tx, `
			INSERT INTO custodian_deletions (share_set_id, wallet_id, owner, due_time) VALUES (?, ?, ?, ?)
			ON CONFLICT (share_set_id) DO UPDATE SET due_time = excluded.due_time`,
			d.ShareSetID, d.WalletID, d.Owner, micros(d.Due))
		return err
	})
}

// DueDeletions implements session.Deletions.
func (s *Store) DueDeletions(ctx context.Context, now time.Time, limit int) (due []session.Deletion, err error) {
	const where = " FROM custodian_deletions WHERE due_time <= ?1 ORDER BY due_time, share_set_id LIMIT ?2"
	err = s.read(ctx, "look for due deletions", func(tx *sql.Tx) (err error) {
		due, err = collect(ctx, tx, scanDeletion, "SELECT share_set_id, wallet_id, owner, due_time, tries"+where,
			micros(now), limit)
		return err
	})
	if err != nil || len(due) == 0 { // usually nothing is due: then this writes nothing
		return nil, err
	}
	err = s.write(ctx, "begin due deletions", func(tx *sql.Tx) (err error) {
		due, err = collect(ctx, tx, scanDeletion, "SELECT share_set_id, wallet_id, owner, due_time, tries"+where,
			micros(now), limit)
		if err != nil {
			return err
		}
		for _, d := range due {
			if _, err := exec(ctx, tx, "UPDATE custodian_deletions SET begun = 1 WHERE share_set_id = ?",
				d.ShareSetID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return due, nil
}

func scanDeletion(r row, d *session.Deletion) error {
	return r.Scan(&d.ShareSetID, &d.WalletID, &d.Owner, timeColumn{&d.Due}, &d.Tries)
}

// PostponeDeletion implements session.Deletions.
func (s *Store) PostponeDeletion(ctx context.Context, shareSetID string, until time.Time) error {
	return s.write(ctx, "postpone the deletion of share set "+shareSetID, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, "UPDATE custodian_deletions SET due_time = ?, tries = tries + 1 WHERE share_set_id = ?",
			micros(until), shareSetID)
		return err
	})
}

// EndDeletion implements session.Deletions.
func (s *Store) EndDeletion(ctx context.Context, shareSetID string, e session.Entry) error {
	return s.write(ctx, "end the deletion of share set "+shareSetID, func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, "DELETE FROM custodian_deletions WHERE share_set_id = ?", shareSetID)
		if err != nil || n == 0 {
			return err
		}
		return record(ctx, tx, e)
	})
}

// CancelDeletion takes a committed set off the list of deletions. It fails if its custodian may already have been
// told to.

// delete the server share.
func cancelDeletion(ctx context.Context, tx *sql.Tx, shareSetID string) error {
	if _, err := exec(ctx, tx, "DELETE FROM custodian_deletions WHERE share_set_id = ? AND begun = 0",
		shareSetID); err != nil {
		return err
	}
	var begun int
	err := tx.QueryRowContext(ctx, "SELECT count(*) FROM custodian_deletions WHERE share_set_id = ?",
		shareSetID).Scan(&begun)
	if err == nil && begun > 0 {
		err = fmt.Errorf("%w: its custodian is being told to delete it", session.ErrInterrupted)
	}
	return err
}

// ScheduleDeletion puts a revoked or expired set on the list of deletions if an external custodian keeps its server
// share,.

// which shows in that it has none here, not even an erased one.
func scheduleDeletion(ctx context.Context, tx *sql.Tx, shareSetID string, now time.Time) error {
	_, err := exec(ctx, tx, `INSERT INTO custodian_deletions (share_set_id, wallet_id, owner, due_time, begun)
		SELECT s.id, s.wallet_id, w.owner, ?2, 1 FROM share_sets s JOIN wallets w ON w.id = s.wallet_id
		WHERE s.id = ?1 AND s.purpose = 2 AND NOT EXISTS (SELECT 1 FROM share_set_halves WHERE share_set_id = s.id)
		ON CONFLICT (share_set_id) DO NOTHING`, shareSetID, micros(now))
	return err
}
