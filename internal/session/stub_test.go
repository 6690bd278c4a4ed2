package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

var errStub = errors.New("injected fault")

// stub implements the ports of a runner under test. A test sets the methods that it needs; others panic.
type stub struct {
	Wallets
	Sessions
	Budgets
	Housekeeper
	PreParams
	Sealer

	onWallet    func() (*Wallet, error)
	onSet       func() (*StoredSet, error)
	onModuli    func() error
	onByRequest func() (*Session, error)
	onSession   func() (*Session, error)
	onBegin     func(*Session) (created bool, _ error)
	onRestart   func(*Session) error
	onUpdate    func(*Session, Budget) error
	onArm       func() error
	onDisarm    func(Entry) error
	onBlame     func(Entry) error
	onReady     func() (plenty bool, _ error)
	onCommit    func(*Session) error
	onConfirm   func() (changed bool, _ error)
	onRevoke    func() error
	onSeal      func() ([]byte, error)

	mu    sync.Mutex // guards what follows
	notes []Entry
	said  bytes.Buffer // the log
}

func (st *stub) Wallet(context.Context, string) (*Wallet, error)         { return st.onWallet() }
func (st *stub) Set(context.Context, string, string) (*StoredSet, error) { return st.onSet() }
func (st *stub) Session(context.Context, string) (*Session, error)       { return st.onSession() }
func (st *stub) Arm(context.Context, *Session, Budget) error             { return st.onArm() }
func (st *stub) Disarm(_ context.Context, _ *Session, e Entry) error     { return st.onDisarm(e) }
func (st *stub) Ready(context.Context, Party) (bool, error)              { return st.onReady() }
func (st *stub) Restart(_ context.Context, s *Session, _ Entry) error    { return st.onRestart(s) }

func (st *stub) ByRequest(context.Context, string, string) (*Session, error) {
	return st.onByRequest()
}

func (st *stub) ReserveModuli(context.Context, string, Maker, ...[32]byte) error {
	return st.onModuli()
}

func (st *stub) Begin(_ context.Context, s *Session, _ Entry) (*Session, bool, error) {
	created, err := st.onBegin(s)
	return nil, created, err
}

func (st *stub) Update(_ context.Context, s *Session, b Budget, _ Entry) error {
	return st.onUpdate(s, b)
}

func (st *stub) Commit(_ context.Context, s *Session, _ Made, _ Entry) error { return st.onCommit(s) }

func (st *stub) Blame(_ context.Context, _ *Session, _ Budget, e Entry) error { return st.onBlame(e) }

func (st *stub) Record(_ context.Context, e Entry) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.notes = append(st.notes, e)
	return nil
}

func (st *stub) Confirm(context.Context, string, string, Entry) (bool, error) {
	return st.onConfirm()
}

func (st *stub) Revoke(context.Context, string, time.Time, func([]ShareSet) ([]string, error), Entry) error {
	return st.onRevoke()
}

func (st *stub) ByShareSet(context.Context, string) (*Session, error) { return nil, ErrSessionNotFound }

func (st *stub) Seal(secret.Bytes, Label) ([]byte, error) { return st.onSeal() }

// Write receives the log.
func (st *stub) Write(b []byte) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.said.Write(b)
}

func (st *stub) logged() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.said.String()
}

// noted returns the actions and reasons of the audit entries that accompany no change.
func (st *stub) noted() (all []string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, e := range st.notes {
		all = append(all, e.Action+" "+e.Reason)
	}
	return all
}

// runner returns a runner that uses the stub.
func (st *stub) runner(t *testing.T, cfg Config) *runner {
	t.Helper()
	ports := Ports{Wallets: st, Sessions: st, Budgets: st, Housekeeper: st, PreParams: st, Sealer: st}
	ports.Log = slog.New(slog.NewTextHandler(st, nil))
	return newRunner(t.Context(), ports, cfg.withDefaults(), newClock(time.Now))
}

// policy is a Policy that calls a function.
type policy func() error

func (p policy) Allow(context.Context, Question) error { return p() }

// asked is an operation with test functions.
type asked struct {
	onPrepare func() (*plan, error)
	onExecute func(*work) (*made, error)
}

func (a *asked) prepare(context.Context, *runner) (*plan, error) { return a.onPrepare() }

func (a *asked) execute(_ context.Context, _ *runner, w *work, _ *plan) (*made, error) {
	return a.onExecute(w)
}

// onDevice returns a run whose client's side is on a device.
func onDevice(s *runner, d Device) *Run {
	r := newRun(runKey{"alice", "request"}, []byte("fingerprint"))
	r.id, r.created = "session", time.Now()
	r.connectDevice(&d, s.cfg.DeviceSilence, &s.parts)
	return r
}

// says makes the run's device send its first part.
func says(t *testing.T, r *Run, p Part) {
	t.Helper()
	ack, err := r.device.receive([]Numbered{{Sequence: 1, Part: p}})
	require.NoError(t, err)
	require.Equal(t, uint32(1), ack)
}

// pair is an ED25519 set with both shares.
type pair struct {
	set     *StoredSet
	record  *tss.Record
	shares  [2]*tss.Share
	encoded secret.Bytes // the client's
}

func newPair(t *testing.T) *pair {
	t.Helper()
	id := tss.SetID{WalletID: uuid.NewString(), ShareSetID: uuid.NewString(), Purpose: Signing}
	both, err := tss.Hosted(t.Context(), &tss.Operation{
		Party: tss.Server, Kind: OpCreate.String(), SessionID: uuid.NewString(), Attempt: 1, Curves: []Curve{Ed25519},
		Purpose: id.Purpose, WalletID: id.WalletID, ShareSetID: id.ShareSetID,
	}, nil, nil)
	require.NoError(t, err)
	p := &pair{encoded: both[tss.Client].Encoded}
	p.set = &StoredSet{
		ShareSet: ShareSet{ID: id.ShareSetID, WalletID: id.WalletID, Purpose: id.Purpose, State: SetActive},
		Record:   both[tss.Server].Record, ClientShare: sha256.Sum256(p.encoded.Reveal()),
	}
	p.record, err = tss.ParseRecord(p.set.Record)
	require.NoError(t, err)
	for i, side := range both {
		p.shares[i] = side.Share
	}
	return p
}

// wallet returns the pair's wallet.
func (p *pair) wallet() *Wallet {
	return &Wallet{
		ID: p.set.WalletID, Owner: "alice", HostedSince: time.Now(), Sets: []ShareSet{p.set.ShareSet},
		Keys: []PublicKey{{Curve: Ed25519, Key: p.record.Keys[0].PublicKey}},
	}
}

// plan returns the plan of a signing with the pair's set.
func (p *pair) plan() *plan {
	return &plan{
		walletID: p.set.WalletID, owner: "alice", uses: p.set.ID, source: &source{set: p.set, record: p.record},
		payload: []byte("hello"), curves: []Curve{Ed25519},
	}
}

// hello returns the hello of a device with the pair's share, for a signing.
func (p *pair) hello(t *testing.T, sessionID string, attempt uint32, instance string) *tss.Hello {
	t.Helper()
	h := &tss.Hello{Nonce: make([]byte, 32), SessionKey: make([]byte, 32)}
	require.NoError(t, h.Prove(&tss.HelloContext{
		Operation: OpSign.String(), SessionID: sessionID, Attempt: attempt, WalletID: p.set.WalletID, ShareSetID: p.set.ID,
		RecordHash: tss.Hash(p.set.Record), Payload: []byte("hello"), Instance: instance,
	}, p.shares[tss.Client]))
	return h
}

// signing returns the session of a signing run.
func signing(r *Run) *Session {
	return &Session{
		ID: r.id, Caller: r.key.caller, RequestID: r.key.requestID, Fingerprint: r.fingerprint,
		WalletID: "wallet", Used: "set", Operation: OpSign, State: Queued, Attempt: r.attempt,
	}
}
