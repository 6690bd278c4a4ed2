package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/mpcd/mpcd/internal/secret"
)

// Wallet returns a wallet with its sets.
func (s *Service) Wallet(ctx context.Context, c Caller, walletID string) (*Wallet, error) {
	return s.wallet(ctx, c, actRead, walletID)
}

func (s *runner) wallet(ctx context.Context, c Caller, a action, walletID string) (*Wallet, error) {
	w, err := s.ports.Wallets.Wallet(ctx, walletID)
	if err != nil {
		return nil, err
	}
	if err := c.authorise(a, w); err != nil {
		return nil, err
	}
	b := s.budget()
	b.count(w)
	return w, nil
}

// List returns up to limit wallets of one owner (empty: the caller), oldest first, and the
// position after which the next page starts, or the zero value.
func (s *Service) List(ctx context.Context, c Caller, owner string, after Position, limit int) (
	page []Wallet, next Position, err error,
) {
	if owner == "" {
		owner = c.Name
	}
	if !c.may(actRead, owner) {
		return nil, next, fmt.Errorf("%w: caller %q may not list the wallets of %q", ErrPermissionDenied, c.Name, owner)
	}
	page, err = s.ports.Wallets.List(ctx, owner, after, limit+1)
	if err != nil {
		return nil, next, err
	}
	if len(page) > limit {
		page = page[:limit]
		next = page[limit-1].Position()
	}
	b := s.budget()
	for i := range page {
		b.count(&page[i])
	}
	return page, next, nil
}

// Session returns a session of the caller, with the latest progress where it is live.
func (s *Service) Session(ctx context.Context, c Caller, sessionID string) (*Session, error) {
	rec, err := s.session(ctx, sessionID)
	if err != nil {
		return nil, err
	}
	if err := c.authoriseSession(rec); err != nil {
		return nil, err
	}
	if rec.State.Ended() {
		return rec, nil
	}
	if r := s.running(rec); r != nil {
		rec.Progress = r.last()
		return rec, nil
	}
	// It ended a moment ago; or its end could not be stored, and the next call of the same
	// request will find that nobody runs it.
	if rec, err = s.ports.Sessions.Session(ctx, sessionID); err == nil && !rec.State.Ended() && s.running(rec) == nil {
		rec.State, rec.Failure = Interrupted, failure(ErrInterrupted)
	}
	return rec, err
}

// running returns the live run of a session's request, or nil.
func (s *runner) running(rec *Session) *Run {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[runKey{rec.Caller, rec.RequestID}]
}

// Cancel ends a session of the caller at once, for everybody attached to it. It answers
// the session as it stands then: one that had ended already stays as it was.
func (s *Service) Cancel(ctx context.Context, c Caller, sessionID string) (*Session, error) {
	rec, err := s.Session(ctx, c, sessionID)
	if err != nil || rec.State.Ended() {
		return rec, err
	}
	rec.State, rec.Failure = Cancelled, failure(ErrSessionCancelled)
	if s.cancelUnrecorded(sessionID) {
		return rec, nil
	}
	err = s.ports.Sessions.Update(ctx, rec, s.budget(), s.ended(rec, "session.cancel", ErrSessionCancelled))
	if errors.Is(err, ErrSuperseded) { // it ended in the meantime, or began another attempt
		return s.Cancel(ctx, c, sessionID)
	}
	if err != nil {
		return nil, err
	}
	if r := s.running(rec); r != nil {
		r.cancel(ErrSessionCancelled)
	}
	return rec, nil
}

// Err returns the error that a failed session stands for, or nil.
func (rec *Session) Err() error {
	if rec.Failure == nil {
		return nil
	}
	if rec.State == Failed && rec.Failure.Reason == ErrWebhookFailed.Reason { // else it is INTERRUPTED
		return &WebhookError{Permanent: true}
	}
	return rec.Failure.err()
}

// Confirm turns a PENDING set ACTIVE for a caller who shows, by its SHA-256, that it
// holds the set's client share. Confirming twice is fine.
func (s *Service) Confirm(ctx context.Context, c Caller, walletID, shareSetID string, shareSHA256 []byte) (*Wallet, error) {
	w, err := s.confirm(ctx, c, walletID, shareSetID, shareSHA256)
	if err != nil {
		s.refused(ctx, Entry{Caller: c.Name, Action: "share_set.confirm", WalletID: walletID, ShareSetID: shareSetID}, err)
	}
	return w, err
}

func (s *runner) confirm(ctx context.Context, c Caller, walletID, shareSetID string, shareSHA256 []byte) (*Wallet, error) {
	wallet, err := s.wallet(ctx, c, actConfirm, walletID)
	if err != nil {
		return nil, s.orSwept(ctx, c, shareSetID, err)
	}
	set, err := s.ports.Wallets.Set(ctx, walletID, shareSetID)
	if err != nil {
		return nil, s.orSwept(ctx, c, shareSetID, err)
	}
	// Of a wallet that was never hosted, the transcript has shown that the device has the share.
	shown := len(shareSHA256) == 0 && wallet.HostedSince.IsZero()
	switch {
	case len(shareSHA256) == 0 && !shown:
		return nil, &FieldError{"share_sha256", "must be the 32-byte SHA-256 of the plaintext client share"}
	case !shown && subtle.ConstantTimeCompare(set.ClientShare[:], shareSHA256) != 1:
		return nil, fmt.Errorf("%w: set %s: %w", ErrShareSetMismatch, shareSetID, s.wrongHash(ctx, shareSetID, shareSHA256))
	case set.State == SetRevoked:
		return nil, fmt.Errorf("%w: set %s", ErrShareSetRevoked, shareSetID)
	case set.State == SetPending && s.clock.now().After(set.ExpireTime):
		return nil, fmt.Errorf("%w: set %s was not confirmed in time", ErrSessionExpired, shareSetID)
	case set.State == SetPending:
		e := Entry{Time: s.clock.wallNow(), Caller: c.Name, Action: "share_set.confirm", WalletID: walletID, ShareSetID: shareSetID, SessionID: set.SessionID, Outcome: outcomeOK}
		changed, err := s.ports.Wallets.Confirm(ctx, walletID, shareSetID, e)
		if err != nil {
			return nil, s.orSwept(ctx, c, shareSetID, err)
		}
		if !changed { // somebody else confirmed it, or revoked it, a moment ago
			return s.confirm(ctx, c, walletID, shareSetID, shareSHA256)
		}
	}
	return s.wallet(ctx, c, actConfirm, walletID)
}

// What is wrong with the hash of a Confirm that fails with ErrShareSetMismatch.
var (
	ErrHashMismatch = errors.New("the hash is not that of the set's client share")
	ErrHashOfSealed = errors.New("the hash is that of the sealed client share, as it was handed out")
	ErrHashOfText   = errors.New("the hash is that of the base64 text in which the client share was handed out")
)

// wrongHash says what a hash is of, as long as the session that made the set holds what it
// handed out.
func (s *runner) wrongHash(ctx context.Context, shareSetID string, sum []byte) error {
	rec, err := s.ports.Sessions.ByShareSet(ctx, shareSetID)
	if err != nil || rec.Result == nil {
		return ErrHashMismatch
	}
	handed := secret.New(rec.Result.Data)
	if !rec.Result.SealedTo {
		if handed, err = s.ports.Sealer.Open(rec.Result.Data, ResultLabel(rec.WalletID, rec.ID)); err != nil {
			return ErrHashMismatch
		}
		defer handed.Wipe()
	}
	text := base64.StdEncoding.AppendEncode(nil, handed.Reveal()) // as in JSON
	defer clear(text)
	ofBytes, ofText := sha256.Sum256(handed.Reveal()), sha256.Sum256(text)
	switch {
	case rec.Result.SealedTo && bytes.Equal(ofBytes[:], sum):
		return ErrHashOfSealed
	case bytes.Equal(ofText[:], sum):
		return ErrHashOfText
	}
	return ErrHashMismatch
}

// orSwept tells a set that was erased because nobody confirmed it in time from one that
// never was, for the caller who made it.
func (s *runner) orSwept(ctx context.Context, c Caller, shareSetID string, err error) error {
	if !errors.Is(err, ErrWalletNotFound) && !errors.Is(err, ErrShareSetNotFound) {
		return err
	}
	rec, found := s.ports.Sessions.ByShareSet(ctx, shareSetID)
	if found == nil && c.authoriseSession(rec) == nil && rec.State == Expired {
		return fmt.Errorf("%w: set %s was not confirmed in time", ErrSessionExpired, shareSetID)
	}
	return err
}

// Revoke erases the server's share of a set and, unless keepDescendants, of every set
// that was reshared from it. It refuses to take a wallet's last ACTIVE set of a purpose
// unless an admin allows it. Revoking what is revoked is fine.
func (s *Service) Revoke(ctx context.Context, c Caller, walletID, shareSetID string, keepDescendants, allowLast bool) (*Wallet, error) {
	w, err := s.revoke(ctx, c, walletID, shareSetID, keepDescendants, allowLast)
	if err != nil {
		s.refused(ctx, Entry{Caller: c.Name, Action: "share_set.revoke", WalletID: walletID, ShareSetID: shareSetID}, err)
	}
	return w, err
}

func (s *runner) revoke(ctx context.Context, c Caller, walletID, shareSetID string, keepDescendants, allowLast bool) (*Wallet, error) {
	w, err := s.wallet(ctx, c, actRevoke, walletID)
	if err != nil {
		return nil, err
	}
	if allowLast && !c.has(ScopeAdmin) {
		return nil, fmt.Errorf("%w: allow_last needs scope %s", ErrPermissionDenied, ScopeAdmin)
	}
	if _, err := pickRevoked(w.Sets, shareSetID, keepDescendants, allowLast); err != nil { // nobody is asked about what cannot be
		return nil, err
	}
	if err := s.allowed(ctx, Question{Caller: c.Name, Operation: "REVOKE", WalletID: walletID, Owner: w.Owner, ShareSetID: shareSetID}); err != nil {
		return nil, err
	}
	now := s.clock.wallNow()
	err = s.ports.Wallets.Revoke(ctx, walletID, now, func(sets []ShareSet) ([]string, error) {
		return pickRevoked(sets, shareSetID, keepDescendants, allowLast)
	}, Entry{Time: now, Caller: c.Name, Action: "share_set.revoke", WalletID: walletID, Outcome: outcomeOK})
	if err != nil {
		return nil, err
	}
	return s.wallet(ctx, c, actRevoke, walletID)
}

// Release gives a set its whole budget back, and unlocks it and its wallet. It is an admin's
// alone: a thief with the owner's token would release what it has locked. Releasing a set that
// is not locked is fine.
func (s *Service) Release(ctx context.Context, c Caller, walletID, shareSetID string) (*Wallet, error) {
	w, err := s.unlock(ctx, c, walletID, shareSetID)
	if err != nil {
		s.refused(ctx, Entry{Caller: c.Name, Action: "share_set.release", WalletID: walletID, ShareSetID: shareSetID}, err)
	}
	return w, err
}

func (s *runner) unlock(ctx context.Context, c Caller, walletID, shareSetID string) (*Wallet, error) {
	if _, err := s.wallet(ctx, c, actRelease, walletID); err != nil {
		return nil, err
	}
	if !c.has(ScopeAdmin) {
		return nil, fmt.Errorf("%w: to release a set needs scope %s, for its owner too", ErrPermissionDenied, ScopeAdmin)
	}
	e := Entry{Time: s.clock.wallNow(), Caller: c.Name, Action: "share_set.release", WalletID: walletID, ShareSetID: shareSetID, Outcome: outcomeOK}
	if err := s.ports.Wallets.Release(ctx, walletID, shareSetID, s.budget(), e); err != nil {
		return nil, err
	}
	return s.wallet(ctx, c, actRelease, walletID)
}

func pickRevoked(sets []ShareSet, id string, keepDescendants, allowLast bool) ([]string, error) {
	if !slices.ContainsFunc(sets, func(set ShareSet) bool { return set.ID == id }) {
		return nil, fmt.Errorf("%w: set %s", ErrShareSetNotFound, id)
	}
	gone := map[string]bool{id: true}
	// Sets come in order of creation, so that a parent stands before its children.
	for _, set := range sets {
		if !keepDescendants && gone[set.ParentID] {
			gone[set.ID] = true
		}
	}
	var picked []string
	left, lost := map[Purpose]int{}, map[Purpose]int{}
	for _, set := range sets {
		if gone[set.ID] {
			picked = append(picked, set.ID)
		}
		if set.State != SetActive {
			continue
		}
		if gone[set.ID] {
			lost[set.Purpose]++
		} else {
			left[set.Purpose]++
		}
	}
	for p := range lost {
		if left[p] == 0 && !allowLast {
			return nil, fmt.Errorf("%w: no ACTIVE %v set would be left", ErrLastShareSet, p)
		}
	}
	return picked, nil
}
