package session

import (
	"fmt"
	"slices"
	"time"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

type (
	// Curve identifies a curve.
	Curve = tss.Curve
	// Purpose is what a share set is for.
	Purpose = tss.Purpose
	// Party is CLIENT or SERVER.
	Party = tss.Party
)

// The curves and purposes.
const (
	Secp256k1 = tss.Secp256k1
	Ed25519   = tss.Ed25519
	Signing   = tss.Signing
	Backup    = tss.Backup
)

// BackupMethod says how a BACKUP set's client share is kept. The numbers are those of the API's enum.
type BackupMethod uint8

// The backup methods.
const (
	NoMethod BackupMethod = iota
	Password
	ICloud
	GDrive
	Passkey
	Firebase
	Custom
)

// Valid reports whether m is a method for a backup.
func (m BackupMethod) Valid() bool { return m >= Password && m <= Custom }

var methodNames = [...]string{
	Password: "PASSWORD", ICloud: "ICLOUD", GDrive: "GDRIVE", Passkey: "PASSKEY", Firebase: "FIREBASE", Custom: "CUSTOM",
}

// String returns the name in the API, without its prefix; empty for an invalid method.
func (m BackupMethod) String() string {
	if !m.Valid() {
		return ""
	}
	return methodNames[m]
}

// SetState is the state of a share set. The numbers are those of the API's enum.
type SetState uint8

// The states of a share set.
const (
	SetPending SetState = iota + 1 // made, not confirmed yet: cannot be used
	SetActive                      // confirmed: can sign or be reshared
	SetRevoked                     // the server share is erased
)

// Operation is what a session does. The numbers are those of the API's enum.
type Operation uint8

// The operations.
const (
	OpCreate Operation = iota + 1
	OpBackup
	OpProvision
	OpSign
)

// State is the state of a session. The numbers are those of the API's enum.
type State uint8

// The states of a session.
const (
	Queued State = iota + 1
	Running
	Succeeded
	Failed
	Interrupted
	Cancelled
	Expired
)

// Ended reports whether the attempt is over.
func (s State) Ended() bool { return s >= Succeeded }

// Status is what a run is doing. The numbers are those of the API's enum; the SDK's own steps (decrypting and
// encrypting a share) are not among them.
type Status uint8

// The statuses that the service reports.
const (
	StatusQueued          Status = 1
	StatusReadingShare    Status = 2
	StatusParsingShare    Status = 4
	StatusGeneratingShare Status = 5
	StatusStoringShare    Status = 7
	StatusDone            Status = 8
)

// Wallet is one owner's keys.
type Wallet struct {
	ID          string // UUID
	Owner       string
	Keys        []PublicKey // one per curve; set by the first run's commit
	Sets        []ShareSet  // in order of creation
	CreateTime  time.Time
	HostedSince time.Time // when both shares were first in the service together; zero: never
	LockTime    time.Time // zero unless locked, with all its sets
	HardAborts  uint32    // of all its sets
	SoftAborts  uint32    // of all its sets, since it was created or unlocked
}

// Position is a wallet's position in a list: by creation time, then by id. The zero value is before the first.
type Position struct {
	CreateTime time.Time
	ID         string
}

// Position returns the wallet's position.
func (w *Wallet) Position() Position { return Position{w.CreateTime, w.ID} }

// PublicKey is a wallet's key on one curve, encoded as in tss.KeyRecord.
type PublicKey struct {
	Curve Curve
	Key   []byte
}

// Confirmed reports whether any set of the wallet was ever confirmed. Public keys are shown only then, so that no
// address is funded before its share is stored.
func (w *Wallet) Confirmed() bool {
	return slices.ContainsFunc(w.Sets, func(s ShareSet) bool { return s.State != SetPending })
}

// pending returns how many of the wallet's unconfirmed sets can still be confirmed, and when the first of them
// expires.
func (w *Wallet) pending(now time.Time) (n int, first time.Time) {
	for _, s := range w.Sets {
		if s.State != SetPending || now.After(s.ExpireTime) {
			continue
		}
		if n++; first.IsZero() || s.ExpireTime.Before(first) {
			first = s.ExpireTime
		}
	}
	return n, first
}

// Active returns the wallet's ACTIVE sets of one purpose.
func (w *Wallet) Active(p Purpose) []ShareSet {
	return slices.DeleteFunc(slices.Clone(w.Sets), func(s ShareSet) bool {
		return s.Purpose != p || s.State != SetActive
	})
}

// ShareSet is one 2-of-2 sharing of a wallet's keys, without its shares.
type ShareSet struct {
	ID          string // UUID
	WalletID    string
	Purpose     Purpose
	Method      BackupMethod // BACKUP sets only
	State       SetState
	ParentID    string // the set that it was reshared from; empty for a wallet's first
	DisplayName string
	CreateTime  time.Time
	ExpireTime  time.Time // when a PENDING set is erased; zero once confirmed
	RevokeTime  time.Time // zero unless revoked
	LockTime    time.Time // zero unless it or its wallet is locked
	Aborts      uint32    // hard aborts since it was made or released
	// SoftFullTime is when all soft aborts will have been refunded; zero or past: they are.
	SoftFullTime time.Time
	// Derived from it for callers; not stored.
	SoftAborts   uint32    // not refunded yet
	LimitedUntil time.Time // when it can make ECDSA signatures with a device again; zero: now
}

// Locked reports whether the set was locked because its clients, or its wallet's, reached a limit of aborts.
func (s *ShareSet) Locked() bool { return !s.LockTime.IsZero() }

// checkUsable returns nil if the set may sign or be reshared.
func (s *ShareSet) checkUsable() error {
	switch {
	case s.State == SetPending:
		return fmt.Errorf("%w: set %s", ErrShareSetPending, s.ID)
	case s.State != SetActive:
		return fmt.Errorf("%w: set %s", ErrShareSetRevoked, s.ID)
	case s.Locked():
		return fmt.Errorf("%w: set %s, since %v", ErrShareSetLocked, s.ID, s.LockTime)
	}
	return nil
}

// StoredSet is a share set with its stored data.
type StoredSet struct {
	ShareSet
	Record      []byte   // encoded tss.Record, public
	ServerShare []Sealed // as returned by Custodian.Deposit; nil once revoked
	ClientShare [32]byte // SHA-256 of the plaintext client share
	SessionID   string   // the session that made it

	WalletHard, WalletSoft uint32 // aborts of all sets of its wallet
}

// Sealed is the ciphertext of the server share on one curve.
type Sealed struct {
	Curve      Curve
	Ciphertext []byte
}

// Progress is one entry of a session's progress log.
type Progress struct {
	Status        Status
	Done          bool
	Percent       uint32 // 0 to 100, never decreases within an attempt
	Curve         Curve
	Round, Rounds uint32        // Rounds is 0 while pre-params are being made
	Elapsed       time.Duration // since the attempt began
	Sequence      uint32        // increases over all attempts
	QueuePosition uint32
	Attempt       uint32
}

// Session is the stored state of a session.
type Session struct {
	ID          string // UUID
	Caller      string
	RequestID   string // UUID, unique for each caller
	Fingerprint []byte // keyed MAC over the request: distinguishes a repeated call from a reused id
	WalletID    string
	Operation   Operation
	State       State
	Attempt     uint32
	Progress    Progress // the last one
	Failure     *Failure // set when State is Failed, Interrupted or Cancelled
	ShareSetID  string   // of the set that it made
	Used        string   // the set that it uses; empty for a new wallet
	Result      *Result  // nil before success, and again once erased
	CreateTime  time.Time
	ExpireTime  time.Time // when the result is erased
}

// byClient reports whether the client broke the run.
func (f *Failure) byClient() bool {
	return f != nil && f.Reason == ErrProtocolAborted.Reason && f.Culprit == tss.Client.String()
}

// Broken reports whether the client broke the attempt.
func (rec *Session) Broken() bool { return rec.Failure.byClient() }

// Failure says why a session did not succeed. It holds no secrets.
type Failure struct {
	Reason  string // one of the reasons in errors.go
	Culprit string // CLIENT or SERVER for PROTOCOL_ABORTED
	Round   int
}

// Result is the part of an outcome that is kept until its client confirms it.
type Result struct {
	// SealedTo says that Data is an age file for the caller's recipient, or the last part of a device-held run.
	// Otherwise Data is sealed under the service's keyset.
	SealedTo bool
	Data     []byte
}

// Outcome is the result of a successful run.
type Outcome struct {
	WalletID    string
	Set         ShareSet     // not for signing
	ClientShare secret.Bytes // an age file if the caller gave a recipient
	Signature   *tss.Signature
	SignedBy    string    // the share set that signed
	Last        *Numbered // device-held: the service's last part
}

// Event is one message of a session's stream: exactly one field is set.
type Event struct {
	Progress *Progress
	Part     *Numbered // for a device
	Outcome  *Outcome
}
