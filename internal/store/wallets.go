package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mpcd/mpcd/internal/session"
)

// Wallet implements session.Wallets.
func (s *Store) Wallet(ctx context.Context, walletID string) (*session.Wallet, error) {
	var found []session.Wallet
	err := s.read(ctx, "read wallet "+walletID, func(tx *sql.Tx) (err error) {
		found, err = wallets(ctx, tx, "SELECT id FROM wallets WHERE id = ?1", walletID)
		if err == nil && len(found) == 0 {
			err = session.ErrWalletNotFound
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &found[0], nil
}

// List implements session.Wallets.
func (s *Store) List(ctx context.Context, owner string, after session.Position, limit int) ([]session.Wallet, error) {
	page := "SELECT id FROM wallets WHERE (create_time, id) > (?1, ?2)"
	args := []any{after.CreateTime.UnixMicro(), after.ID, max(limit, 0)} // 0001 is before every wallet
	if owner != "" {
		page, args = page+" AND owner = ?4", append(args, owner)
	}
	page += " ORDER BY create_time, id LIMIT ?3"
	found := []session.Wallet{}
	err := s.read(ctx, "list wallets", func(tx *sql.Tx) (err error) {
		found, err = wallets(ctx, tx, page, args...)
		return err
	})
	return found, err
}

// wallets returns the wallets whose ids the query page yields, oldest first, each with its keys and sets. It makes
// three queries for any number of wallets.
func wallets(ctx context.Context, tx *sql.Tx, page string, args ...any) ([]session.Wallet, error) {
	found, err := collect(ctx, tx, scanWallet,
		"SELECT id, owner, create_time, hosted_since, lock_time, hard_aborts, soft_aborts FROM wallets "+
			"WHERE id IN ("+page+") ORDER BY create_time, id", args...)
	if err != nil {
		return nil, err
	}
	at := make(map[string]*session.Wallet, len(found))
	for i := range found {
		at[found[i].ID] = &found[i]
	}
	keys, err := collect(ctx, tx, scanKey,
		"SELECT wallet_id, curve, public_key FROM wallet_keys WHERE wallet_id IN ("+page+
			") ORDER BY wallet_id, curve", args...)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		at[k.walletID].Keys = append(at[k.walletID].Keys, k.PublicKey)
	}
	sets, err := collect(ctx, tx, scanSet,
		"SELECT "+setColumns+" FROM share_sets WHERE wallet_id IN ("+page+") ORDER BY seq", args...)
	if err != nil {
		return nil, err
	}
	for i := range sets {
		w := at[sets[i].WalletID]
		w.Sets = append(w.Sets, sets[i])
	}
	return found, nil
}

func scanWallet(r row, w *session.Wallet) error {
	return r.Scan(&w.ID, &w.Owner, timeColumn{&w.CreateTime}, timeColumn{&w.HostedSince}, timeColumn{&w.LockTime},
		&w.HardAborts, &w.SoftAborts)
}

type walletKey struct {
	walletID string
	session.PublicKey
}

func scanKey(r row, k *walletKey) error { return r.Scan(&k.walletID, &k.Curve, &k.Key) }

// A set is locked if its wallet is.
const setColumns = `id, wallet_id, purpose, method, state, coalesce(parent_id, ''), display_name,
	create_time, expire_time, revoke_time,
	coalesce(lock_time, (SELECT w.lock_time FROM wallets w WHERE w.id = wallet_id)), aborts, soft_full_time`

func scanSet(r row, s *session.ShareSet) error { return r.Scan(setFields(s)...) }

func setFields(s *session.ShareSet) []any {
	return []any{&s.ID, &s.WalletID, &s.Purpose, &s.Method, &s.State, &s.ParentID, &s.DisplayName,
		timeColumn{&s.CreateTime}, timeColumn{&s.ExpireTime}, timeColumn{&s.RevokeTime}, timeColumn{&s.LockTime}, &s.Aborts,
		timeColumn{&s.SoftFullTime}}
}

// Set implements session.Wallets.
func (s *Store) Set(ctx context.Context, walletID, shareSetID string) (*session.StoredSet, error) {
	var set session.StoredSet
	err := s.read(ctx, "read share set "+shareSetID, func(tx *sql.Tx) error {
		var sum []byte
		err := tx.QueryRowContext(ctx,
			"SELECT "+setColumns+`, record, client_share_sha256, session_id,
				(SELECT w.hard_aborts FROM wallets w WHERE w.id = wallet_id),
				(SELECT w.soft_aborts FROM wallets w WHERE w.id = wallet_id)
			FROM share_sets WHERE wallet_id = ? AND id = ?`,
			walletID, shareSetID).
			Scan(append(setFields(&set.ShareSet), &set.Record, &sum, &set.SessionID, &set.WalletHard, &set.WalletSoft)...)
		if errors.Is(err, sql.ErrNoRows) {
			return session.ErrShareSetNotFound
		}
		if err != nil {
			return err
		}
		copy(set.ClientShare[:], sum) // 32 bytes: the table checks it
		set.ServerShare, err = collect(ctx, tx, scanHalf,
			"SELECT curve, ciphertext FROM share_set_halves WHERE share_set_id = ? AND ciphertext IS NOT NULL ORDER BY curve",
			shareSetID)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &set, nil
}

// setIn returns a set without the fields that only a run needs, or ErrShareSetNotFound.
func setIn(ctx context.Context, tx *sql.Tx, walletID, shareSetID string) (set session.ShareSet, err error) {
	err = scanSet(tx.QueryRowContext(ctx, "SELECT "+setColumns+" FROM share_sets WHERE wallet_id = ? AND id = ?", walletID,
		shareSetID), &set)
	if errors.Is(err, sql.ErrNoRows) {
		err = session.ErrShareSetNotFound
	}
	return set, err
}

func scanHalf(r row, h *session.Sealed) error { return r.Scan(&h.Curve, &h.Ciphertext) }

// Confirm implements session.Wallets.
func (s *Store) Confirm(ctx context.Context, walletID, shareSetID string, e session.Entry) (changed bool, err error) {
	err = s.write(ctx, "confirm share set "+shareSetID, func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, "UPDATE share_sets SET state = ?, expire_time = NULL WHERE wallet_id = ? AND id = ? AND "+
			"state = ?",
			session.SetActive, walletID, shareSetID, session.SetPending)
		if err != nil {
			return err
		}
		if n == 0 {
			return exists(ctx, tx, walletID, shareSetID)
		}
		changed = true
		if err := eraseResult(ctx, tx, shareSetID); err != nil {
			return err
		}
		return record(ctx, tx, e)
	})
	if err != nil {
		return false, err
	}
	if changed {
		s.scrub(ctx)
	}
	return changed, nil
}

func exists(ctx context.Context, tx *sql.Tx, walletID, shareSetID string) error {
	var n int
	err := tx.QueryRowContext(ctx, "SELECT count(*) FROM share_sets WHERE wallet_id = ? AND id = ?", walletID,
		shareSetID).Scan(&n)
	if err == nil && n == 0 {
		return session.ErrShareSetNotFound
	}
	return err
}

// Revoke implements session.Wallets. It returns ErrWalletNotFound if there is no such wallet, and ErrShareSetNotFound
// if pick names a set of another wallet. Revoking a set also erases the results that wait: the client share of a
// PENDING set, which cannot be confirmed any more, and signatures made with the set.
func (s *Store) Revoke(ctx context.Context, walletID string, at time.Time,
	pick func([]session.ShareSet) ([]string, error), e session.Entry) error {
	var refused error
	erased := false
	err := s.write(ctx, "revoke share sets of wallet "+walletID, func(tx *sql.Tx) error {
		found, err := wallets(ctx, tx, "SELECT id FROM wallets WHERE id = ?1", walletID)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return session.ErrWalletNotFound
		}
		sets := found[0].Sets
		// pick gets a copy, so that its changes to it cannot alter what is erased.
		ids, err := pick(slices.Clone(sets))
		if err != nil {
			refused = err
			return err
		}
		for _, id := range ids {
			i := slices.IndexFunc(sets, func(s session.ShareSet) bool { return s.ID == id })
			if i < 0 {
				return fmt.Errorf("%w: %s", session.ErrShareSetNotFound, id)
			}
			if sets[i].State == session.SetRevoked {
				continue
			}
			if err := revoke(ctx, tx, id, at); err != nil {
				return err
			}
			e.ShareSetID = id
			if err := record(ctx, tx, e); err != nil {
				return err
			}
			erased = true
		}
		return nil
	})
	if refused != nil {
		return refused
	}
	if err == nil && erased {
		s.scrub(ctx)
	}
	return err
}

func revoke(ctx context.Context, tx *sql.Tx, shareSetID string, at time.Time) error {
	if _, err := exec(ctx, tx, "UPDATE share_sets SET state = ?, expire_time = NULL, revoke_time = ? WHERE id = ?",
		session.SetRevoked, micros(at), shareSetID); err != nil {
		return err
	}
	if err := scheduleDeletion(ctx, tx, shareSetID, at); err != nil {
		return err
	}
	// Emptied, not deleted: see doc.go.
	if _, err := exec(ctx, tx, "UPDATE share_set_halves SET ciphertext = NULL WHERE share_set_id = ?",
		shareSetID); err != nil {
		return err
	}
	// The results of the session that made it, and of those that signed with it: a signature is not handed out again.
	_, err := exec(ctx, tx, `UPDATE session_results SET data = NULL WHERE data IS NOT NULL AND session_id IN
		(SELECT id FROM sessions WHERE share_set_id = ? AND share_set_id <> '')`, shareSetID)
	return err
}

// eraseResult erases the result that waits in the session that made a set.
func eraseResult(ctx context.Context, tx *sql.Tx, shareSetID string) error {
	_, err := exec(ctx, tx, "UPDATE session_results SET data = NULL WHERE session_id = (SELECT session_id FROM "+
		"share_sets WHERE id = ?)", shareSetID)
	return err
}
