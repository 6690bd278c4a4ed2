package session_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// atGate opens the stock with one slot and runs that block in the custodian, at the gate.
func atGate(t testing.TB, cfg session.Config) (p *servertest.Parts, gate *servertest.Gate, first, backup held) {
	t.Helper()
	gate = servertest.NewGate()
	cfg.Slots = 1
	p, first, backup = open(t, servertest.Config{Sessions: cfg, Wrap: func(p *session.Ports) {
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: gate.Wait}
	}})
	return p, gate, first, backup
}

// watch follows a run in the background. The channel receives its end.
func watch(t testing.TB, r *session.Run) chan error {
	t.Helper()
	end := make(chan error, 1)
	go func() { end <- r.Follow(t.Context(), 0, 0, func(session.Event) error { return nil }) }() // ends with the run
	return end
}

func stateOf(t testing.TB, p *servertest.Parts, id string) *session.Session {
	t.Helper()
	rec, err := p.Sessions.Session(t.Context(), alice, id)
	require.NoError(t, err)
	return rec
}

// A cancellation ends a run at once for all attached callers, in any state, and is from then on the answer to the same
// request.
func TestCancel(t *testing.T) {
	t.Parallel()
	p, gate, first, _ := atGate(t, session.Config{})
	before, err := p.Store.Wallet(t.Context(), first.wallet)
	require.NoError(t, err)
	running, queued := signWith(first), signWith(first)
	a, err := p.Sessions.Sign(t.Context(), alice, running)
	require.NoError(t, err)
	<-gate.Came
	b, err := p.Sessions.Sign(t.Context(), alice, queued)
	require.NoError(t, err)
	for _, x := range []struct {
		run *session.Run
		req session.SignRequest
	}{{b, queued}, {a, running}} {
		again, err := p.Sessions.Sign(t.Context(), alice, x.req)
		require.NoError(t, err)
		require.Equal(t, x.run.SessionID(), again.SessionID())
		ends := []chan error{watch(t, x.run), watch(t, again), watch(t, x.run)}
		_, err = p.Sessions.Cancel(t.Context(), session.Caller{Name: "stranger", Scopes: servertest.Dev.Scopes}, x.run.SessionID())
		require.ErrorIs(t, err, session.ErrSessionNotFound, "scopes do not permit other callers to use a session")
		rec, err := p.Sessions.Cancel(t.Context(), alice, x.run.SessionID())
		require.NoError(t, err)
		require.Equal(t, session.Cancelled, rec.State)
		for _, end := range ends {
			require.ErrorIs(t, <-end, session.ErrSessionCancelled)
		}
		stands := stateOf(t, p, x.run.SessionID())
		require.Equal(t, session.Cancelled, stands.State)
		require.ErrorIs(t, stands.Err(), session.ErrSessionCancelled)
		rec, err = p.Sessions.Cancel(t.Context(), alice, x.run.SessionID())
		require.NoError(t, err)
		require.Equal(t, stands, rec, "a second time changes nothing")
		r, err := p.Sessions.Sign(t.Context(), alice, x.req)
		_, _, err = ended(t, r, err)
		require.ErrorIs(t, err, session.ErrSessionCancelled, "it is final")
	}
	gate.Open()
	r, err := p.Sessions.Sign(t.Context(), alice, signWith(first)) // the slot was released
	_, out, err := ended(t, r, err)
	require.NoError(t, err)
	require.NotNil(t, out.Signature)
	after, err := p.Store.Wallet(t.Context(), first.wallet)
	require.NoError(t, err)
	require.Equal(t, before, after)

	rec, err := p.Sessions.Cancel(t.Context(), alice, r.SessionID())
	require.NoError(t, err)
	require.Equal(t, session.Succeeded, rec.State, "an ended session is not changed")
	_, err = p.Sessions.Cancel(t.Context(), alice, uuid.NewString())
	require.ErrorIs(t, err, session.ErrSessionNotFound)
}

// Of a cancellation and a commit exactly one wins, and all callers are told the one that is stored.
func TestCancelWhileCommitting(t *testing.T) {
	t.Parallel()
	won := map[session.State]int{}
	for i := range 20 {
		atCommit, cancelled := make(chan struct{}), make(chan struct{})
		p, first, _ := open(t, servertest.Config{Wrap: func(p *session.Ports) {
			p.Sessions = &sessions{Sessions: p.Sessions, commit: func() error {
				close(atCommit)
				if i == 0 { // surely too late for the commit
					<-cancelled
				}
				return nil
			}}
		}})
		req := signWith(first)
		r, err := p.Sessions.Sign(t.Context(), alice, req)
		require.NoError(t, err)
		end := watch(t, r)
		<-atCommit
		if i == 1 { // surely too late for the cancellation
			require.NoError(t, <-end)
			end <- nil
		}
		time.Sleep(time.Duration(i%5) * 50 * time.Microsecond)
		rec, err := p.Sessions.Cancel(t.Context(), alice, r.SessionID())
		close(cancelled)
		require.NoError(t, err)
		err = <-end
		stands := stateOf(t, p, r.SessionID())
		require.Equal(t, stands.State, rec.State)
		again, aerr := p.Sessions.Sign(t.Context(), alice, req)
		_, out, aerr := ended(t, again, aerr)
		switch stands.State {
		case session.Succeeded:
			require.NoError(t, err)
			require.NoError(t, aerr)
			require.NotNil(t, out.Signature)
		default:
			require.Equal(t, session.Cancelled, stands.State)
			require.ErrorIs(t, err, session.ErrSessionCancelled)
			require.ErrorIs(t, aerr, session.ErrSessionCancelled)
			require.Nil(t, stands.Result)
		}
		won[stands.State]++
		p.Stop()
	}
	require.Len(t, won, 2, "both happen")
}

// The run may notice that it was cancelled before its followers were told: they are still told of the cancellation.
func TestRunNoticesItsCancellation(t *testing.T) {
	t.Parallel()
	gate, told := servertest.NewGate(), make(chan struct{})
	p, first, _ := open(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: gate.Wait}
		p.Sessions = &slowCancel{Sessions: p.Sessions, then: func() { gate.Open(); <-told }}
	}})
	r, err := p.Sessions.Sign(t.Context(), alice, signWith(first))
	require.NoError(t, err)
	<-gate.Came
	end := watch(t, r)
	done := make(chan error, 1)
	go func() { // ends when the run has
		_, err := p.Sessions.Cancel(t.Context(), alice, r.SessionID())
		done <- err
	}()
	require.ErrorIs(t, <-end, session.ErrSessionCancelled)
	close(told)
	require.NoError(t, <-done)
}

// slowCancel calls a function between the store's change for a cancellation and its return.
type slowCancel struct {
	session.Sessions
	then func()
}

func (s *slowCancel) Update(ctx context.Context, n *session.Session, b session.Budget, e session.Entry) error {
	err := s.Sessions.Update(ctx, n, b, e)
	if n.State == session.Cancelled && err == nil {
		s.then()
	}
	return err
}

// interruptedRun returns a request whose first attempt was ended by a shutdown, and a restarted service.
func interruptedRun(t testing.TB, wrap func(*session.Ports)) (p *servertest.Parts, req session.SignRequest, first *session.Session, last uint32) {
	t.Helper()
	p, gate, f, _ := atGate(t, session.Config{})
	req = signWith(f)
	r, err := p.Sessions.Sign(t.Context(), alice, req)
	require.NoError(t, err)
	<-gate.Came
	p.Sessions.Close()
	progress, _, err := ended(t, r, nil)
	require.ErrorIs(t, err, session.ErrInterrupted)
	require.NotEmpty(t, progress)
	first = stateOf(t, p, r.SessionID())
	require.Equal(t, session.Interrupted, first.State)
	require.Equal(t, progress[len(progress)-1], first.Progress)
	p.Stop()
	return servertest.Open(t, servertest.Config{Dir: p.Dir, Keyset: p.Keyset, Wrap: wrap}), req, first, first.Progress.Sequence
}

// The same call starts the next attempt of an interrupted run, in the same session.
func TestRestart(t *testing.T) {
	t.Parallel()
	p, req, before, last := interruptedRun(t, nil)
	other := req
	other.Payload = []byte("something else")
	_, err := p.Sessions.Sign(t.Context(), alice, other)
	require.ErrorIs(t, err, session.ErrRequestIDReused)
	require.Equal(t, uint32(1), stateOf(t, p, before.ID).Attempt)

	const callers = 8
	var mu sync.Mutex // guards what follows
	var signatures [][]byte
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			r, err := p.Sessions.Sign(t.Context(), alice, req)
			progress, out, err := ended(t, r, err)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && r.SessionID() == before.ID {
				for _, x := range progress {
					if x.Sequence <= last || x.Attempt != 2 {
						return
					}
				}
				signatures = append(signatures, out.Signature.Bytes[:])
			}
		})
	}
	wg.Wait()
	require.Len(t, signatures, callers, "each of them received it, with increasing sequence numbers")
	require.Len(t, slices.CompactFunc(signatures, slices.Equal), 1, "from one run")
	after := stateOf(t, p, before.ID)
	require.Equal(t, session.Succeeded, after.State)
	require.Equal(t, uint32(2), after.Attempt)
	require.Equal(t, uint32(2), after.Progress.Attempt)
	require.Equal(t, before.CreateTime, after.CreateTime)
	lines, err := p.Store.Audit(t.Context(), req.WalletID)
	require.NoError(t, err)
	n := 0
	for _, l := range lines {
		if l.Action == "session.restart" && l.SessionID == before.ID {
			n++
		}
	}
	require.Equal(t, 1, n)
}

// A process that was killed has not stored its last progress: the next attempts' sequence numbers are beyond it
// anyway, so that a caller that attaches from there misses no step.
func TestSequencesIncreaseOverKills(t *testing.T) {
	t.Parallel()
	var last uint32
	dir, req := "", idle()
	var keys *servertest.Parts
	for attempt := uint32(1); attempt <= 4; attempt++ {
		gate := servertest.NewGate()
		cfg := servertest.Config{Dir: dir, Wrap: func(p *session.Ports) {
			withPreParams(gate.Wait)(p)
			p.Sessions = &sessions{Sessions: p.Sessions, update: func(s *session.Session) error {
				if s.State.Ended() {
					return errFault // as if the process had died before
				}
				return nil
			}}
		}}
		if keys != nil {
			cfg.Keyset = keys.Keyset
		}
		p := servertest.Open(t, cfg)
		r, err := p.Sessions.Create(t.Context(), alice, req)
		require.NoError(t, err)
		<-gate.Came // either side's
		seen := errors.New("seen")
		require.ErrorIs(t, r.Follow(t.Context(), 0, 0, func(session.Event) error { return seen }), seen)
		rec := stateOf(t, p, r.SessionID())
		require.Equal(t, attempt, rec.Attempt)
		require.Equal(t, attempt, rec.Progress.Attempt)
		require.Greater(t, rec.Progress.Sequence, last)
		last = rec.Progress.Sequence
		p.Stop()
		dir, keys = p.Dir, p
	}
}

// A run whose end could not be stored is not stuck: the same call starts its next attempt in the same process.
func TestEndThatCouldNotBeStored(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex // guards full
	full := true
	p, first, _ := open(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Sessions = &sessions{Sessions: p.Sessions, update: func(s *session.Session) error {
			mu.Lock()
			defer mu.Unlock()
			if full && s.State.Ended() {
				return errFault
			}
			return nil
		}, commit: once(errFault)}
	}})
	req := signWith(first)
	r, err := p.Sessions.Sign(t.Context(), alice, req)
	_, _, err = ended(t, r, err)
	require.ErrorIs(t, err, errFault)
	require.Equal(t, session.ErrInterrupted.Reason, session.Reason(err), "an end that is not durable is not final")
	stored, err := p.Store.Session(t.Context(), r.SessionID())
	require.NoError(t, err)
	require.Equal(t, session.Running, stored.State)
	require.Equal(t, session.Interrupted, stateOf(t, p, r.SessionID()).State, "no run has it")
	_, err = p.Sessions.Sign(t.Context(), alice, req)
	require.ErrorIs(t, err, errFault, "it is still full")
	mu.Lock()
	full = false
	mu.Unlock()
	other := req
	other.Payload = []byte("x")
	_, err = p.Sessions.Sign(t.Context(), alice, other)
	require.ErrorIs(t, err, session.ErrRequestIDReused)
	r, err = p.Sessions.Sign(t.Context(), alice, req)
	progress, out, err := ended(t, r, err)
	require.NoError(t, err)
	require.NotNil(t, out.Signature)
	require.Equal(t, uint32(2), progress[0].Attempt)
}

// The second attempt at a new wallet makes the wallet with the announced id.
func TestRestartKeepsTheWallet(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	p := servertest.Open(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeDeposit: gate.Wait}
	}})
	req := session.CreateRequest{Start: start(), Curves: []session.Curve{session.Ed25519}}
	r, err := p.Sessions.Create(t.Context(), alice, req)
	require.NoError(t, err)
	<-gate.Came
	p.Stop()
	again := servertest.Open(t, servertest.Config{Dir: p.Dir, Keyset: p.Keyset})
	promised := stateOf(t, again, r.SessionID()).WalletID
	require.NotEmpty(t, promised)
	_, err = again.Sessions.Wallet(t.Context(), alice, promised)
	require.ErrorIs(t, err, session.ErrWalletNotFound)
	r, err = again.Sessions.Create(t.Context(), alice, req)
	h := confirmed(t, again, made(t, r, err))
	require.Equal(t, promised, h.wallet)
	list, _, err := again.Sessions.List(t.Context(), alice, "", session.Position{}, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
}

// A failure is final, also after a restart.
func TestFailedIsFinal(t *testing.T) {
	t.Parallel()
	p, first, _ := open(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: func(context.Context) error { return session.ErrDataCorrupted }}
	}})
	req := signWith(first)
	r, err := p.Sessions.Sign(t.Context(), alice, req)
	_, _, err = ended(t, r, err)
	require.ErrorIs(t, err, session.ErrDataCorrupted)
	p.Stop()
	again := servertest.Open(t, servertest.Config{Dir: p.Dir, Keyset: p.Keyset})
	r, err = again.Sessions.Sign(t.Context(), alice, req)
	_, _, err = ended(t, r, err)
	require.ErrorIs(t, err, session.ErrDataCorrupted)
	require.Equal(t, uint32(1), stateOf(t, again, r.SessionID()).Attempt)
}

// While draining, active runs may end, new ones are refused, and sessions can be read.
func TestDrain(t *testing.T) {
	t.Parallel()
	p, gate, first, backup := atGate(t, session.Config{})
	req := signWith(first)
	r, err := p.Sessions.Sign(t.Context(), alice, req)
	require.NoError(t, err)
	<-gate.Came
	drained := make(chan struct{})
	go func() { // ends with the run
		defer close(drained)
		p.Sessions.Drain(t.Context())
	}()
	require.Eventually(t, func() bool {
		_, err := p.Sessions.Sign(t.Context(), alice, signWith(first))
		return session.Reason(err) == session.ErrShuttingDown.Reason
	}, time.Minute, time.Millisecond)
	require.Equal(t, session.Running, stateOf(t, p, r.SessionID()).State)
	confirmed(t, p, backup)
	again, err := p.Sessions.Sign(t.Context(), alice, req)
	require.NoError(t, err)
	require.Equal(t, r.SessionID(), again.SessionID())
	select {
	case <-drained:
		require.Fail(t, "it did not wait for the run")
	default:
	}
	gate.Open()
	_, out, err := ended(t, again, nil)
	require.NoError(t, err)
	require.NotNil(t, out.Signature)
	<-drained
	require.Equal(t, session.Succeeded, stateOf(t, p, r.SessionID()).State)
}

// Runs that are active when the grace time ends are INTERRUPTED, and continue after a restart.
func TestDrainTimesOut(t *testing.T) {
	t.Parallel()
	p, gate, first, _ := atGate(t, session.Config{})
	r, err := p.Sessions.Sign(t.Context(), alice, signWith(first))
	require.NoError(t, err)
	<-gate.Came
	queued, err := p.Sessions.Sign(t.Context(), alice, signWith(first))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	p.Sessions.Drain(ctx)
	for _, r := range []*session.Run{r, queued} {
		_, _, err = ended(t, r, nil)
		require.ErrorIs(t, err, session.ErrInterrupted)
		require.Equal(t, session.Interrupted, stateOf(t, p, r.SessionID()).State)
	}
}

// The number of unconfirmed sets is limited.
func TestPendingSetsAreCapped(t *testing.T) {
	t.Parallel()
	p, first, backup := open(t, servertest.Config{Sessions: session.Config{PendingSets: 2}})
	req := func() session.BackupRequest {
		return session.BackupRequest{Start: start(), WalletID: first.wallet, SigningShare: secret.New(first.share), Method: session.Password}
	}
	r, err := p.Sessions.Backup(t.Context(), alice, req()) // backup itself is the first
	made(t, r, err)
	late := req()
	_, err = p.Sessions.Backup(t.Context(), alice, late)
	require.ErrorIs(t, err, session.ErrTooManyPending)
	var full *session.PendingError
	require.ErrorAs(t, err, &full)
	require.Equal(t, 2, full.Count)
	require.Equal(t, 2, full.Limit)
	require.Greater(t, full.RetryAfter, 10*time.Minute)
	require.LessOrEqual(t, full.RetryAfter, 15*time.Minute, "that is when backup expires")
	_, err = p.Store.ByRequest(t.Context(), alice.Name, late.RequestID)
	require.ErrorIs(t, err, session.ErrSessionNotFound)
	r, err = p.Sessions.Sign(t.Context(), alice, signWith(first))
	_, _, err = ended(t, r, err)
	require.NoError(t, err, "signing makes no set")
	confirmed(t, p, backup)
	r, err = p.Sessions.Backup(t.Context(), alice, late)
	made(t, r, err)
}

// A full queue refuses and records nothing: the same request succeeds later. Waiting callers see their position
// decrease.
func TestOverloaded(t *testing.T) {
	t.Parallel()
	p, gate, first, _ := atGate(t, session.Config{Queue: 2})
	var runs []*session.Run
	for i := range 3 {
		r, err := p.Sessions.Sign(t.Context(), alice, signWith(first))
		require.NoError(t, err)
		if runs = append(runs, r); i == 0 {
			<-gate.Came
		}
	}
	late := signWith(first)
	_, err := p.Sessions.Sign(t.Context(), alice, late)
	require.ErrorIs(t, err, session.ErrOverloaded)
	var o *session.OverloadedError
	require.ErrorAs(t, err, &o)
	require.Positive(t, o.RetryAfter)
	_, err = p.Store.ByRequest(t.Context(), alice.Name, late.RequestID)
	require.ErrorIs(t, err, session.ErrSessionNotFound)
	gate.Open()
	for i, r := range runs {
		progress, _, err := ended(t, r, nil)
		require.NoError(t, err)
		var positions []uint32
		for _, x := range progress {
			if x.Status == session.StatusQueued {
				positions = append(positions, x.QueuePosition)
			}
		}
		// How many positions a run reports before it gets its slot depends on timing.
		require.LessOrEqual(t, len(positions), i)
		for j, at := range positions {
			require.LessOrEqual(t, at, uint32(i))
			if j > 0 {
				require.Less(t, at, positions[j-1])
			}
		}
	}
	r, err := p.Sessions.Sign(t.Context(), alice, late)
	_, _, err = ended(t, r, err)
	require.NoError(t, err)
}
