package session

import (
	"context"
	"time"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// Wallets is the store of wallets and their sets. A change is durable when its method returns nil, and not made when
// it returns an error. While the store cannot be used (a full disk, another process's lock) that is ErrInterrupted:
// the same call may succeed later.
type Wallets interface {
	// Wallet returns a wallet with all its sets, or ErrWalletNotFound.
	Wallet(ctx context.Context, walletID string) (*Wallet, error)
	// List returns up to limit wallets after a position, in order of creation, of one owner (empty: of all). If there
	// are none, the list is empty.
	List(ctx context.Context, owner string, after Position, limit int) ([]Wallet, error)
	// Set returns one set of a wallet, or ErrShareSetNotFound.
	Set(ctx context.Context, walletID, shareSetID string) (*StoredSet, error)
	// Confirm turns a PENDING set ACTIVE and erases the stored result of the session that made it, in one transaction.
	// It returns ErrShareSetNotFound if there is no such set, and changed = false if it is not PENDING any more: of two
	// concurrent callers, one gets true.
	Confirm(ctx context.Context, walletID, shareSetID string, e Entry) (changed bool, err error)
	// Revoke revokes the sets that pick chooses from the wallet's sets, and erases their server shares, in one
	// transaction that excludes other changes of the wallet. An error of pick is returned as it is. Sets that are
	// already revoked are not changed. Each set that is revoked gets an entry like e with its own id.
	Revoke(ctx context.Context, walletID string, at time.Time, pick func([]ShareSet) ([]string, error), e Entry) error
	// Release unlocks a set, sets its hard aborts to 0 (its wallet's are reduced by as many), and refunds its soft
	// aborts. A wallet that is locked is unlocked, and its counts restart. If there is nothing to release, nothing is
	// changed or written; otherwise e is written, with the previous counts in its detail. It returns ErrShareSetNotFound
	// if there is no such set, and ErrShareSetRevoked if it is REVOKED.
	Release(ctx context.Context, walletID, shareSetID string, b Budget, e Entry) error
	// ReserveModuli records moduli, by their SHA-256, that a run of the wallet is about to use. It returns
	// ErrModulusUsed, and records none, if any was recorded before: the service's own for any wallet and maker; a
	// device's for this wallet, or for any as the service's. A modulus of the service that appears twice shows that its
	// pool is from an older state of the database: all sets in the pool are then dropped.
	ReserveModuli(ctx context.Context, walletID string, maker Maker, sums ...[32]byte) error
}

// Maker says who made moduli. The numbers are the store's.
type Maker uint8

// The makers of moduli.
const (
	MadeByDevice Maker = 1
	MadeHere     Maker = 2 // by the service, for either party
)

// Sessions is the store of sessions, with the same guarantees as Wallets. An audit entry is written in the transaction
// of its change.
type Sessions interface {
	// Begin records a new session. If the caller used the request id before, it records nothing and returns the existing
	// session, with created = false; of two concurrent callers, one gets true.
	Begin(ctx context.Context, s *Session, e Entry) (there *Session, created bool, err error)
	// Restart records the next attempt of an INTERRUPTED session: attempt, state, progress and expire time of s. It
	// returns ErrSuperseded if the stored session is not INTERRUPTED at the attempt before: of two concurrent callers,
	// one gets nil.
	Restart(ctx context.Context, s *Session, e Entry) error
	// ByRequest returns a caller's session with that request id, or ErrSessionNotFound.
	ByRequest(ctx context.Context, caller, requestID string) (*Session, error)
	// ByShareSet returns the session that made a set, or ErrSessionNotFound.
	ByShareSet(ctx context.Context, shareSetID string) (*Session, error)
	// Session returns a session by its id, or ErrSessionNotFound.
	Session(ctx context.Context, sessionID string) (*Session, error)
	// Update stores state, progress and failure of the attempt of s. If that ends the attempt, the set that it used is
	// charged in the same transaction: a hard abort if its client broke the run, otherwise a soft one if the run was
	// armed. A set or wallet that reaches a limit of b is locked as of e.Time, with entries like e. It returns
	// ErrSuperseded if the stored session has ended, or is at another attempt; then nothing is charged.
	Update(ctx context.Context, s *Session, b Budget, e Entry) error
	// Commit ends a session with success: it stores state, progress, result and share set id, and in the same
	// transaction what the session made. It returns ErrSuperseded like Update, ErrShareSetRevoked if the set that it
	// used is no longer ACTIVE, ErrShareSetLocked if it is locked, and ErrInterrupted if the deletion of the new set has
	// begun (see Deletions). A session that is armed cannot succeed.
	Commit(ctx context.Context, s *Session, m Made, e Entry) error
}

// Made is what a session commits besides its own end.
type Made struct {
	Set    *StoredSet // nil for signing
	Wallet *Wallet    // nil unless new
	Used   string     // the set that was reshared or signed with; empty for a new wallet
}

// Budgets is the store of what clients have cost, with the same guarantees as Sessions.
type Budgets interface {
	// Arm marks an attempt as armed: whichever call ends it charges a soft abort, unless it is disarmed before. It
	// returns ErrSuperseded like Update, ErrShareSetRevoked or ErrShareSetLocked if the set may no longer be used, and
	// the errors of Budget.CheckArmed: of sessions that compete for the last armed run, one gets nil. Arming twice is
	// harmless.
	Arm(ctx context.Context, s *Session, b Budget) error
	// Disarm reverses Arm and writes e, before a signature is released; also for an attempt that was never armed. It
	// returns ErrSuperseded, ErrShareSetRevoked and ErrShareSetLocked like Arm.
	Disarm(ctx context.Context, s *Session, e Entry) error
	// Blame charges a hard abort for an attempt that its client broke, but that had ended otherwise, in place of a soft
	// one, and writes e. If the attempt was already charged a hard abort, it does nothing.
	Blame(ctx context.Context, s *Session, b Budget, e Entry) error
}

// Housekeeper is the store's periodic maintenance, and its audit log.
type Housekeeper interface {
	// Sweep erases what was not confirmed in time: PENDING sets with their server shares, stored results, and wallets
	// whose only set was erased. Their sessions become EXPIRED and are kept without secrets until they are older than
	// keep.
	Sweep(ctx context.Context, now time.Time, keep time.Duration) (Swept, error)
	// Record writes an audit entry that accompanies no change, such as a refusal.
	Record(ctx context.Context, e Entry) error
	// InterruptAll marks every session that has not ended as INTERRUPTED, with a Failure, charges those that are armed,
	// like Update, and returns how many there were. It is called once, before the service starts.
	InterruptAll(ctx context.Context, b Budget) (int, error)
}

// Swept counts what a sweep erased.
type Swept struct{ Sets, Results, Wallets, Sessions int }

// Sealer encrypts data at rest. Open fails with ErrDataCorrupted if the ciphertext was altered, or was sealed under
// another label or keyset.
type Sealer interface {
	Seal(plaintext secret.Bytes, label Label) ([]byte, error)
	Open(ciphertext []byte, label Label) (secret.Bytes, error)
	// MAC returns a keyed hash that is stable over restarts.
	MAC(data []byte) ([]byte, error)
}

// Label is the associated data of a sealed value: it binds a ciphertext to its row, so that rows cannot be exchanged.
type Label struct {
	Kind       string // one of SealedKinds
	WalletID   string
	ShareSetID string
	Curve      tss.Curve // 0 if the value is not for one curve
	Party      tss.Party
}

// Custodian keeps the server shares of share sets.
type Custodian interface {
	// Deposit stores a new server share. It returns what to keep in the set's row, which is committed afterwards: the
	// sealed share if mpcd keeps it, nothing if an external custodian does. After it returned nil, Fetch with that row
	// finds the share.
	Deposit(ctx context.Context, owner string, set *ShareSet, share *tss.Share) ([]Sealed, error)
	// Fetch returns the server share of a set as it was deposited. The caller wipes it. It fails with ErrDataCorrupted
	// if it was altered.
	Fetch(ctx context.Context, owner string, set *StoredSet) (*tss.Share, error)
}

// Policy is an external decision on what callers may do, in addition to scopes and ownership.
type Policy interface {
	// Allow returns nil for yes, a DeniedError for no, and ErrWebhookFailed if there is no answer, which counts as no.
	// It returns after a bounded time.
	Allow(ctx context.Context, q Question) error
}

// Question is what a Policy decides on. It holds no secrets.
type Question struct {
	Caller     string
	Operation  string // BACKUP, PROVISION, SIGN or REVOKE
	WalletID   string
	Owner      string // of the wallet
	ShareSetID string // the set that is reshared, signs, or is revoked
	RequestID  string // empty for REVOKE
	Curve      Curve  // SIGN only
	Digest     []byte // SIGN only: the digest that is signed (SECP256K1), or the SHA-256 of the message (ED25519)
}

// PreParams provides sets of pre-params. Each is used once and for one party: a party that knows the primes of a
// client's set must never meet it as a server's.
type PreParams interface {
	// Claim returns a validated, unused set for a party. It may have to make one, which takes seconds; it returns ctx's
	// error once ctx is done.
	Claim(ctx context.Context, p Party) (*tss.PreParams, error)
	// ClaimReady is Claim for device-held runs, for which no primes are searched, since a slow device would hold the
	// result of that work. If there is a pool and it is empty, it fails with a NoPreParamsError.
	ClaimReady(ctx context.Context, p Party) (*tss.PreParams, error)
	// Ready returns the error that ClaimReady would return now for lack of a set, and whether more than three quarters
	// of the pool are left.
	Ready(ctx context.Context, p Party) (plenty bool, err error)
	// Pause says that a run begins to compute, and Resume that it has ended: the pool is not filled in between. Calls
	// nest.
	Pause()
	Resume()
}
