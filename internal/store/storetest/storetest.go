// Package storetest is the test suite for stores: it tests each promise in the comments of session.Wallets and
// session.Sessions, including races between callers and failures half way.
//
// It knows no SQL, and uses only the interface. Tests specific to one kind of store (file modes, bytes on disk) are
// with that store.
package storetest

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/tss"
)

// Backend is a store as the service uses it.
type Backend interface {
	ports
	auditLog
	sealedRows
	pool
	database
}

// ports are what a session.Service works with.
type ports interface {
	session.Wallets
	session.Sessions
	session.Budgets
	session.Housekeeper
	session.Deletions
}

type database interface {
	Close() error
	Meta(ctx context.Context, key string) ([]byte, error)
	SetMetaOnce(ctx context.Context, key string, value []byte) ([]byte, error)
}

type auditLog interface {
	Audit(ctx context.Context, walletID string) ([]store.AuditLine, error)
	VerifyAudit(ctx context.Context) (entries, chains int, err error)
}

// Open opens the store in a directory, which is empty the first time. The same directory opens the same store again.
type Open func(t *testing.T, dir string) Backend

// suite has every test that a store must pass.
var suite = map[string]func(*testing.T, Backend){
	"wallet/round trip":          walletRoundTrip,
	"wallet/not found":           notFound,
	"wallet/sets in order":       setsInOrder,
	"list":                       list,
	"confirm":                    confirm,
	"confirm/race":               confirmRace,
	"revoke":                     revoke,
	"revoke/pending":             revokePending,
	"revoke/refused":             revokeRefused,
	"revoke/race":                revokeRace,
	"revoke/race with a commit":  revokeCommitRace,
	"begin":                      begin,
	"begin/race":                 beginRace,
	"update":                     update,
	"update/superseded":          updateSuperseded,
	"commit/signing":             commitSigning,
	"commit/superseded":          commitSuperseded,
	"commit/race":                commitRace,
	"commit/all or nothing":      commitAtomic,
	"commit/parent not active":   commitParent,
	"commit/used set not active": commitUsed,
	"commit/used set locked":     commitLocked,
	"aborts":                     aborts,
	"aborts/all or nothing":      abortsAtomic,
	"aborts/race":                abortsRace,
	"release":                    release,
	"armed":                      armed,
	"armed/limits":               armedLimits,
	"armed/race":                 armedRace,
	"armed/blame":                armedBlame,
	"armed/blame later":          armedBlameLater,
	"armed/wallet":               armedWallet,
	"armed/interrupt all":        armedInterruptAll,
	"aborts/wallet":              abortsWallet,
	"restart":                    restart,
	"restart/race":               restartRace,
	"by share set":               byShareSet,
	"deletions":                  deletions,
	"deletions/planned":          deletionsPlanned,
	"deletions/late commit":      deletionsLateCommit,
	"deletions/race":             deletionsRace,
	"deletions/revoke":           deletionsRevoke,
	"deletions/sweep":            deletionsSweep,
	"deletions/restart":          deletionsRestart,
	"sweep":                      sweep,
	"sweep/signing":              sweepSigning,
	"sweep/sessions":             sweepSessions,
	"sweep/race":                 sweepRace,
	"audit":                      audit,
	"audit/by the clock":         auditByTheClock,
	"audit/race":                 auditRace,
	"interrupt all":              interruptAll,
	"moduli":                     moduli,
	"moduli/race":                moduliRace,
	"pre-params":                 preParams,
	"pre-params/race":            preParamsRace,
	"pre-params/renewal":         preParamsRenewal,
	"pre-params/a modulus again": preParamsOfAnOlderState,
	"meta":                       meta,
	"meta/race":                  metaRace,
	"reseal":                     reseal,
	"reseal/race":                resealRace,
	"a caller that is gone":      cancelled,
	"arguments stay the callers": noAliasing,
}

// Run runs the suite, each test with a store of its own.
func Run(t *testing.T, open Open) {
	for name, test := range suite {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, t.TempDir())
			t.Cleanup(func() { require.NoError(t, b.Close()) })
			test(t, b)
		})
	}
	t.Run("durable", func(t *testing.T) {
		t.Parallel()
		durable(t, open)
	})
}

// racers is how many goroutines contend in a race.
const racers = 16

// now returns the time with a store's precision: UTC, whole microseconds.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// NewSession returns a session as it is first recorded.
func NewSession(walletID string, op session.Operation) *session.Session {
	return &session.Session{
		ID: uuid.NewString(), Caller: "caller " + uuid.NewString(), RequestID: uuid.NewString(),
		Fingerprint: []byte("fingerprint"),
		WalletID:    walletID, Operation: op, State: session.Queued, Attempt: 1,
		Progress:   session.Progress{Status: session.StatusQueued, Sequence: 1, Attempt: 1},
		CreateTime: now(),
	}
}

// Succeed gives a session the fields of a success, and a result.
func Succeed(s *session.Session, shareSetID string, result []byte) {
	s.State, s.ShareSetID = session.Succeeded, shareSetID
	s.Progress = session.Progress{Status: session.StatusDone, Done: true, Percent: 100, Sequence: 40, Attempt: s.Attempt}
	s.Result, s.ExpireTime = &session.Result{Data: result}, now().Add(15*time.Minute)
}

// NewSet returns a PENDING SIGNING set that s made, with a server share on both curves.
func NewSet(s *session.Session, parentID string) *session.StoredSet {
	id := uuid.NewString()
	set := &session.StoredSet{
		ShareSet: session.ShareSet{
			ID: id, WalletID: s.WalletID, Purpose: tss.Signing, State: session.SetPending, ParentID: parentID,
			DisplayName: "a phone", CreateTime: now(), ExpireTime: now().Add(15 * time.Minute),
		},
		Record: []byte("record of " + id), SessionID: s.ID,
		ServerShare: []session.Sealed{{Curve: tss.Secp256k1, Ciphertext: random(400)},
			{Curve: tss.Ed25519, Ciphertext: random(150)}},
	}
	copy(set.ClientShare[:], id)
	return set
}

// random returns bytes that appear nowhere else.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// NewWallet stores a wallet with one PENDING set, and the session that made both.
func NewWallet(t *testing.T, b Backend, owner string) (*session.Session, *session.StoredSet) {
	t.Helper()
	s := NewSession(uuid.NewString(), session.OpCreate)
	set := NewSet(s, "")
	start(t, b, s)
	Succeed(s, set.ID, []byte("result of "+s.ID))
	require.NoError(t, b.Commit(t.Context(), s, Making(set, wallet(s.WalletID, owner)), Audit("commit", s.WalletID)))
	return s, set
}

// Audit returns an entry about a wallet.
func Audit(action, walletID string) session.Entry {
	return session.Entry{Time: now(), Caller: "alice", Action: "test." + action, WalletID: walletID, Outcome: "ok"}
}

// Making returns what a session commits: a set with its parent, and a wallet if it is new.
func Making(set *session.StoredSet, wallet *session.Wallet) session.Made {
	m := session.Made{Set: set, Wallet: wallet}
	if set != nil {
		m.Used = set.ParentID
	}
	return m
}

// AddSet stores another PENDING set of a wallet, made from the parent.
func AddSet(t *testing.T, b Backend, walletID, parentID string) (*session.Session, *session.StoredSet) {
	t.Helper()
	s := NewSession(walletID, session.OpProvision)
	set := NewSet(s, parentID)
	start(t, b, s)
	Succeed(s, set.ID, []byte("result of "+s.ID))
	require.NoError(t, b.Commit(t.Context(), s, Making(set, nil), Audit("commit", s.WalletID)))
	return s, set
}

// active stores a wallet with an ACTIVE set.
func active(t *testing.T, b Backend) *session.StoredSet {
	t.Helper()
	_, set := NewWallet(t, b, "owner")
	activate(t, b, set)
	return set
}

func activate(t *testing.T, b Backend, set *session.StoredSet) {
	t.Helper()
	changed, err := b.Confirm(t.Context(), set.WalletID, set.ID, Audit("confirm", set.WalletID))
	require.NoError(t, err)
	require.True(t, changed)
}

// start records a session and sets it running.
func start(t *testing.T, b Backend, s *session.Session) {
	t.Helper()
	_, created, err := b.Begin(t.Context(), s, Audit("begin", s.WalletID))
	require.NoError(t, err)
	require.True(t, created)
	s.State = session.Running
	require.NoError(t, b.Update(t.Context(), s, plenty(), Audit("update", s.WalletID)))
}

func wallet(id, owner string) *session.Wallet {
	return &session.Wallet{
		ID: id, Owner: owner, CreateTime: now(), HostedSince: now().Add(time.Second),
		Keys: []session.PublicKey{{Curve: tss.Secp256k1, Key: []byte("key 1 of " + id)},
			{Curve: tss.Ed25519, Key: []byte("key 2 of " + id)}},
	}
}

// set, found and stored read from the store.

func set(t *testing.T, b Backend, walletID, id string) *session.StoredSet {
	t.Helper()
	s, err := b.Set(t.Context(), walletID, id)
	require.NoError(t, err)
	return s
}

func found(t *testing.T, b Backend, walletID string) *session.Wallet {
	t.Helper()
	w, err := b.Wallet(t.Context(), walletID)
	require.NoError(t, err)
	return w
}

func stored(t *testing.T, b Backend, id string) *session.Session {
	t.Helper()
	s, err := b.Session(t.Context(), id)
	require.NoError(t, err)
	return s
}

// pick returns a function for Revoke that names the given sets.
func pick(ids ...string) func([]session.ShareSet) ([]string, error) {
	return func([]session.ShareSet) ([]string, error) { return ids, nil }
}

// race calls f from many goroutines at once and returns how often it returned true.
func race(t *testing.T, f func(i int) bool) int {
	t.Helper()
	ready, won := make(chan struct{}), make(chan bool)
	for i := range racers {
		go func() { // ends when f has returned and its result was received
			<-ready
			won <- f(i)
		}()
	}
	close(ready)
	n := 0
	for range racers {
		if <-won {
			n++
		}
	}
	return n
}
