package session

import (
	"context"
	"time"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// Wallets is the store's side for wallets and their sets. What a method changed is
// durable when it returns nil, and not there at all when it returns an error. While the
// store cannot be used (a full disk, another process's lock) that is ErrInterrupted: the
// same call may work later.
type Wallets interface {
	// Wallet returns a wallet with all its sets, or ErrWalletNotFound.
	Wallet(ctx context.Context, walletID string) (*Wallet, error)
	// List returns up to limit wallets in order of creation, those after a position, of one
	// owner (empty: of all). None is an empty list, no error.
	List(ctx context.Context, owner string, after Position, limit int) ([]Wallet, error)
	// Set returns one set of a wallet, or ErrShareSetNotFound.
	Set(ctx context.Context, walletID, shareSetID string) (*StoredSet, error)
	// Confirm turns a PENDING set ACTIVE and erases the waiting result of the session
	// that made it, in one transaction. It returns ErrShareSetNotFound where the set is
	// not there, and changed = false where it is not PENDING any more (two callers: one
	// of them gets true).
	Confirm(ctx context.Context, walletID, shareSetID string, e Entry) (changed bool, err error)
	// Revoke asks pick which of the wallet's sets go, and erases their halves, all in one
	// transaction that excludes other changes of the wallet. An error of pick comes back
	// as it is. Sets that are revoked already stay as they are. Each set that goes gets an
	// entry like e with its own id.
	Revoke(ctx context.Context, walletID string, at time.Time, pick func([]ShareSet) ([]string, error), e Entry) error
	// Release unlocks a set, sets its hard aborts to 0, which its wallet has no more either, and
	// makes its soft budget whole. A wallet that is locked is unlocked, and counts anew. Where
	// there is nothing of all this, it changes nothing and writes no entry; else e, with the
	// counts that there were in its detail. It returns ErrShareSetNotFound where the set is not
	// there, and ErrShareSetRevoked where it is REVOKED.
	Release(ctx context.Context, walletID, shareSetID string, b Budget, e Entry) error
	// ReserveModuli notes, by their SHA-256, moduli that a run of the wallet is about to
	// use. It returns ErrModulusUsed, and notes none, where any was noted before: one that was
	// made here for any wallet, by whomever; a device's for this wallet, or for any as made
	// here. That one made here comes again shows that the pool that it came from is an older
	// state: the sets that are there are dropped.
	ReserveModuli(ctx context.Context, walletID string, maker Maker, sums ...[32]byte) error
}

// Maker says who made moduli. The numbers are the store's.
type Maker uint8

// The makers of moduli.
const (
	MadeByDevice Maker = 1
	MadeHere     Maker = 2 // by the service, for either party
)

// Sessions is the store's side for sessions, with the same promise of durability. An
// audit entry is written in the transaction of the change that it speaks of.
type Sessions interface {
	// Begin records a new session. Where the caller used the request id before, it
	// records nothing and returns the session that is there, with created = false; of two
	// callers that race, one gets true.
	Begin(ctx context.Context, s *Session, e Entry) (there *Session, created bool, err error)
	// Restart records the next attempt of a session that was INTERRUPTED: attempt, state,
	// progress and expire time of s. It returns ErrSuperseded where the stored session is
	// not INTERRUPTED at the attempt before: of two callers that race, one gets nil.
	Restart(ctx context.Context, s *Session, e Entry) error
	// ByRequest returns a caller's session with that request id, or ErrSessionNotFound.
	ByRequest(ctx context.Context, caller, requestID string) (*Session, error)
	// ByShareSet returns the session that made a set, or ErrSessionNotFound.
	ByShareSet(ctx context.Context, shareSetID string) (*Session, error)
	// Session returns a session by its id, or ErrSessionNotFound.
	Session(ctx context.Context, sessionID string) (*Session, error)
	// Update stores state, progress and failure of the attempt that s names. Where that ends
	// it, the set that it used is charged in the same transaction: a hard abort where its
	// client broke the run, a soft one where it did not and the run was armed. What reaches a
	// limit of b is locked, from e's time on, and entries like e say so. It returns
	// ErrSuperseded where the stored session has ended, or is at another attempt: then nothing
	// is charged either.
	Update(ctx context.Context, s *Session, b Budget, e Entry) error
	// Commit ends a session with success: state, progress, result and share set id, and in
	// the same transaction what it made. It returns ErrSuperseded like Update,
	// ErrShareSetRevoked where the set that it used is not ACTIVE any more,
	// ErrShareSetLocked where it was locked, and ErrInterrupted where the deletion of the
	// new set has begun (see Deletions). A session that is armed cannot succeed.
	Commit(ctx context.Context, s *Session, m Made, e Entry) error
}

// Made is what a session commits besides its own end.
type Made struct {
	Set    *StoredSet // nil for signing
	Wallet *Wallet    // nil unless new
	Used   string     // the set that was reshared or signed with; "" for a new wallet
}

// Budgets is the store's side of what clients may cost, with the promise of Sessions.
type Budgets interface {
	// Arm marks an attempt as armed: whoever ends it charges a soft abort, unless it is disarmed
	// before. It returns ErrSuperseded like Update, ErrShareSetRevoked or ErrShareSetLocked where
	// the set may not be used any more, and what Budget.Room returns: of sessions that race for
	// the last place, one gets nil. To arm twice is fine.
	Arm(ctx context.Context, s *Session, b Budget) error
	// Disarm takes that back and writes e, that a signature leaves; also of an attempt that was
	// never armed. It returns ErrSuperseded, ErrShareSetRevoked and ErrShareSetLocked like Arm.
	Disarm(ctx context.Context, s *Session, e Entry) error
	// Blame charges a hard abort for an attempt that its client broke and somebody else ended,
	// in place of a soft one, and writes e. Of one that was charged so already it does nothing.
	Blame(ctx context.Context, s *Session, b Budget, e Entry) error
}

// Housekeeper is the store's side of what happens by the clock, and of the audit log.
type Housekeeper interface {
	// Sweep erases what nobody confirmed in time: PENDING sets with their halves, results
	// that wait, and wallets whose only set went. Their sessions become EXPIRED and stay,
	// without secrets, until they are older than keep, and then go too.
	Sweep(ctx context.Context, now time.Time, keep time.Duration) (Swept, error)
	// Record writes an audit entry that goes with no change, such as a refusal.
	Record(ctx context.Context, e Entry) error
	// InterruptAll marks every session that has not ended as INTERRUPTED, with a Failure,
	// charges those that are armed, like Update, and says how many there were. Called once,
	// before a service that owns its store starts to serve.
	InterruptAll(ctx context.Context, b Budget) (int, error)
}

// Swept counts what a sweep erased.
type Swept struct{ Sets, Results, Wallets, Sessions int }

// Sealer encrypts what is kept at rest. Open fails with ErrDataCorrupted where the
// ciphertext was altered, or was sealed under another label or keyset.
type Sealer interface {
	Seal(plaintext secret.Bytes, label Label) ([]byte, error)
	Open(ciphertext []byte, label Label) (secret.Bytes, error)
	// MAC returns a keyed hash, the same for the same data over restarts.
	MAC(data []byte) ([]byte, error)
}

// Label is the associated data of a sealed value: it binds a ciphertext to its place, so
// that no row can stand in for another.
type Label struct {
	Kind       string // one of SealedKinds
	WalletID   string
	ShareSetID string
	Curve      tss.Curve // 0 where the value is not of one curve
	Party      tss.Party
}

// Custodian keeps the server's share of a share set.
type Custodian interface {
	// Deposit takes a new half in. It returns what must stand in the set's own row, which
	// is committed afterwards: the sealed half itself where mpcd keeps it, nothing where
	// somebody else does. When it returns nil, Fetch with that row will find the half.
	Deposit(ctx context.Context, owner string, set *ShareSet, half *tss.Share) ([]Sealed, error)
	// Fetch returns the half of a set as it was deposited. The caller wipes it. It fails
	// with ErrDataCorrupted where what is kept was altered.
	Fetch(ctx context.Context, owner string, set *StoredSet) (*tss.Share, error)
}

// Policy is somebody else's word on what callers may do, besides scopes and ownership.
type Policy interface {
	// Allow returns nil for yes, a DeniedError for no, and ErrWebhookFailed where there is
	// no answer, which is not yes. It returns after a bounded time.
	Allow(ctx context.Context, q Question) error
}

// Question is what a Policy is asked: who wants to do what. It holds no secret.
type Question struct {
	Caller     string
	Operation  string // BACKUP, PROVISION, SIGN or REVOKE
	WalletID   string
	Owner      string // of the wallet
	ShareSetID string // the set that is reshared, signs, or is revoked
	RequestID  string // empty for REVOKE
	Curve      Curve  // SIGN only
	Digest     []byte // SIGN only: what is signed on SECP256K1, and its SHA-256 on ED25519
}

// PreParams hands out sets of pre-params, each to one taker only, and for one party: whoever
// knows the primes of a client's set must never meet it as a server's.
type PreParams interface {
	// Claim returns a validated set of a party's that nobody else got. It may have to make
	// one, which takes seconds; it returns ctx's error once ctx is done.
	Claim(ctx context.Context, p Party) (*tss.PreParams, error)
	// ClaimReady is Claim for a device-held run, for which no primes are searched, since a slow
	// device would keep what was searched for it: where sets are made ahead and there is none,
	// it fails with a NoPreParamsError.
	ClaimReady(ctx context.Context, p Party) (*tss.PreParams, error)
	// Ready returns the error that ClaimReady would now return for want of a set, and whether
	// there are plenty: more than three quarters of what is kept.
	Ready(ctx context.Context, p Party) (plenty bool, err error)
	// Pause tells that a run begins to compute, and Resume that it has ended: what is made
	// ahead in the background steps aside in between. Calls nest.
	Pause()
	Resume()
}
