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
	b.fillIn(w)
	return w, nil
}

// List returns up to limit wallets of one owner (empty: the caller), oldest first, and the position after which the
// next page starts, or the zero value if there is none.
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
		b.fillIn(&page[i])
	}
	return page, next, nil
}

// Session returns a session of the caller, with the latest progress if it is live.
func (s *Service) Session(ctx context.Context, c Caller, sessionID string) (*Session, error) {
	rec, err := s.findSession(ctx, sessionID)
	if err != nil {
		return nil, err
	}
	if err := c.authoriseSession(rec); err != nil {
		return nil, err
	}
	if rec.State.Ended() {
		return rec, nil
	}
	if r := s.liveRun(rec); r != nil {
		rec.Progress = r.lastProgress()
		return rec, nil
	}
	// It has just ended; or its end could not be stored, and the next call with the same request settles it.
	if rec, err = s.ports.Sessions.Session(ctx, sessionID); err == nil && !rec.State.Ended() && s.liveRun(rec) == nil {
		rec.State, rec.Failure = Interrupted, failure(ErrInterrupted)
	}
	return rec, err
}

// liveRun returns the live run of a session's request, or nil.
func (s *runner) liveRun(rec *Session) *Run {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[runKey{rec.Caller, rec.RequestID}]
}

// Cancel ends a session of the caller at once, for all attached callers, and returns it. A session that had already
// ended is not changed.
func (s *Service) Cancel(ctx context.Context, c Caller, sessionID string) (*Session, error) {
	rec, err := s.Session(ctx, c, sessionID)
	if err != nil || rec.State.Ended() {
		return rec, err
	}
	rec.State, rec.Failure = Cancelled, failure(ErrSessionCancelled)
	if s.cancelUnrecorded(sessionID) {
		return rec, nil
	}
	err = s.ports.Sessions.Update(ctx, rec, s.budget(), s.failureEntry(rec, "session.cancel", ErrSessionCancelled))
	if errors.Is(err, ErrSuperseded) { // it has ended meanwhile, or begun another attempt
		return s.Cancel(ctx, c, sessionID)
	}
	if err != nil {
		return nil, err
	}
	if r := s.liveRun(rec); r != nil {
		r.cancel(ErrSessionCancelled)
	}
	return rec, nil
}

// Err returns the error of a session that did not succeed, or nil.
func (rec *Session) Err() error {
	if rec.Failure == nil {
		return nil
	}
	if rec.State == Failed && rec.Failure.Reason == ErrWebhookFailed.Reason { // a temporary one is INTERRUPTED
		return &WebhookError{Permanent: true}
	}
	return rec.Failure.err()
}

// Confirm turns a PENDING set ACTIVE for a caller that proves, by its SHA-256, that it has the client share.
// Confirming again has no effect.
func (s *Service) Confirm(
	ctx context.Context, c Caller, walletID, shareSetID string, shareSHA256 []byte,
) (*Wallet, error) {
	w, err := s.confirm(ctx, c, walletID, shareSetID, shareSHA256)
	if err != nil {
		e := Entry{Caller: c.Name, Action: "share_set.confirm", WalletID: walletID, ShareSetID: shareSetID}
		s.auditRefusal(ctx, e, err)
	}
	return w, err
}

func (s *runner) confirm(
	ctx context.Context, c Caller, walletID, shareSetID string, shareSHA256 []byte,
) (*Wallet, error) {
	wallet, err := s.wallet(ctx, c, actConfirm, walletID)
	if err != nil {
		return nil, s.explainMissing(ctx, c, shareSetID, err)
	}
	set, err := s.ports.Wallets.Set(ctx, walletID, shareSetID)
	if err != nil {
		return nil, s.explainMissing(ctx, c, shareSetID, err)
	}
	// In a wallet that was never hosted, the transcript has proved that the device has its share.
	shown := len(shareSHA256) == 0 && wallet.HostedSince.IsZero()
	switch {
	case len(shareSHA256) == 0 && !shown:
		return nil, &FieldError{"share_sha256", "must be the 32-byte SHA-256 of the plaintext client share"}
	case !shown && subtle.ConstantTimeCompare(set.ClientShare[:], shareSHA256) != 1:
		return nil, fmt.Errorf("%w: set %s: %w", ErrShareSetMismatch, shareSetID, s.explainHash(ctx, shareSetID, shareSHA256))
	case set.State == SetRevoked:
		return nil, fmt.Errorf("%w: set %s", ErrShareSetRevoked, shareSetID)
	case set.State == SetPending && s.clock.now().After(set.ExpireTime):
		return nil, fmt.Errorf("%w: set %s was not confirmed in time", ErrSessionExpired, shareSetID)
	case set.State == SetPending:
		e := Entry{
			Time: s.clock.wallNow(), Caller: c.Name, Action: "share_set.confirm", WalletID: walletID, ShareSetID: shareSetID,
			SessionID: set.SessionID, Outcome: outcomeOK,
		}
		changed, err := s.ports.Wallets.Confirm(ctx, walletID, shareSetID, e)
		if err != nil {
			return nil, s.explainMissing(ctx, c, shareSetID, err)
		}
		if !changed { // it was confirmed or revoked concurrently
			return s.confirm(ctx, c, walletID, shareSetID, shareSHA256)
		}
	}
	return s.wallet(ctx, c, actConfirm, walletID)
}

// Causes of an ErrShareSetMismatch from Confirm.
var (
	ErrHashMismatch = errors.New("the hash is not that of the set's client share")
	ErrHashOfSealed = errors.New("the hash is that of the sealed client share, as it was handed out")
	ErrHashOfText   = errors.New("the hash is that of the base64 text in which the client share was handed out")
)

// explainHash returns the cause of a wrong hash, as far as the session that made the set still has its result.
func (s *runner) explainHash(ctx context.Context, shareSetID string, sum []byte) error {
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

// explainMissing returns ErrSessionExpired, to the caller who made it, for a set that was erased because it was not
// confirmed in time, and otherwise err.
func (s *runner) explainMissing(ctx context.Context, c Caller, shareSetID string, err error) error {
	if !errors.Is(err, ErrWalletNotFound) && !errors.Is(err, ErrShareSetNotFound) {
		return err
	}
	rec, found := s.ports.Sessions.ByShareSet(ctx, shareSetID)
	if found == nil && c.authoriseSession(rec) == nil && rec.State == Expired {
		return fmt.Errorf("%w: set %s was not confirmed in time", ErrSessionExpired, shareSetID)
	}
	return err
}

// Revoke erases the server share of a set and, unless keepDescendants, of all its descendants. It refuses to revoke a
// wallet's last ACTIVE set of a purpose, unless an admin sets allowLast. Revoking again has no effect.
func (s *Service) Revoke(
	ctx context.Context, c Caller, walletID, shareSetID string, keepDescendants, allowLast bool,
) (*Wallet, error) {
	w, err := s.revoke(ctx, c, walletID, shareSetID, keepDescendants, allowLast)
	if err != nil {
		e := Entry{Caller: c.Name, Action: "share_set.revoke", WalletID: walletID, ShareSetID: shareSetID}
		s.auditRefusal(ctx, e, err)
	}
	return w, err
}

func (s *runner) revoke(
	ctx context.Context, c Caller, walletID, shareSetID string, keepDescendants, allowLast bool,
) (*Wallet, error) {
	w, err := s.wallet(ctx, c, actRevoke, walletID)
	if err != nil {
		return nil, err
	}
	if allowLast && !c.hasScope(ScopeAdmin) {
		return nil, fmt.Errorf("%w: allow_last needs scope %s", ErrPermissionDenied, ScopeAdmin)
	}
	if _, err := pickRevoked(w.Sets, shareSetID, keepDescendants, allowLast); err != nil { // before asking the policy
		return nil, err
	}
	q := Question{Caller: c.Name, Operation: "REVOKE", WalletID: walletID, Owner: w.Owner, ShareSetID: shareSetID}
	if err := s.askPolicy(ctx, q); err != nil {
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

// Release refunds all aborts of a set, and unlocks it and its wallet. It needs an admin: a thief with the owner's
// token could release what it has locked. Releasing a set that is not locked has no effect.
func (s *Service) Release(ctx context.Context, c Caller, walletID, shareSetID string) (*Wallet, error) {
	w, err := s.unlock(ctx, c, walletID, shareSetID)
	if err != nil {
		e := Entry{Caller: c.Name, Action: "share_set.release", WalletID: walletID, ShareSetID: shareSetID}
		s.auditRefusal(ctx, e, err)
	}
	return w, err
}

func (s *runner) unlock(ctx context.Context, c Caller, walletID, shareSetID string) (*Wallet, error) {
	if _, err := s.wallet(ctx, c, actRelease, walletID); err != nil {
		return nil, err
	}
	if !c.hasScope(ScopeAdmin) {
		return nil, fmt.Errorf("%w: to release a set needs scope %s, for its owner too", ErrPermissionDenied, ScopeAdmin)
	}
	e := Entry{
		Time: s.clock.wallNow(), Caller: c.Name, Action: "share_set.release", WalletID: walletID, ShareSetID: shareSetID,
		Outcome: outcomeOK,
	}
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
	// Sets are in order of creation, so a parent comes before its children.
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
