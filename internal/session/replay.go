package session

import (
	"context"
	"fmt"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// replay fills r with the end of a session that is not live.
func (s *runner) replay(ctx context.Context, r *Run, there *Session) error {
	if err := (&Run{fingerprint: there.Fingerprint}).checkFingerprint(r.fingerprint); err != nil {
		return err
	}
	r.mu.Lock()
	r.id, r.created, r.attempt = there.ID, there.CreateTime, there.Attempt
	r.log = []Progress{there.Progress}
	r.mu.Unlock()
	out, err := s.outcome(ctx, there)
	r.end(out, err)
	return nil
}

// outcome returns what a caller who attaches to an ended session gets.
func (s *runner) outcome(ctx context.Context, rec *Session) (*Outcome, error) {
	switch {
	case !rec.State.Ended():
		return nil, fmt.Errorf("%w: session %s runs in another process", ErrInterrupted, rec.ID)
	case rec.State == Expired, rec.State == Succeeded && (rec.Result == nil || s.clock.now().After(rec.ExpireTime)):
		return nil, fmt.Errorf("%w: its result was confirmed, or not fetched in time", ErrSessionExpired)
	case rec.State != Succeeded && rec.Failure == nil:
		return nil, ErrInternal
	case rec.State != Succeeded:
		return nil, rec.Err()
	}
	data := secret.New(rec.Result.Data)
	last := decodeLast(rec.Result.Data)
	if last != nil && rec.Result.SealedTo {
		data = secret.Bytes{}
	}
	if !rec.Result.SealedTo {
		var err error
		if data, err = s.ports.Sealer.Open(rec.Result.Data, ResultLabel(rec.WalletID, rec.ID)); err != nil {
			return nil, fmt.Errorf("result of session %s: %w", rec.ID, err)
		}
	}
	if rec.Operation == OpSign {
		sig := new(tss.Signature)
		if b := data.Reveal(); len(b) == len(sig.Bytes)+1 {
			copy(sig.Bytes[:], b)
			sig.RecoveryID = b[len(sig.Bytes)]
			return &Outcome{WalletID: rec.WalletID, Signature: sig, SignedBy: rec.ShareSetID}, nil
		}
		return nil, fmt.Errorf("%w: result of session %s", ErrDataCorrupted, rec.ID)
	}
	set, err := s.ports.Wallets.Set(ctx, rec.WalletID, rec.ShareSetID)
	if err != nil {
		return nil, fmt.Errorf("share set of session %s: %w", rec.ID, err)
	}
	return &Outcome{WalletID: rec.WalletID, Set: set.ShareSet, ClientShare: data, Last: last}, nil
}
