package session

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

// Entry is one entry of the audit log: an action of a caller and its outcome. It holds no secrets. The entries of a
// wallet form a hash chain; those without a wallet form another.
type Entry struct {
	Time       time.Time
	Caller     string
	Action     string // "session.begin", "share_set.revoke", ...
	WalletID   string
	ShareSetID string
	SessionID  string
	Outcome    string // "ok", "refused" or "failed"
	Reason     string // one of the reasons in errors.go, unless the outcome is ok
	Detail     string // further information, such as the operation or a payload's digest
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

// auditEntry returns the entry for a change of a session.
func (s *runner) auditEntry(rec *Session, action string) Entry {
	return Entry{
		Time: s.clock.wallNow(), Caller: rec.Caller, Action: action, WalletID: rec.WalletID, ShareSetID: rec.ShareSetID,
		SessionID: rec.ID, Outcome: outcomeOK, Detail: rec.Operation.String(),
	}
}

// failureEntry returns the entry for a session that did not succeed.
func (s *runner) failureEntry(rec *Session, action string, err error) Entry {
	e := s.auditEntry(rec, action)
	e.Outcome, e.Reason = outcomeFailed, Reason(err)
	if a := new(AbortedError); errors.As(err, &a) {
		e.Detail += " culprit " + a.Culprit
	}
	if d := new(DeniedError); errors.As(err, &d) && d.Why != "" {
		e.Detail += " " + d.Why
	}
	return e
}

// withSignature adds what is signed, so that it is recorded before the signature is released.
func (e Entry) withSignature(c Curve, digest []byte) Entry {
	e.Detail += " " + c.String() + " " + hex.EncodeToString(digest)
	return e
}

// auditRefusal records a decision against a caller. Malformed requests and internal errors are not decisions, and are
// not recorded.
func (s *runner) auditRefusal(ctx context.Context, e Entry, err error) {
	e.Outcome, e.Reason = outcomeRefused, Reason(err)
	switch e.Reason {
	case ErrInvalidArgument.Reason, ErrShareMalformed.Reason, ErrInternal.Reason, ErrInterrupted.Reason:
		return
	case ErrPolicyDenied.Reason:
		if d := new(DeniedError); errors.As(err, &d) {
			e.Detail = strings.TrimSpace(e.Detail + " " + d.Why)
		}
	case ErrWalletNotFound.Reason: // a caller must not be able to add to another owner's chain
		e.Detail = strings.TrimSpace(e.Detail + " wallet " + e.WalletID)
		e.WalletID = ""
	}
	s.writeAudit(ctx, e)
}

// writeAudit writes an audit entry that accompanies no change. A failure is logged; the decision stands.
func (s *runner) writeAudit(ctx context.Context, e Entry) {
	e.Time = s.clock.wallNow()
	if err := s.ports.Housekeeper.Record(context.WithoutCancel(ctx), e); err != nil {
		s.ports.Log.Error("an audit entry could not be written", "action", e.Action, "caller", e.Caller, "error", err)
	}
}
