package session

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

// Entry is one line of the audit log: who did what to which wallet, and how it ended. It
// holds no secret. Entries of one wallet form a chain, each with the hash of the one
// before it; those without a wallet form a chain of their own.
type Entry struct {
	Time       time.Time
	Caller     string
	Action     string // "session.begin", "share_set.revoke", ...
	WalletID   string
	ShareSetID string
	SessionID  string
	Outcome    string // "ok", "refused" or "failed"
	Reason     string // one of the reasons in errors.go, where the outcome is not ok
	Detail     string // what else is worth keeping: an operation, a payload's digest
}

// The outcomes of an entry.
const (
	outcomeOK      = "ok"
	outcomeRefused = "refused"
	outcomeFailed  = "failed"
)

// String returns the operation's name, as in the API without its prefix.
func (o Operation) String() string {
	switch o {
	case OpCreate:
		return "CREATE"
	case OpBackup:
		return "BACKUP"
	case OpProvision:
		return "PROVISION"
	case OpSign:
		return "SIGN"
	}
	return "UNKNOWN"
}

// entry speaks of a change to a session.
func (s *runner) entry(rec *Session, action string) Entry {
	return Entry{
		Time: s.clock.wallNow(), Caller: rec.Caller, Action: action, WalletID: rec.WalletID, ShareSetID: rec.ShareSetID,
		SessionID: rec.ID, Outcome: outcomeOK, Detail: rec.Operation.String(),
	}
}

// ended speaks of a session that did not succeed.
func (s *runner) ended(rec *Session, action string, err error) Entry {
	e := s.entry(rec, action)
	e.Outcome, e.Reason = outcomeFailed, Reason(err)
	if a := new(AbortedError); errors.As(err, &a) {
		e.Detail += " culprit " + a.Culprit
	}
	if d := new(DeniedError); errors.As(err, &d) && d.Why != "" {
		e.Detail += " " + d.Why
	}
	return e
}

// signed adds who signed what, durable before the signature leaves.
func (e Entry) signed(c Curve, digest []byte) Entry {
	e.Detail += " " + c.String() + " " + hex.EncodeToString(digest)
	return e
}

// refused notes a decision against a caller. What is only malformed is no decision, and
// neither is a fault of ours.
func (s *runner) refused(ctx context.Context, e Entry, err error) {
	e.Outcome, e.Reason = outcomeRefused, Reason(err)
	switch e.Reason {
	case ErrInvalidArgument.Reason, ErrShareMalformed.Reason, ErrInternal.Reason, ErrInterrupted.Reason:
		return
	case ErrPolicyDenied.Reason:
		if d := new(DeniedError); errors.As(err, &d) {
			e.Detail = strings.TrimSpace(e.Detail + " " + d.Why)
		}
	case ErrWalletNotFound.Reason: // nobody begins, or adds to, the chain of a wallet that is not theirs
		e.Detail = strings.TrimSpace(e.Detail + " wallet " + e.WalletID)
		e.WalletID = ""
	}
	s.note(ctx, e)
}

// note writes an audit entry that goes with no change. That it could not be written is
// in the log, and changes nothing of what was decided.
func (s *runner) note(ctx context.Context, e Entry) {
	e.Time = s.clock.wallNow()
	if err := s.ports.Housekeeper.Record(context.WithoutCancel(ctx), e); err != nil {
		s.ports.Log.Error("an audit entry could not be written", "action", e.Action, "caller", e.Caller, "error", err)
	}
}
