package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/mpcd/mpcd/internal/session"
)

// The values of sessions.armed.
const (
	notArmed = iota
	isArmed
	wasCharged
)

// Arm implements session.Budgets.
func (s *Store) Arm(ctx context.Context, n *session.Session, b session.Budget) error {
	return s.write(ctx, "arm session "+n.ID, func(tx *sql.Tx) error {
		if err := setArmed(ctx, tx, n, isArmed); err != nil {
			return err
		}
		set, err := usable(ctx, tx, n.WalletID, n.Used)
		if err != nil {
			return err
		}
		var ofSet, ofWallet int
		var soft uint32
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE used_set_id = ?2), count(*),
				(SELECT soft_aborts FROM wallets WHERE id = ?1)
			FROM sessions WHERE wallet_id = ?1 AND armed = 1`, n.WalletID, n.Used).Scan(&ofSet, &ofWallet, &soft); err != nil {
			return err
		}
		return b.CheckArmed(&set, ofSet, soft, ofWallet)
	})
}

// Disarm implements session.Budgets.
func (s *Store) Disarm(ctx context.Context, n *session.Session, e session.Entry) error {
	return s.write(ctx, "disarm session "+n.ID, func(tx *sql.Tx) error {
		if err := setArmed(ctx, tx, n, notArmed); err != nil {
			return err
		}
		if _, err := usable(ctx, tx, n.WalletID, n.Used); err != nil {
			return err
		}
		return record(ctx, tx, e)
	})
}

// setArmed changes a running attempt, and fails if the attempt is no longer running.
func setArmed(ctx context.Context, tx *sql.Tx, n *session.Session, armed int) error {
	rows, err := exec(ctx, tx, "UPDATE sessions SET armed = ? WHERE id = ? AND attempt = ? AND state IN (1, 2)",
		armed, n.ID, n.Attempt)
	if err != nil || rows == 1 {
		return err
	}
	return superseded(ctx, tx, n)
}

// Blame implements session.Budgets.
func (s *Store) Blame(ctx context.Context, n *session.Session, b session.Budget, e session.Entry) error {
	return s.write(ctx, "blame for session "+n.ID, func(tx *sql.Tx) error {
		a, err := accountOf(ctx, tx, n.ID)
		if err != nil || a.used == "" {
			return err
		}
		if a.attempt != n.Attempt {
			a.armed = notArmed // left by an earlier attempt
		}
		fresh, err := hard(ctx, tx, n, a, b, e)
		if err != nil || !fresh {
			return err
		}
		return record(ctx, tx, e)
	})
}

// account is what charge needs to know about a session.
type account struct {
	used    string // the id of the set that it uses
	attempt uint32
	armed   int
}

func accountOf(ctx context.Context, tx *sql.Tx, sessionID string) (a account, err error) {
	err = tx.QueryRowContext(ctx, "SELECT used_set_id, attempt, armed FROM sessions WHERE id = ?", sessionID).
		Scan(&a.used, &a.attempt, &a.armed)
	if errors.Is(err, sql.ErrNoRows) {
		err = session.ErrSessionNotFound
	}
	return a, err
}

// charge charges the set that an attempt used for the attempt's end, as n describes it, in the transaction that
// stores that end. e is the audit entry of the end. Every end of a session goes through here.
func charge(ctx context.Context, tx *sql.Tx, n *session.Session, b session.Budget, e session.Entry) error {
	a, err := accountOf(ctx, tx, n.ID)
	switch {
	case err != nil || a.used == "":
		return err
	case n.State == session.Succeeded && a.armed == isArmed:
		return errors.New("the session is armed, so that no signature may leave")
	case n.Broken():
		_, err = hard(ctx, tx, n, a, b, e)
		return err
	case a.armed == isArmed && !b.Refund:
		return soft(ctx, tx, n, a, b, e)
	case a.armed == isArmed:
		_, err = exec(ctx, tx, "UPDATE sessions SET armed = ? WHERE id = ?", notArmed, n.ID)
	}
	return err
}

// hard charges a hard abort, once per attempt, in place of a soft one. It reports whether this was the first time. A
// set that was revoked meanwhile is not charged: it needs no lock.
func hard(
	ctx context.Context, tx *sql.Tx, n *session.Session, a account, b session.Budget, e session.Entry,
) (fresh bool, err error) {
	rows, err := exec(ctx, tx, "INSERT INTO blames (session_id, attempt) VALUES (?, ?) ON CONFLICT DO NOTHING",
		n.ID, n.Attempt)
	if err != nil || rows == 0 {
		return false, err
	}
	if a.armed == wasCharged {
		if _, _, err := setSoft(ctx, tx, n.WalletID, a.used, b.Refunded, -1); err != nil {
			return false, err
		}
	}
	if a.armed != notArmed {
		if _, err := exec(ctx, tx, "UPDATE sessions SET armed = ? WHERE id = ?", notArmed, n.ID); err != nil {
			return false, err
		}
	}
	if _, err := exec(ctx, tx, "UPDATE share_sets SET aborts = aborts + 1 WHERE wallet_id = ? AND id = ?",
		n.WalletID, a.used); err != nil {
		return false, err
	}
	if _, err := exec(ctx, tx, "UPDATE wallets SET hard_aborts = hard_aborts + 1 WHERE id = ?", n.WalletID); err != nil {
		return false, err
	}
	return true, lockUsed(ctx, tx, n.WalletID, a.used, b, e)
}

// soft charges a soft abort.
func soft(ctx context.Context, tx *sql.Tx, n *session.Session, a account, b session.Budget, e session.Entry) error {
	if _, err := exec(ctx, tx, "UPDATE sessions SET armed = ? WHERE id = ?", wasCharged, n.ID); err != nil {
		return err
	}
	set, ofWallet, err := setSoft(ctx, tx, n.WalletID, a.used, b.Charged, 1)
	if err != nil {
		return err
	}
	c := consequence(e, "share_set.charge", a.used)
	c.Detail += fmt.Sprintf(" soft aborts %d of %d, of the wallet %d of %d",
		b.Soft(&set), b.Set-int(set.Aborts), ofWallet, b.WalletSoft)
	if err := record(ctx, tx, c); err != nil {
		return err
	}
	return lockUsed(ctx, tx, n.WalletID, a.used, b, e)
}

// setSoft changes the soft abort count of a set and of its wallet, and returns both.
func setSoft(
	ctx context.Context, tx *sql.Tx, walletID, shareSetID string, change func(full time.Time) time.Time, n int,
) (set session.ShareSet, ofWallet int, err error) {
	set, err = setIn(ctx, tx, walletID, shareSetID)
	if err != nil {
		return set, 0, err
	}
	set.SoftFullTime = change(set.SoftFullTime)
	if _, err := exec(ctx, tx, "UPDATE share_sets SET soft_full_time = ? WHERE wallet_id = ? AND id = ?",
		micros(set.SoftFullTime), walletID, shareSetID); err != nil {
		return set, 0, err
	}
	err = tx.QueryRowContext(ctx, `UPDATE wallets SET soft_aborts = max(soft_aborts + ?, 0) WHERE id = ?
		RETURNING soft_aborts`, n, walletID).Scan(&ofWallet)
	return set, ofWallet, err
}

// lockUsed locks the set and the wallet if they have reached a limit, from e's time on.
func lockUsed(ctx context.Context, tx *sql.Tx, walletID, shareSetID string, b session.Budget, e session.Entry) error {
	locked, err := exec(ctx, tx, `UPDATE share_sets SET lock_time = ?
		WHERE wallet_id = ? AND id = ? AND state = ? AND lock_time IS NULL AND aborts >= ?`,
		micros(e.Time), walletID, shareSetID, session.SetActive, max(b.Set, 1))
	if err != nil {
		return err
	}
	if locked > 0 {
		if err := record(ctx, tx, consequence(e, "share_set.lock", shareSetID)); err != nil {
			return err
		}
	}
	locked, err = exec(ctx, tx, `UPDATE wallets SET lock_time = ?
		WHERE id = ? AND lock_time IS NULL AND (hard_aborts >= ? OR soft_aborts >= ?)`,
		micros(e.Time), walletID, max(b.Wallet, 1), max(b.WalletSoft, 1))
	if err != nil || locked == 0 {
		return err
	}
	return record(ctx, tx, consequence(e, "wallet.lock", shareSetID))
}

// lockBeyond locks sets and wallets that are at a limit but not locked. No charge leaves them so, but a release that
// did not count or a change of the limits may have. Otherwise they could be neither used nor released.
func lockBeyond(ctx context.Context, tx *sql.Tx, b session.Budget) error {
	type found struct{ walletID, shareSetID string }
	for _, at := range []struct {
		action, find, lock string
		limits             []any
	}{
		{
			"share_set.lock", "SELECT wallet_id, id FROM share_sets WHERE state = 2 AND lock_time IS NULL AND aborts >= ?1",
			"UPDATE share_sets SET lock_time = ?1 WHERE wallet_id = ?2 AND id = ?3", []any{max(b.Set, 1)},
		},
		{
			"wallet.lock", "SELECT id, '' FROM wallets WHERE lock_time IS NULL AND (hard_aborts >= ?1 OR soft_aborts >= ?2)",
			"UPDATE wallets SET lock_time = ?1 WHERE id = ?2 AND ?3 = ''", []any{max(b.Wallet, 1), max(b.WalletSoft, 1)},
		},
	} {
		all, err := collect(ctx, tx, func(r row, f *found) error { return r.Scan(&f.walletID, &f.shareSetID) }, at.find,
			at.limits...)
		if err != nil {
			return err
		}
		for _, f := range all {
			e := session.Entry{
				Time: time.Now(), Action: at.action, WalletID: f.walletID, ShareSetID: f.shareSetID, Outcome: "ok",
				Detail: "found at its limit at the start",
			}
			if _, err := exec(ctx, tx, at.lock, micros(e.Time), f.walletID, f.shareSetID); err != nil {
				return err
			}
			if err := record(ctx, tx, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// consequence returns an audit entry for a consequence of e's event.
func consequence(e session.Entry, action, shareSetID string) session.Entry {
	e.Action, e.ShareSetID, e.Outcome, e.Reason = action, shareSetID, "ok", ""
	return e
}

// Release implements session.Wallets.
func (s *Store) Release(ctx context.Context, walletID, shareSetID string, b session.Budget, e session.Entry) error {
	return s.write(ctx, "release share set "+shareSetID, func(tx *sql.Tx) error {
		set, err := setIn(ctx, tx, walletID, shareSetID)
		if err != nil {
			return err
		}
		if set.State == session.SetRevoked { // keep showing why it was locked
			return session.ErrShareSetRevoked
		}
		found, err := wallets(ctx, tx, "SELECT id FROM wallets WHERE id = ?1", walletID)
		if err != nil {
			return err
		}
		w := &found[0]
		if set.Aborts == 0 && b.Soft(&set) == 0 && w.LockTime.IsZero() {
			return nil
		}
		if _, err := exec(ctx, tx, `UPDATE share_sets SET aborts = 0, lock_time = NULL, soft_full_time = NULL
			WHERE wallet_id = ? AND id = ?`, walletID, shareSetID); err != nil {
			return err
		}
		if w.LockTime.IsZero() {
			_, err = exec(ctx, tx, "UPDATE wallets SET hard_aborts = max(hard_aborts - ?2, 0) WHERE id = ?1",
				walletID, set.Aborts)
		} else {
			_, err = exec(ctx, tx, "UPDATE wallets SET hard_aborts = 0, soft_aborts = 0, lock_time = NULL WHERE id = ?",
				walletID)
		}
		if err != nil {
			return err
		}
		e.Detail = fmt.Sprintf("had aborts %d, soft aborts %d; the wallet %d, soft %d",
			set.Aborts, b.Soft(&set), w.HardAborts, w.SoftAborts)
		if !w.LockTime.IsZero() {
			e.Detail += ", and was locked"
		}
		return record(ctx, tx, e)
	})
}
