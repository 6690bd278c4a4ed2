package session

import (
	"encoding/hex"
	"errors"
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
func (s *Service) entry(rec *Session, action string) Entry {
	return Entry{
		Time: s.clock.wallNow(), Caller: rec.Caller, Action: action, WalletID: rec.WalletID, ShareSetID: rec.ShareSetID,
		SessionID: rec.ID, Outcome: outcomeOK, Detail: rec.Operation.String(),
	}
}

// ended speaks of a session that did not succeed.
func (s *Service) ended(rec *Session, action string, err error) Entry {
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
