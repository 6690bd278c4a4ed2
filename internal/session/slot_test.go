package session

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// A device-held run gets a slot after its device has proved its share and all other checks have passed: a refused run
// has taken none. A hosted run has its ticket already.
func TestAwaitSlot(t *testing.T) {
	type started struct {
		*runner
		st  *stub
		run *Run
		rec *Session
		p   *plan
	}
	// fill occupies every slot of device-held runs.
	fill := func(x *started, others ...string) {
		for _, caller := range others {
			_, err := x.devices.enqueue(caller, OpSign)
			require.NoError(t, err)
		}
	}
	for name, c := range map[string]struct {
		change func(*started)
		want   error
		waits  uint32 // its position
	}{
		"at once": {},
		"the policy": {change: func(x *started) {
			x.p.question, x.ports.Policy = new(Question), policy(func() error { return errStub })
		}, want: errStub},
		"the set": {change: func(x *started) { x.p.curves = []Curve{Secp256k1} }, want: errStub},
		"not recorded": {change: func(x *started) {
			x.st.onBegin = func(*Session) (bool, error) { return false, errStub }
		}, want: errStub},
		"in the queue": {change: func(x *started) { fill(x, "bob") }, want: context.DeadlineExceeded, waits: 1},
		"a full queue": {change: func(x *started) { fill(x, "bob", "carol", "dave") }, want: ErrOverloaded},
		"filled meantime": {change: func(x *started) {
			x.st.onBegin = func(*Session) (bool, error) { fill(x, "bob", "carol", "dave"); return true, nil }
		}, want: ErrOverloaded},
	} {
		synctest.Test(t, func(t *testing.T) {
			st := &stub{
				onBegin: func(*Session) (bool, error) { return true, nil },
				onReady: func() (bool, error) { return false, errStub },
			}
			s := st.runner(t, Config{DeviceRuns: 1, Queue: 2})
			x := &started{s, st, onDevice(s, Device{}), nil, &plan{curves: []Curve{Ed25519}}}
			x.rec = signing(x.run)
			x.rec.Operation = OpCreate
			s.keepDraft(x.run, x.rec)
			says(t, x.run, Part{Hello: &tss.Hello{}})
			if c.change != nil {
				c.change(x)
			}
			held, waiting := s.devices.busy, s.devices.waiting
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			ticket, err := s.awaitSlot(ctx, &work{run: x.run, rec: x.rec}, x.p, nil)
			require.Equal(t, c.waits, x.run.lastProgress().QueuePosition, name)
			if c.want == nil {
				require.NoError(t, err, name)
				require.NotNil(t, ticket)
				require.Same(t, ticket, x.run.device.ticket)
				require.Equal(t, 1, s.devices.busy)
				require.Empty(t, s.unrecorded, "it is recorded")
				return
			}
			require.ErrorIs(t, err, c.want, name)
			require.Nil(t, ticket, name)
			require.Nil(t, x.run.device.ticket, name)
			if name != "filled meantime" {
				require.Equal(t, []int{held, waiting}, []int{s.devices.busy, s.devices.waiting}, name)
			}
		})
	}

	synctest.Test(t, func(t *testing.T) {
		s := new(stub).runner(t, Config{Slots: 1})
		r := newRun(runKey{"alice", "request"}, nil)
		first, err := s.admission.enqueue("alice", OpSign)
		require.NoError(t, err)
		got, err := s.awaitSlot(t.Context(), &work{run: r, rec: signing(r)}, &plan{}, first)
		require.NoError(t, err)
		require.Same(t, first, got)
		second, err := s.admission.enqueue("alice", OpSign)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = s.awaitSlot(ctx, &work{run: r, rec: signing(r)}, &plan{}, second)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, s.admission.waiting)
	})
}

// The device is asked for its hello once, and then the policy.
func TestAuthoriseDevice(t *testing.T) {
	t.Parallel()
	s := new(stub).runner(t, Config{})
	asked, answer := 0, error(nil)
	s.ports.Policy = policy(func() error { asked++; return answer })
	over, cancel := context.WithCancelCause(t.Context())
	cancel(errStub)
	r := onDevice(s, Device{})
	rec := signing(r)
	require.ErrorIs(t, s.authoriseDevice(over, r, rec, &plan{question: new(Question)}), errStub, "no hello")
	require.False(t, r.authorised)
	require.Zero(t, asked)

	says(t, r, Part{Hello: &tss.Hello{}})
	answer = new(DeniedError)
	require.ErrorIs(t, s.authoriseDevice(t.Context(), r, rec, &plan{question: new(Question)}), ErrPolicyDenied)
	require.False(t, r.authorised)
	require.NoError(t, s.authoriseDevice(t.Context(), r, rec, &plan{}), "there is no question")
	require.True(t, r.authorised)
	require.Equal(t, 1, asked)
	require.NoError(t, s.authoriseDevice(over, r, rec, &plan{question: new(Question)}), "it has taken over")
	require.Equal(t, 1, asked)

	r, answer = onDevice(s, Device{}), nil
	says(t, r, Part{Hello: &tss.Hello{}})
	require.NoError(t, s.authoriseDevice(t.Context(), r, rec, &plan{question: new(Question)}))
	require.True(t, r.authorised)
	require.Equal(t, 2, asked)
}

// Only a hello of a device with the share, for this attempt of this session, is a valid proof. A caller with many
// failed proofs is refused, but a device with the share is still accepted.
func TestProofOfTheShare(t *testing.T) {
	t.Parallel()
	set, other := newPair(t), newPair(t)
	s := new(stub).runner(t, Config{})
	proves := func(p *plan, part func(*Run) Part) error {
		r := onDevice(s, Device{Instance: "one"})
		says(t, r, part(r))
		err := s.awaitProof(t.Context(), r, signing(r), p)
		require.Empty(t, s.unproven.of)
		return err
	}
	right := func(r *Run) Part { return Part{Hello: set.hello(t, r.id, r.attempt, "one")} }
	bad := []func(*Run) Part{
		func(r *Run) Part { return Part{Hello: other.hello(t, r.id, r.attempt, "one")} },
		func(*Run) Part { return Part{Hello: &tss.Hello{}} },
		func(*Run) Part { return message(1) },
		func(r *Run) Part { return Part{Hello: set.hello(t, r.id, r.attempt+1, "one")} },
		func(r *Run) Part { return Part{Hello: set.hello(t, "other", r.attempt, "one")} },
		func(r *Run) Part { return Part{Hello: set.hello(t, r.id, r.attempt, "two")} },
	}
	require.NoError(t, proves(set.plan(), right))
	for i := range maxBadProofs {
		require.ErrorIs(t, proves(set.plan(), bad[i%len(bad)]), ErrShareSetMismatch, i)
	}
	limited := new(LimitedError)
	for i, part := range bad {
		require.ErrorAs(t, proves(set.plan(), part), &limited, i)
		require.True(t, limited.Proofs)
		require.Positive(t, limited.RetryAfter)
	}
	require.NoError(t, proves(set.plan(), right))

	// A new wallet has no share to prove, but needs a hello.
	aborted := new(AbortedError)
	require.ErrorAs(t, proves(&plan{}, func(*Run) Part { return message(1) }), &aborted)
	require.Equal(t, "CLIENT", aborted.Culprit)
	require.NoError(t, proves(&plan{}, func(*Run) Part { return Part{Hello: &tss.Hello{}} }))
}

// A silent device is waited for no longer than proofTime.
func TestNoHello(t *testing.T) {
	for silence, want := range map[time.Duration]time.Duration{time.Second: time.Second, time.Hour: proofTime} {
		synctest.Test(t, func(t *testing.T) {
			s := new(stub).runner(t, Config{DeviceSilence: silence})
			r := onDevice(s, Device{})
			began := time.Now()
			require.ErrorIs(t, s.awaitProof(t.Context(), r, signing(r), &plan{}), ErrInterrupted)
			require.Equal(t, want, time.Since(began))
		})
	}
}

// The checks whose result only a client with the share may learn.
func TestCheckSet(t *testing.T) {
	t.Parallel()
	type started struct {
		*runner
		st  *stub
		rec *Session
		p   *plan
	}
	for name, c := range map[string]struct {
		change func(*started)
		want   error
		counts bool // as one of the runs that make a set of the wallet
	}{
		"provision": {counts: true},
		"sign": {change: func(x *started) {
			x.rec.Operation = OpSign
			x.st.onWallet = nil // it is not asked
		}},
		"a full queue": {change: func(x *started) {
			for _, caller := range []string{"a", "b", "c"} {
				_, err := x.devices.enqueue(caller, OpSign)
				require.NoError(t, err)
			}
		}, want: ErrOverloaded},
		"a locked set": {change: func(x *started) {
			x.st.onSet = func() (*StoredSet, error) {
				return &StoredSet{ShareSet: ShareSet{State: SetActive, LockTime: time.Now()}}, nil
			}
		}, want: ErrShareSetLocked},
		"no wallet": {change: func(x *started) {
			x.st.onWallet = func() (*Wallet, error) { return nil, errStub }
		}, want: errStub, counts: true},
		"one set too many": {change: func(x *started) {
			pending := ShareSet{State: SetPending, ExpireTime: time.Now().Add(time.Hour)}
			x.st.onWallet = func() (*Wallet, error) { return &Wallet{Sets: []ShareSet{pending}}, nil }
		}, want: ErrTooManyPending, counts: true},
		"a new wallet": {change: func(x *started) { x.p.uses = "" }},
		"a new wallet with pre-params": {change: func(x *started) {
			x.p.uses, x.p.curves = "", []Curve{Secp256k1}
			x.st.onReady = func() (bool, error) { return true, nil }
		}},
		"a new wallet without pre-params": {change: func(x *started) {
			x.p.uses, x.p.curves = "", []Curve{Secp256k1}
			x.st.onReady = func() (bool, error) { return false, errStub }
		}, want: errStub},
	} {
		st := &stub{
			onSet:    func() (*StoredSet, error) { return &StoredSet{ShareSet: ShareSet{State: SetActive}}, nil },
			onWallet: func() (*Wallet, error) { return &Wallet{}, nil },
		}
		s := st.runner(t, Config{DeviceRuns: 1, Queue: 2, PendingSets: 1})
		r := onDevice(s, Device{})
		x := &started{s, st, signing(r), &plan{walletID: "wallet", uses: "set", curves: []Curve{Ed25519}}}
		x.rec.Operation = OpProvision
		if c.change != nil {
			c.change(x)
		}
		err := s.checkSet(t.Context(), r, x.rec, x.p)
		if c.want == nil {
			require.NoError(t, err, name)
		} else {
			require.ErrorIs(t, err, c.want, name)
		}
		require.Equal(t, c.counts, r.walletID == "wallet", name)
	}
}

// A caller's new wallets leave half of the pool to others.
func TestCheckPoolForCreate(t *testing.T) {
	t.Parallel()
	plenty, fault := true, error(nil)
	st := &stub{onReady: func() (bool, error) { return plenty, fault }}
	s := st.runner(t, Config{Creates: 1})
	for range 3 {
		require.NoError(t, s.checkPoolForCreate(t.Context(), "alice"), "the pool is nearly full")
	}
	plenty, fault = false, new(NoPreParamsError)
	for range 3 {
		require.ErrorIs(t, s.checkPoolForCreate(t.Context(), "alice"), ErrOverloaded, "it is not counted")
	}
	fault = nil
	require.NoError(t, s.checkPoolForCreate(t.Context(), "alice"))
	limited := new(LimitedError)
	require.ErrorAs(t, s.checkPoolForCreate(t.Context(), "alice"), &limited)
	require.Positive(t, limited.RetryAfter)
	require.False(t, limited.Proofs || limited.Waste)
	require.NoError(t, s.checkPoolForCreate(t.Context(), "bob"))
}

// Parts are accepted only for the attempt of their instance; a late device is told how the session ended.
func TestSendMessages(t *testing.T) {
	t.Parallel()
	parts := []Numbered{{Sequence: 1, Part: Part{Hello: &tss.Hello{}}}, {Sequence: 2, Part: message(1)}}
	type runs []func(*runner)
	live := func(instance string) func(*runner) {
		return func(s *runner) { r := onDevice(s, Device{Instance: instance}); s.live[r.key] = r }
	}
	takeover := func(instance string, is bool) func(*runner) {
		return func(s *runner) {
			r := onDevice(s, Device{Instance: instance})
			r.ended = is
			s.takeovers[instanceKey{"session", instance}] = r
		}
	}
	ended := func(s *runner) { r := onDevice(s, Device{Instance: "one"}); r.ended = true; s.live[r.key] = r }
	closed := func(s *runner) { r := onDevice(s, Device{Instance: "one"}); r.device.close(); s.live[r.key] = r }
	hosted := func(s *runner) { r := newRun(runKey{"alice", "request"}, nil); s.live[r.key] = r }
	for name, x := range map[string]struct {
		runs    runs
		caller  string
		attempt uint32
		state   State
		failed  error
		ack     uint32
		want    error
	}{
		"its own":                   {runs: runs{live("one")}, state: Running, ack: 1},
		"a stranger's":              {runs: runs{live("one")}, caller: "bob", state: Running, want: ErrSessionNotFound},
		"another instance's":        {runs: runs{live("two")}, state: Running, want: ErrInterrupted},
		"another attempt's":         {runs: runs{live("one")}, attempt: 2, state: Running, want: ErrInterrupted},
		"a takeover's":              {runs: runs{live("two"), takeover("one", false)}, state: Running, ack: 1},
		"stopped":                   {runs: runs{closed}, state: Running, want: ErrInterrupted},
		"hosted":                    {runs: runs{hosted}, state: Running, want: ErrInterrupted},
		"succeeded":                 {state: Succeeded, ack: 2},
		"succeeded, a moment ago":   {runs: runs{ended}, state: Succeeded, ack: 2},
		"succeeded, for another":    {runs: runs{live("two")}, state: Succeeded, want: ErrInterrupted},
		"the same after a takeover": {runs: runs{live("two"), takeover("one", true)}, state: Succeeded, want: ErrInterrupted},
		"failed":                    {state: Failed, failed: ErrShareSetLocked, want: ErrShareSetLocked},
		"failed, a moment ago":      {runs: runs{ended}, state: Failed, failed: ErrShareSetLocked, want: ErrShareSetLocked},
		"failed, now another's": {
			runs: runs{live("two")}, state: Failed, failed: ErrShareSetLocked, want: ErrInterrupted,
		},
		"without a run": {state: Running, want: ErrInterrupted},
	} {
		st := &stub{onSession: func() (*Session, error) {
			rec := &Session{ID: "session", Caller: "alice", RequestID: "request", State: x.state}
			if x.failed != nil {
				rec.Failure = failure(x.failed)
			}
			return rec, nil
		}}
		s := st.runner(t, Config{})
		for _, run := range x.runs {
			run(s)
		}
		c := Caller{Name: "alice"}
		if x.caller != "" {
			c.Name = x.caller
		}
		ack, err := (&Service{s}).SendMessages(t.Context(), c, "session", "one", max(1, x.attempt), parts)
		if x.want == nil {
			require.NoError(t, err, name)
		} else {
			require.ErrorIs(t, err, x.want, name)
		}
		require.Equal(t, x.ack, ack, name)
	}
	st := &stub{onSession: func() (*Session, error) { return nil, fmt.Errorf("%w: swept", ErrSessionNotFound) }}
	s := &Service{st.runner(t, Config{})}
	_, err := s.SendMessages(t.Context(), Caller{Name: "alice"}, "session", "one", 1, parts)
	require.ErrorIs(t, err, ErrSessionNotFound)
}
