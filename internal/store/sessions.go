package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/mpcd/mpcd/internal/session"
)

// Begin implements session.Sessions. Only Commit stores a session's result.
func (s *Store) Begin(ctx context.Context, n *session.Session,
	e session.Entry) (there *session.Session, created bool, err error) {
	err = s.write(ctx, "begin session "+n.ID, func(tx *sql.Tx) error {
		progress, err := packProgress(&n.Progress)
		if err != nil {
			return err
		}
		reason, culprit, round := packFailure(n.Failure)
		rows, err := exec(ctx, tx, `INSERT INTO sessions (
				id, caller, request_id, fingerprint, wallet_id, share_set_id, operation, state, attempt,
				progress, failure_reason, failure_culprit, failure_round, create_time, expire_time, used_set_id)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (caller, request_id) DO NOTHING`,
			n.ID, n.Caller, n.RequestID, n.Fingerprint, n.WalletID, n.ShareSetID, n.Operation, n.State, n.Attempt,
			progress, reason, culprit, round, micros(n.CreateTime), micros(n.ExpireTime), n.Used)
		if err != nil {
			return err
		}
		created = rows == 1
		if created {
			if err := record(ctx, tx, e); err != nil {
				return err
			}
		}
		there, err = readSession(ctx, tx, "caller = ? AND request_id = ?", n.Caller, n.RequestID)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return there, created, nil
}

// Restart implements session.Sessions.
func (s *Store) Restart(ctx context.Context, n *session.Session, e session.Entry) error {
	return s.write(ctx, "restart session "+n.ID, func(tx *sql.Tx) error {
		progress, err := packProgress(&n.Progress)
		if err != nil {
			return err
		}
		rows, err := exec(ctx, tx, `UPDATE sessions SET state = ?, attempt = ?, progress = ?, expire_time = ?,
				failure_reason = NULL, failure_culprit = NULL, failure_round = NULL, used_set_id = ?, armed = 0
			WHERE id = ? AND attempt = ? AND state = ?`,
			n.State, n.Attempt, progress, micros(n.ExpireTime), n.Used, n.ID, n.Attempt-1, session.Interrupted)
		if err != nil {
			return err
		}
		if rows == 0 {
			return session.ErrSuperseded
		}
		return record(ctx, tx, e)
	})
}

// ByShareSet implements session.Sessions. A signing session has the id of the set that signed, but did not make it.
func (s *Store) ByShareSet(ctx context.Context, shareSetID string) (*session.Session, error) {
	return s.find(ctx, "read session of share set "+shareSetID,
		"share_set_id = ? AND share_set_id <> '' AND operation <> 4", shareSetID)
}

// ByRequest implements session.Sessions.
func (s *Store) ByRequest(ctx context.Context, caller, requestID string) (*session.Session, error) {
	return s.find(ctx, "read session by request "+requestID, "caller = ? AND request_id = ?", caller, requestID)
}

// Session implements session.Sessions.
func (s *Store) Session(ctx context.Context, sessionID string) (*session.Session, error) {
	return s.find(ctx, "read session "+sessionID, "sessions.id = ?", sessionID)
}

func (s *Store) find(ctx context.Context, what, where string, args ...any) (found *session.Session, err error) {
	err = s.read(ctx, what, func(tx *sql.Tx) error {
		found, err = readSession(ctx, tx, where, args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// readSession reads a session and its waiting result.
func readSession(ctx context.Context, tx *sql.Tx, where string, args ...any) (*session.Session, error) {
	var n session.Session
	var progress []byte
	var reason, culprit sql.NullString
	var round sql.NullInt64
	var sealedTo sql.NullBool
	var data []byte
	err := tx.QueryRowContext(ctx, `SELECT sessions.id, caller, request_id, fingerprint, wallet_id, share_set_id,
			operation, state, attempt, progress, failure_reason, failure_culprit, failure_round,
			create_time, expire_time, used_set_id, sealed_to, data
		FROM sessions LEFT JOIN session_results ON session_id = sessions.id WHERE `+where, args...).
		Scan(&n.ID, &n.Caller, &n.RequestID, &n.Fingerprint, &n.WalletID, &n.ShareSetID, &n.Operation, &n.State, &n.Attempt,
			&progress, &reason, &culprit, &round, timeColumn{&n.CreateTime}, timeColumn{&n.ExpireTime}, &n.Used,
			&sealedTo, &data)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, session.ErrSessionNotFound
	}
	if err != nil {
		return nil, err
	}
	if err := unpackProgress(progress, &n.Progress); err != nil {
		return nil, fmt.Errorf("%w: progress of session %s: %w", session.ErrDataCorrupted, n.ID, err)
	}
	if reason.Valid {
		n.Failure = &session.Failure{Reason: reason.String, Culprit: culprit.String, Round: int(round.Int64)}
	}
	if data != nil {
		n.Result = &session.Result{SealedTo: sealedTo.Bool, Data: data}
	}
	return &n, nil
}

// Update implements session.Sessions. It returns ErrSessionNotFound if there is no such session.
func (s *Store) Update(ctx context.Context, n *session.Session, b session.Budget, e session.Entry) error {
	return s.write(ctx, "update session "+n.ID, func(tx *sql.Tx) error { return advance(ctx, tx, n, b, e, "") })
}

// advance stores what a running attempt may change, with e, and with what it costs if that is its end. It fails if
// the attempt is no longer running.
func advance(ctx context.Context, tx *sql.Tx, n *session.Session, b session.Budget, e session.Entry, more string,
	args ...any) error {
	progress, err := packProgress(&n.Progress)
	if err != nil {
		return err
	}
	reason, culprit, round := packFailure(n.Failure)
	args = append([]any{n.ID, n.Attempt, n.State, progress, reason, culprit, round}, args...)
	rows, err := exec(ctx, tx, "UPDATE sessions SET state = ?3, progress = ?4, failure_reason = ?5, "+
		"failure_culprit = ?6, failure_round = ?7"+more+
		" WHERE id = ?1 AND attempt = ?2 AND state IN (1, 2)", args...) // QUEUED, RUNNING: spelled as in the index
	if err != nil {
		return err
	}
	if rows == 0 {
		return superseded(ctx, tx, n)
	}
	if err := record(ctx, tx, e); err != nil || !n.State.Ended() {
		return err
	}
	return charge(ctx, tx, n, b, e)
}

// superseded returns the error for a session that is not running the given attempt, or does not exist.
func superseded(ctx context.Context, tx *sql.Tx, n *session.Session) error {
	if _, err := readSession(ctx, tx, "sessions.id = ?", n.ID); err != nil {
		return err
	}
	return session.ErrSuperseded
}

// Commit implements session.Sessions. The set that was used must still be ACTIVE: revoking a set also revokes its
// descendants, and a descendant committed a moment later would escape that; nor may a signature leave a revoked set.
// It must not be locked either: the runs that were concurrent with those that locked it may be part of the same
// attack.
func (s *Store) Commit(ctx context.Context, n *session.Session, m session.Made, e session.Entry) error {
	what := "commit session " + n.ID
	if err := checkCommit(n, m); err != nil {
		return fmt.Errorf("store: %s: %w", what, err)
	}
	return s.write(ctx, what, func(tx *sql.Tx) error {
		// A success costs nothing.
		if err := advance(ctx, tx, n, session.Budget{}, e, ", share_set_id = ?8, expire_time = ?9", n.ShareSetID,
			micros(n.ExpireTime)); err != nil {
			return err
		}
		if m.Used != "" {
			if _, err := usable(ctx, tx, n.WalletID, m.Used); err != nil {
				return err
			}
		}
		if n.Result != nil {
			if _, err := exec(ctx, tx, "INSERT INTO session_results (session_id, sealed_to, data) VALUES (?, ?, ?)",
				n.ID, n.Result.SealedTo, n.Result.Data); err != nil {
				return fmt.Errorf("result: %w", err)
			}
		}
		if m.Wallet != nil {
			if err := insertWallet(ctx, tx, m.Wallet); err != nil {
				return fmt.Errorf("wallet %s: %w", m.Wallet.ID, err)
			}
		}
		if m.Set != nil {
			if err := insertSet(ctx, tx, m.Set); err != nil {
				return fmt.Errorf("share set %s: %w", m.Set.ID, err)
			}
		}
		return nil
	})
}

// checkCommit checks that the arguments are about the same session, set and wallet.
func checkCommit(n *session.Session, m session.Made) error {
	made, wallet := m.Set, m.Wallet
	switch {
	case n.State != session.Succeeded || n.Failure != nil:
		return errors.New("the session has not succeeded")
	case wallet != nil && (made == nil || made.WalletID != wallet.ID):
		return errors.New("a new wallet without its first share set")
	case made != nil && (made.SessionID != n.ID || made.ID != n.ShareSetID):
		return errors.New("the share set is not the session's")
	case made != nil && made.ParentID != m.Used:
		return errors.New("the share set was made from another one than was used")
	}
	return nil
}

func insertWallet(ctx context.Context, tx *sql.Tx, w *session.Wallet) error {
	if _, err := exec(ctx, tx, "INSERT INTO wallets (id, owner, create_time, hosted_since) VALUES (?, ?, ?, ?)",
		w.ID, w.Owner, micros(w.CreateTime), micros(w.HostedSince)); err != nil {
		return err
	}
	for _, k := range w.Keys {
		if _, err := exec(ctx, tx, "INSERT INTO wallet_keys (wallet_id, curve, public_key) VALUES (?, ?, ?)", w.ID, k.Curve,
			k.Key); err != nil {
			return err
		}
	}
	return nil
}

func insertSet(ctx context.Context, tx *sql.Tx, set *session.StoredSet) error {
	if err := cancelDeletion(ctx, tx, set.ID); err != nil {
		return err
	}
	if _, err := exec(ctx, tx, `INSERT INTO share_sets (id, wallet_id, purpose, method, state, parent_id, display_name,
			create_time, expire_time, revoke_time, record, client_share_sha256, session_id)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		set.ID, set.WalletID, set.Purpose, set.Method, set.State, nullable(set.ParentID), set.DisplayName,
		micros(set.CreateTime), micros(set.ExpireTime), micros(set.RevokeTime), set.Record, set.ClientShare[:],
		set.SessionID); err != nil {
		return err
	}
	for _, h := range set.ServerShare {
		if _, err := exec(ctx, tx, "INSERT INTO share_set_halves (share_set_id, curve, ciphertext) VALUES (?, ?, ?)",
			set.ID, h.Curve, h.Ciphertext); err != nil {
			return err
		}
	}
	return nil
}

// usable returns a set of the wallet if it is ACTIVE and not locked.
func usable(ctx context.Context, tx *sql.Tx, walletID, shareSetID string) (session.ShareSet, error) {
	set, err := setIn(ctx, tx, walletID, shareSetID)
	switch {
	case err != nil:
	case set.State != session.SetActive:
		err = session.ErrShareSetRevoked
	case set.Locked():
		err = session.ErrShareSetLocked
	}
	if err != nil {
		return set, fmt.Errorf("%w: %s, which was used", err, shareSetID)
	}
	return set, nil
}

// InterruptAll implements session.Housekeeper.
func (s *Store) InterruptAll(ctx context.Context, b session.Budget) (int, error) {
	var found []session.Session
	err := s.write(ctx, "interrupt sessions", func(tx *sql.Tx) (err error) {
		found, err = collect(ctx, tx, func(r row, n *session.Session) error {
			return r.Scan(&n.ID, &n.Attempt, &n.Caller, &n.WalletID)
		},
			"SELECT id, attempt, caller, wallet_id FROM sessions WHERE state IN (1, 2) ORDER BY create_time, id")
		if err != nil {
			return err
		}
		if _, err = exec(ctx, tx, "UPDATE sessions SET state = ?, failure_reason = ?, failure_culprit = '', failure_round "+
			"= 0 WHERE state IN (1, 2)",
			session.Interrupted, session.ErrInterrupted.Reason); err != nil {
			return err
		}
		for i := range found {
			n := &found[i]
			n.State = session.Interrupted
			e := session.Entry{
				Time: time.Now(), Caller: n.Caller, Action: "session.end", WalletID: n.WalletID, SessionID: n.ID,
				Outcome: "failed", Reason: session.ErrInterrupted.Reason, Detail: "found unfinished at startup",
			}
			if err := record(ctx, tx, e); err != nil {
				return err
			}
			if err := charge(ctx, tx, n, b, e); err != nil {
				return err
			}
		}
		if err := lockBeyond(ctx, tx, b); err != nil {
			return err
		}
		// No run is left that could commit what it deposited.
		_, err = exec(ctx, tx, "UPDATE custodian_deletions SET due_time = min(due_time, ?) WHERE begun = 0",
			micros(time.Now()))
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(found), nil
}

func packFailure(f *session.Failure) (reason, culprit, round any) {
	if f == nil {
		return nil, nil, nil
	}
	return f.Reason, f.Culprit, f.Round
}

// storedProgress is session.Progress as stored in a row: its field names are part of the schema.
type storedProgress struct {
	Status        session.Status `json:"status"`
	Done          bool           `json:"done,omitempty"`
	Percent       uint32         `json:"percent,omitempty"`
	Curve         session.Curve  `json:"curve,omitempty"`
	Round         uint32         `json:"round,omitempty"`
	Rounds        uint32         `json:"rounds,omitempty"`
	ElapsedMicros int64          `json:"elapsed_us,omitempty"`
	Sequence      uint32         `json:"sequence,omitempty"`
	QueuePosition uint32         `json:"queue_position,omitempty"`
	Attempt       uint32         `json:"attempt,omitempty"`
}

func packProgress(p *session.Progress) (string, error) {
	b, err := json.Marshal(storedProgress{
		Status: p.Status, Done: p.Done, Percent: p.Percent, Curve: p.Curve, Round: p.Round, Rounds: p.Rounds,
		ElapsedMicros: p.Elapsed.Microseconds(), Sequence: p.Sequence, QueuePosition: p.QueuePosition, Attempt: p.Attempt,
	})
	return string(b), err
}

func unpackProgress(b []byte, p *session.Progress) error {
	var w storedProgress
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*p = session.Progress{
		Status: w.Status, Done: w.Done, Percent: w.Percent, Curve: w.Curve, Round: w.Round, Rounds: w.Rounds,
		Elapsed: time.Duration(w.ElapsedMicros) * time.Microsecond, Sequence: w.Sequence, QueuePosition: w.QueuePosition,
		Attempt: w.Attempt,
	}
	return nil
}
