package session

import (
	"cmp"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// A call may attach to a live run if it is from the same instance, or has no device.
func TestIsOfInstance(t *testing.T) {
	t.Parallel()
	s := new(stub).runner(t, Config{})
	live, ended := onDevice(s, Device{Instance: "one"}), onDevice(s, Device{Instance: "one"})
	hosted := newRun(runKey{}, nil)
	ended.end(nil, errStub)
	other := &Device{Instance: "two"}
	for _, x := range []struct {
		run  *Run
		d    *Device
		want bool
	}{
		{live, nil, true},
		{live, &Device{Instance: "one"}, true},
		{live, &Device{Instance: "one", Attempt: 1}, true},
		{live, &Device{Instance: "one", Attempt: 2}, false},
		{live, other, false},
		{live, &Device{Instance: "two", Attempt: 1}, false},
		{ended, other, true},
		{hosted, other, true},
	} {
		require.Equal(t, x.want, x.run.isOfInstance(x.d), "%+v", x.d)
	}
}

// takenOver is a live run of a device's first instance, and the request of another instance.
type takenOver struct {
	*runner
	st  *stub
	run *Run
	op  *asked
	job job
}

func newTakenOver(t *testing.T) *takenOver {
	t.Helper()
	x := &takenOver{st: new(stub)}
	x.runner = x.st.runner(t, Config{})
	x.run = onDevice(x.runner, Device{Instance: "one"})
	x.run.report(Progress{})
	x.live[x.run.key] = x.run
	x.op = &asked{onPrepare: func() (*plan, error) { return &plan{walletID: "wallet", curves: []Curve{Ed25519}}, nil }}
	x.job = job{
		operation: x.op, op: OpCreate, caller: Caller{Name: "alice"}, requestID: "request",
		fingerprint: []byte("fingerprint"), device: &Device{Instance: "two"},
	}
	t.Cleanup(func() {
		x.cancel(errClosing)
		x.wg.Wait()
	})
	return x
}

// Another instance of a live run's device is told the next attempt; if it calls again, it attaches to its own run.
func TestOtherInstance(t *testing.T) {
	t.Parallel()
	x := newTakenOver(t)
	n, err := x.otherInstance(t.Context(), x.run, x.job)
	require.NoError(t, err)
	require.Equal(t, "session", n.id)
	require.Equal(t, uint32(2), n.attempt)
	require.Greater(t, n.lastProgress().Sequence, x.run.lastProgress().Sequence)
	require.Same(t, x.run, x.live[x.run.key], "the run goes on")
	calls := func(d Device) (*Run, error) {
		j := x.job
		j.device = &d
		return x.otherInstance(t.Context(), x.run, j)
	}
	x.op.onPrepare = func() (*plan, error) { return nil, errStub } // must not be called again
	for _, attempt := range []uint32{0, 2} {
		again, err := calls(Device{Instance: "two", Attempt: attempt})
		require.NoError(t, err)
		require.Same(t, n, again)
	}
	for _, d := range []Device{
		{Instance: "two", Attempt: 1}, {Instance: "two", Attempt: 3}, {Instance: "three", Attempt: 1},
	} {
		again, err := calls(d)
		require.ErrorIs(t, err, ErrInterrupted, "%+v", d)
		require.Nil(t, again)
	}
	require.Len(t, x.takeovers, 1)

	var beside *Run
	x.op.onPrepare = func() (*plan, error) {
		beside = onDevice(x.runner, Device{Instance: "four"})
		x.mu.Lock()
		defer x.mu.Unlock()
		x.takeovers[instanceKey{"session", "four"}] = beside
		return new(plan), nil
	}
	again, err := calls(Device{Instance: "four"})
	require.NoError(t, err)
	require.Same(t, beside, again, "of two calls at the same time, one begins it")
	x.op.onPrepare = func() (*plan, error) { return nil, errStub }
	_, err = calls(Device{Instance: "five"})
	require.ErrorIs(t, err, errStub)
	x.op.onPrepare = func() (*plan, error) { return new(plan), nil }
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	_, err = calls(Device{Instance: "five"})
	require.ErrorIs(t, err, ErrShuttingDown)
	require.NotContains(t, x.takeovers, instanceKey{"session", "five"})
}

// The first instance that has proved its share becomes the live run's successor. If the live run is not recorded,
// neither is its successor.
func TestSetSuccessor(t *testing.T) {
	t.Parallel()
	x := newTakenOver(t)
	n := onDevice(x.runner, Device{Instance: "two"})
	draft := signing(n)
	x.closed = true
	require.ErrorIs(t, x.setSuccessor(n, x.run, draft), ErrShuttingDown)
	x.closed = false
	delete(x.live, x.run.key)
	require.ErrorIs(t, x.setSuccessor(n, x.run, draft), errTakenOver)
	x.live[x.run.key] = x.run
	require.Nil(t, x.run.successor)
	require.NoError(t, x.setSuccessor(n, x.run, draft))
	require.Same(t, n, x.run.successor)
	require.Nil(t, n.draft)
	require.Empty(t, x.unrecorded)
	third := onDevice(x.runner, Device{Instance: "three"})
	require.ErrorIs(t, x.setSuccessor(third, x.run, draft), errTakenOver)
	require.Same(t, n, x.run.successor)

	x.run.successor = nil
	x.keepDraft(x.run, signing(x.run))
	require.NoError(t, x.setSuccessor(third, x.run, draft))
	require.Equal(t, draft, third.draft)
	require.Same(t, third, x.unrecorded["session"])
}

// How the next attempt begins depends on how the one that the takeover ended is stored.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	stored := func(state State, attempt uint32) *Session {
		return &Session{
			ID: "session", Caller: "alice", RequestID: "request", Fingerprint: []byte("fingerprint"),
			State: state, Attempt: attempt, Failure: failure(ErrShareSetLocked),
		}
	}
	for name, c := range map[string]struct {
		noHello bool
		policy  error
		panics  bool
		late    bool // another instance was first
		there   *Session
		find    error
		restart error
		says    string // the fingerprint of the stored session if it was not restarted
		begins  bool
		drafted bool
		ends    error // of the new run
		want    error
	}{
		"interrupted":        {there: stored(Interrupted, 1), begins: true},
		"not recorded":       {find: ErrSessionNotFound, begins: true, drafted: true},
		"it had failed":      {there: stored(Failed, 1), ends: ErrShareSetLocked},
		"at another attempt": {there: stored(Interrupted, 4), ends: ErrShareSetLocked},
		"not found":          {find: errStub, want: errStub},
		"not restarted":      {there: stored(Interrupted, 1), restart: errStub, want: errStub},
		"another request's":  {there: &Session{Fingerprint: []byte("other"), State: Failed}, want: ErrRequestIDReused},
		"that of another one": {
			there: stored(Interrupted, 1), restart: ErrSuperseded, says: "other", want: ErrRequestIDReused,
		},
		"no hello":             {noHello: true, want: ErrProtocolAborted},
		"denied":               {policy: new(DeniedError), want: ErrPolicyDenied},
		"a panic":              {panics: true, want: ErrInternal},
		"another was faster":   {late: true, want: errTakenOver},
		"began by another one": {there: stored(Interrupted, 1), restart: ErrSuperseded, ends: ErrShareSetLocked},
	} {
		x := newTakenOver(t)
		x.ports.Policy = policy(func() error {
			if c.panics {
				panic("the policy")
			}
			return c.policy
		})
		x.st.onByRequest = func() (*Session, error) {
			if c.find != nil {
				return nil, c.find
			}
			copied := *c.there
			return &copied, nil
		}
		x.st.onSession = func() (*Session, error) {
			rec := stored(Failed, 1)
			rec.Fingerprint = []byte(cmp.Or(c.says, "fingerprint"))
			return rec, nil
		}
		x.st.onRestart = func(rec *Session) error {
			require.Equal(t, uint32(2), rec.Attempt, name)
			return c.restart
		}
		n := onDevice(x.runner, Device{Instance: "two"})
		n.attempt, n.first = 2, 100
		first := Part{Hello: &tss.Hello{}}
		if c.noHello {
			first = message(1)
		}
		says(t, n, first)
		if c.late {
			x.run.successor = onDevice(x.runner, Device{Instance: "three"})
		}
		go func() { // ends with the test
			ctx, stop := context.WithCancelCause(x.ctx)
			x.run.setStop(stop)
			<-ctx.Done()
			close(x.run.released)
		}()
		rec, err := x.takeOver(n, x.run, x.job, &plan{question: new(Question), curves: []Curve{Ed25519}})
		if c.want == nil {
			require.NoError(t, err, name)
		} else {
			require.ErrorIs(t, err, c.want, name)
		}
		require.Equal(t, c.begins, rec != nil, name)
		require.Equal(t, c.drafted, n.draft != nil, name)
		require.Equal(t, c.ends != nil, n.ended, name)
		if c.ends != nil {
			require.ErrorIs(t, n.err, c.ends, name)
		}
		if c.begins {
			require.Equal(t, "session", rec.ID)
			require.Equal(t, uint32(2), rec.Attempt)
			require.Equal(t, rec.Progress.Sequence, n.first)
			require.ErrorIs(t, x.run.err, errTakenOver)
		}
	}
}

// A takeover that begins runs to its end; one that does not releases what it has.
func TestRunTakeover(t *testing.T) {
	t.Parallel()
	begin := func(find error) (*takenOver, *Run) {
		x := newTakenOver(t)
		x.st.onByRequest = func() (*Session, error) { return nil, find }
		n := onDevice(x.runner, Device{Instance: "two"})
		n.attempt, n.first = 2, 100
		x.takeovers[instanceKey{"session", "two"}] = n
		return x, n
	}
	over := func(x *takenOver) { // as the end of a run does
		ctx, stop := context.WithCancelCause(x.ctx)
		x.run.setStop(stop)
		x.wg.Go(func() {
			<-ctx.Done()
			x.releaseRun(x.run)
		})
	}
	x, n := begin(ErrSessionNotFound)
	over(x)
	says(t, n, Part{Hello: &tss.Hello{}})
	x.st.onBegin = func(*Session) (bool, error) { return true, nil }
	x.st.onUpdate = func(*Session, Budget) error { return nil }
	x.st.onCommit = func(*Session) error { return nil }
	out := &Outcome{WalletID: "wallet"}
	x.op.onExecute = func(*work) (*made, error) { return &made{outcome: out}, nil }
	p := &plan{operation: x.op, walletID: "wallet", curves: []Curve{Ed25519}}
	x.runTakeover(n, x.run, x.job, p)
	require.NoError(t, n.err)
	require.Same(t, out, n.outcome)
	require.Empty(t, x.takeovers)
	require.Empty(t, x.live)

	x, n = begin(errStub) // it is live already when the store fails
	over(x)
	says(t, n, Part{Hello: &tss.Hello{}})
	x.runTakeover(n, x.run, x.job, new(plan))
	require.ErrorIs(t, n.err, errStub)
	require.ErrorIs(t, n.device.stopErr, ErrInterrupted)
	require.Empty(t, x.takeovers)
	require.Empty(t, x.live)

	x, n = begin(nil) // it proves nothing
	says(t, n, Part{Hello: &tss.Hello{}})
	set := newPair(t)
	x.runTakeover(n, x.run, x.job, set.plan())
	require.ErrorIs(t, n.err, ErrShareSetMismatch)
	require.Equal(t, []string{"session.takeover SHARE_SET_MISMATCH"}, x.st.noted())
	require.Same(t, x.run, x.live[x.run.key], "the run goes on")
	require.False(t, x.run.ended)
	select {
	case <-n.released:
		require.Fail(t, "it was never live")
	default:
	}
}
