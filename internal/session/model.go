package session

import (
	"fmt"
	"slices"
	"time"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

type (
	// Curve is package tss's, which callers of this one need too.
	Curve = tss.Curve
	// Purpose is package tss's as well.
	Purpose = tss.Purpose
	// Party is package tss's as well.
	Party = tss.Party
)

// The values of those types.
const (
	Secp256k1 = tss.Secp256k1
	Ed25519   = tss.Ed25519
	Signing   = tss.Signing
	Backup    = tss.Backup
)

// BackupMethod labels a BACKUP set with how its client share is kept. The numbers are
// those of the API's enum.
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

// Valid reports whether m is a method that a backup can have.
func (m BackupMethod) Valid() bool { return m >= Password && m <= Custom }

var methodNames = [...]string{Password: "PASSWORD", ICloud: "ICLOUD", GDrive: "GDRIVE", Passkey: "PASSKEY", Firebase: "FIREBASE", Custom: "CUSTOM"}

// String returns the method's name, as in the API without its prefix.
func (m BackupMethod) String() string {
	if !m.Valid() {
		return ""
	}
	return methodNames[m]
}

// SetState is where a share set is in its life. The numbers are those of the API's enum.
type SetState uint8

// The states of a share set.
const (
	SetPending SetState = iota + 1 // made, not yet confirmed: it cannot be used
	SetActive                      // confirmed: it can sign or be reshared
	SetRevoked                     // the server's share is erased
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

// State is where a session is in its life. The numbers are those of the API's enum.
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

// Ended reports whether nothing more will happen in this attempt.
func (s State) Ended() bool { return s >= Succeeded }

// Status is what a run is doing. The numbers are those of the API's enum; the SDK's own
// steps (decrypting and encrypting a share) never come from the service.
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
	Keys        []PublicKey // one for each curve; known from the first run's commit on
	Sets        []ShareSet  // in order of creation
	CreateTime  time.Time
	HostedSince time.Time // when both halves first met in the service; zero: never
	LockTime    time.Time // zero unless locked: then all its sets are
	HardAborts  uint32    // those of all its sets
	SoftAborts  uint32    // those of all its sets, in its life or since it was unlocked
}

// Position is a wallet's place in a list: by creation, then by id. The zero value is before the first.
type Position struct {
	CreateTime time.Time
	ID         string
}

// Position returns the wallet's own.
func (w *Wallet) Position() Position { return Position{w.CreateTime, w.ID} }

// PublicKey is a wallet's key on one curve, in the form of tss.KeyRecord.
type PublicKey struct {
	Curve Curve
	Key   []byte
}

// Confirmed reports whether any set of the wallet was ever confirmed: only then are its
// public keys shown, so that nobody funds an address whose share was never stored.
func (w *Wallet) Confirmed() bool {
	return slices.ContainsFunc(w.Sets, func(s ShareSet) bool { return s.State != SetPending })
}

// pending counts the wallet's sets that nobody has confirmed yet and may still confirm, and says
// when the first of them expires.
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

// Active returns the wallet's usable sets of one purpose.
func (w *Wallet) Active(p Purpose) []ShareSet {
	return slices.DeleteFunc(slices.Clone(w.Sets), func(s ShareSet) bool { return s.Purpose != p || s.State != SetActive })
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
	LockTime    time.Time // zero unless it is locked, or its wallet
	Aborts      uint32    // hard: runs that its client broke, since it was made or released
	// SoftFullTime is when its soft budget is whole again; zero or past: it is.
	SoftFullTime time.Time
	// What a caller sees of that; the store does not know it.
	SoftAborts   uint32    // that time has not paid back
	LimitedUntil time.Time // when it can make ECDSA signatures with a device again; zero: now
}

// Locked reports whether clients of the set, or of its wallet, cost so much that it may not be used.
func (s *ShareSet) Locked() bool { return !s.LockTime.IsZero() }

// usable returns nil for a set that may sign or be reshared.
func (s *ShareSet) usable() error {
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

// StoredSet is a share set with what the store keeps for it.
type StoredSet struct {
	ShareSet
	Record      []byte   // encoded tss.Record, public
	ServerShare []Sealed // the server's share as its Custodian wants it kept; nil once revoked
	ClientShare [32]byte // SHA-256 of the plaintext client share
	SessionID   string   // the session that made it

	// Of its wallet, all sets together.
	WalletHard, WalletSoft uint32
}

// Sealed is one ciphertext of the server's share, for one curve.
type Sealed struct {
	Curve      Curve
	Ciphertext []byte
}

// Progress is one entry of a session's ordered log.
type Progress struct {
	Status        Status
	Done          bool
	Percent       uint32 // 0 to 100, never falls within an attempt
	Curve         Curve
	Round, Rounds uint32        // Rounds is 0 while pre-params are being made
	Elapsed       time.Duration // since the attempt began
	Sequence      uint32        // rises over all attempts
	QueuePosition uint32
	Attempt       uint32
}

// Session is what the store keeps of one run.
type Session struct {
	ID          string // UUID
	Caller      string
	RequestID   string // UUID, unique for each caller
	Fingerprint []byte // keyed MAC over the request: tells a repeated call from a reused id
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

// byClient reports whether it was the client that broke the run.
func (f *Failure) byClient() bool {
	return f != nil && f.Reason == ErrProtocolAborted.Reason && f.Culprit == tss.Client.String()
}

// Broken reports whether the attempt ended because its client broke it.
func (rec *Session) Broken() bool { return rec.Failure.byClient() }

// Failure is how a session ended when it did not succeed. It holds no secret.
type Failure struct {
	Reason  string // one of the reasons in errors.go
	Culprit string // CLIENT or SERVER for PROTOCOL_ABORTED
	Round   int
}

// Result is the part of an outcome that waits for its caller.
type Result struct {
	// SealedTo says what Data is: an age file to the caller's recipient, or bytes under
	// the service's own keyset.
	SealedTo bool
	Data     []byte
}

// Outcome is what a good run gives its caller.
type Outcome struct {
	WalletID    string
	Set         ShareSet     // not for signing
	ClientShare secret.Bytes // an age file where the caller gave a recipient
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
