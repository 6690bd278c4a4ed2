package session_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

func sum(share []byte) []byte {
	s := sha256.Sum256(share)
	return s[:]
}

// Close ends active and waiting runs, and returns.
func TestCloseInterrupts(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	p := servertest.Open(t, servertest.Config{Sessions: session.Config{Slots: 1}, Wrap: withPreParams(gate.Wait)})
	running, waiting := idle(), idle()
	a, err := p.Sessions.Create(t.Context(), alice, running)
	require.NoError(t, err)
	<-gate.Came
	b, err := p.Sessions.Create(t.Context(), alice, waiting)
	require.NoError(t, err)
	p.Sessions.Close()
	for _, r := range []*session.Run{a, b} {
		_, _, err := ended(t, r, nil)
		require.ErrorIs(t, err, session.ErrInterrupted)
		rec, err := p.Store.Session(t.Context(), r.SessionID())
		require.NoError(t, err)
		require.Equal(t, session.Interrupted, rec.State)
		require.ErrorIs(t, rec.Err(), session.ErrInterrupted)
	}
	for _, req := range []session.CreateRequest{running, idle()} {
		_, err = p.Sessions.Create(t.Context(), alice, req)
		require.ErrorIs(t, err, session.ErrShuttingDown)
	}
	p.Sessions.Close() // a second time
	list, _, err := p.Sessions.List(t.Context(), alice, "", session.Position{}, 10)
	require.NoError(t, err)
	require.Empty(t, list, "nothing was made")
}

// Sessions that a killed process left unfinished are INTERRUPTED at the next start.
func TestUnfinishedSessionsAreInterruptedAtTheStart(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	keep := func(p *session.Ports) {
		withPreParams(gate.Wait)(p)
		p.Sessions = &sessions{Sessions: p.Sessions, update: func(s *session.Session) error {
			if s.State.Ended() {
				return errFault // as if the process had died before
			}
			return nil
		}}
	}
	p := servertest.Open(t, servertest.Config{Wrap: keep})
	r, err := p.Sessions.Create(t.Context(), alice, idle())
	require.NoError(t, err)
	<-gate.Came
	p.Stop()
	p.Log.Wait(t, "a failed session could not be stored", r.SessionID(), errFault.Error())

	again := servertest.Open(t, servertest.Config{Dir: p.Dir, Keyset: p.Keyset})
	again.Log.Wait(t, "sessions were interrupted by a restart", `"count":1`)
	rec, err := again.Sessions.Session(t.Context(), alice, r.SessionID())
	require.NoError(t, err)
	require.Equal(t, session.Interrupted, rec.State)
	require.ErrorIs(t, rec.Err(), session.ErrInterrupted)
}

// A panic in a run is an INTERNAL error without details, wherever it happens, and releases the slot.
func TestPanicInARun(t *testing.T) {
	t.Parallel()
	const confidential = "a-share-that-must-not-be-shown"
	type carrier struct{ share string }
	boom := func(context.Context) error { panic(carrier{confidential}) }
	p, first, backup := open(t, servertest.Config{Sessions: session.Config{Slots: 1}, Wrap: func(p *session.Ports) {
		withPreParams(boom)(p)
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: boom}
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: boom}
	}})
	confirmed(t, p, backup)
	for range 2 { // with one slot
		for name, begin := range map[string]func() (*session.Run, error){
			"pre-params":   func() (*session.Run, error) { return p.Sessions.Create(t.Context(), alice, idle()) },
			"custodian":    func() (*session.Run, error) { return p.Sessions.Provision(t.Context(), alice, provisionOf(backup)) },
			"server share": func() (*session.Run, error) { return p.Sessions.Sign(t.Context(), alice, signWith(first)) },
		} {
			r, err := begin()
			_, _, err = ended(t, r, err)
			require.ErrorIs(t, err, session.ErrInternal, name)
			require.NotContains(t, err.Error(), confidential)
			rec, err := p.Store.Session(t.Context(), r.SessionID())
			require.NoError(t, err)
			require.Equal(t, session.Failed, rec.State)
		}
	}
	p.Log.Wait(t, "session failed", "session_test.carrier")
	require.NotContains(t, p.Log.String(), confidential)
}

// sessions injects faults in front of a real store.
type sessions struct {
	session.Sessions
	byRequest func() error
	begin     func() error
	update    func(*session.Session) error
	commit    func() error
}

func (s *sessions) ByRequest(ctx context.Context, caller, id string) (*session.Session, error) {
	if s.byRequest != nil {
		if err := s.byRequest(); err != nil {
			return nil, err
		}
	}
	return s.Sessions.ByRequest(ctx, caller, id)
}

func (s *sessions) Begin(ctx context.Context, n *session.Session, e session.Entry) (*session.Session, bool, error) {
	if s.begin != nil {
		if err := s.begin(); err != nil {
			return nil, false, err
		}
	}
	return s.Sessions.Begin(ctx, n, e)
}

func (s *sessions) Update(ctx context.Context, n *session.Session, b session.Budget, e session.Entry) error {
	if s.update != nil {
		if err := s.update(n); err != nil {
			return err
		}
	}
	return s.Sessions.Update(ctx, n, b, e)
}

func (s *sessions) Commit(ctx context.Context, n *session.Session, m session.Made, e session.Entry) error {
	if s.commit != nil {
		if err := s.commit(); err != nil {
			return err
		}
	}
	return s.Sessions.Commit(ctx, n, m, e)
}

// once returns a fault that happens the first time.
func once(err error) func() error {
	return func() error {
		defer func() { err = nil }()
		return err
	}
}

// If the store fails at the start there is no session, and the same request succeeds when repeated.
func TestStoreFailsAtTheBeginning(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]sessions{"when it looks": {byRequest: once(errFault)}, "when it records": {begin: once(errFault)}} {
		p := servertest.Open(t, servertest.Config{Wrap: func(p *session.Ports) {
			withPreParams(func(context.Context) error { return errFault })(p)
			fault.Sessions = p.Sessions
			p.Sessions = &fault
		}})
		req := idle()
		_, err := p.Sessions.Create(t.Context(), alice, req)
		require.ErrorIs(t, err, errFault, name)
		require.Equal(t, "INTERNAL", session.Reason(err))
		_, err = p.Store.ByRequest(t.Context(), "alice", req.RequestID)
		require.ErrorIs(t, err, session.ErrSessionNotFound, name)
		r, err := p.Sessions.Create(t.Context(), alice, req)
		_, _, err = ended(t, r, err)
		require.ErrorIs(t, err, errFault)
		_, err = p.Store.ByRequest(t.Context(), "alice", req.RequestID)
		require.NoError(t, err, "it ran")
	}
}

// Even a panic at the start leaves no request behind that other calls wait for forever.
func TestPanicAtTheBeginning(t *testing.T) {
	t.Parallel()
	came, through := make(chan struct{}), make(chan struct{})
	boom := true
	p := servertest.Open(t, servertest.Config{Wrap: func(p *session.Ports) {
		withPreParams(func(context.Context) error { return errFault })(p)
		p.Sessions = &sessions{Sessions: p.Sessions, begin: func() error {
			if boom {
				boom = false
				close(came)
				<-through
				panic("the driver fell over")
			}
			return nil
		}}
	}})
	req := idle()
	go func() {
		defer func() { _ = recover() }() // as the server's interceptor does
		_, _ = p.Sessions.Create(context.WithoutCancel(t.Context()), alice, req)
	}()
	<-came
	attached := make(chan error)
	go func() { // ends with the beginning
		r, err := p.Sessions.Create(t.Context(), alice, req)
		if err == nil {
			err = r.Follow(t.Context(), 0, 0, func(session.Event) error { return nil })
		}
		attached <- err
	}()
	close(through)
	require.Equal(t, "INTERNAL", session.Reason(<-attached))
	r, err := p.Sessions.Create(t.Context(), alice, req)
	_, _, err = ended(t, r, err)
	require.Equal(t, "INTERNAL", session.Reason(err))
	_, err = p.Store.ByRequest(t.Context(), "alice", req.RequestID)
	require.NoError(t, err, "it ran")
}

// If the first caller disconnects while the session starts, later callers are not affected.
func TestFirstCallerDisconnectsAtTheStart(t *testing.T) {
	t.Parallel()
	came, through := make(chan struct{}), make(chan struct{})
	p := servertest.Open(t, servertest.Config{Wrap: func(p *session.Ports) {
		withPreParams(func(context.Context) error { return session.ErrDataCorrupted })(p)
		p.Sessions = &sessions{Sessions: p.Sessions, begin: func() error {
			close(came)
			<-through
			return nil
		}}
	}})
	req := idle()
	ctx, goAway := context.WithCancel(t.Context())
	firstEnded := make(chan error)
	go func() { // ends with the beginning
		_, err := p.Sessions.Create(ctx, alice, req)
		firstEnded <- err
	}()
	<-came
	goAway()
	// A second caller attaches; a third one gives up at once.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := p.Sessions.Create(gone, alice, req)
	require.ErrorIs(t, err, context.Canceled)
	close(through)
	require.NoError(t, <-firstEnded)
	r, err := p.Sessions.Create(t.Context(), alice, req)
	_, _, err = ended(t, r, err)
	require.ErrorIs(t, err, session.ErrDataCorrupted, "it ran, with the injected fault")
}

// If the store fails during a run, the run fails, nothing is made, and the slot is released.
func TestStoreFailsInMidRun(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault sessions
		want  *session.Error
	}{
		"at the start":           {sessions{update: first(errFault)}, session.ErrInternal},
		"superseded":             {sessions{update: first(fmt.Errorf("store: %w", session.ErrSuperseded))}, session.ErrInterrupted},
		"at the end":             {sessions{commit: once(errFault)}, session.ErrInternal},
		"superseded at the end":  {sessions{commit: once(session.ErrSuperseded)}, session.ErrInterrupted},
		"parent revoked the end": {sessions{commit: once(session.ErrShareSetRevoked)}, session.ErrShareSetRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, f, _ := open(t, servertest.Config{Sessions: session.Config{Slots: 1}, Wrap: func(p *session.Ports) {
				c.fault.Sessions = p.Sessions
				p.Sessions = &c.fault
			}})
			before, err := p.Store.Wallet(t.Context(), f.wallet)
			require.NoError(t, err)
			req := signWith(f) // a signing ends with the same commit, and is quicker
			r, err := p.Sessions.Sign(t.Context(), alice, req)
			progress, _, err := ended(t, r, err)
			require.Equal(t, c.want.Reason, session.Reason(err))
			for _, x := range progress {
				require.False(t, x.Done, "an end that was not stored is not reported")
			}
			after, err := p.Store.Wallet(t.Context(), f.wallet)
			require.NoError(t, err)
			require.Equal(t, before, after)
			r, err = p.Sessions.Sign(t.Context(), alice, req)
			progress, _, err = ended(t, r, err)
			if name == "superseded at the end" { // once: the fault of "superseded" comes back with every attempt
				require.NoError(t, err, "the same request begins the next attempt")
				require.Equal(t, uint32(2), progress[0].Attempt)
			} else {
				require.Equal(t, c.want.Reason, session.Reason(err), "the failure is the answer to the same request")
			}
			_, err = p.Sessions.Sign(t.Context(), alice, session.SignRequest{RequestID: req.RequestID, WalletID: f.wallet, Curve: session.Ed25519})
			require.ErrorIs(t, err, session.ErrRequestIDReused)
		})
	}
}

// first is an update that fails when a session starts to run.
func first(err error) func(*session.Session) error {
	return func(s *session.Session) error {
		if s.State == session.Running {
			return err
		}
		return nil
	}
}

// With one slot the second run waits, and gets it when the first one fails.
func TestSlotsAreReleased(t *testing.T) {
	t.Parallel()
	came, answer := make(chan struct{}), make(chan error)
	p, f, _ := open(t, servertest.Config{Sessions: session.Config{Slots: 1}, Wrap: func(p *session.Ports) {
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: func(context.Context) error {
			came <- struct{}{}
			return <-answer
		}}
	}})
	var runs []*session.Run
	for range 4 {
		r, err := p.Sessions.Sign(t.Context(), alice, signWith(f))
		require.NoError(t, err)
		if runs = append(runs, r); len(runs) == 1 {
			<-came
		}
	}
	for i, r := range runs {
		if i > 0 {
			<-came // the previous run released its slot
		}
		select {
		case <-came:
			require.Fail(t, "two runs compute at once")
		case answer <- errFault:
		}
		progress, _, err := ended(t, r, nil)
		require.ErrorIs(t, err, errFault)
		want := session.StatusReadingShare
		if i > 0 {
			want = session.StatusQueued
			require.Zero(t, progress[0].Percent)
		}
		require.Equal(t, want, progress[0].Status)
	}
}

// Pre-params that are handed out twice are dropped: no modulus is used twice, in one wallet or in two.
func TestPreParamsAreUsedOnce(t *testing.T) {
	t.Parallel()
	one, err := tsstest.NewSource().PreParams(t.Context())
	require.NoError(t, err)
	n, _ := one.Moduli()
	var mu sync.Mutex // guards handed and most
	handed, most := 0, 3
	var log *servertest.Log
	refused := func() int { return strings.Count(log.String(), "pre-params came a second time") }
	p := servertest.Open(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.PreParams = source(func() (*tss.PreParams, error) {
			mu.Lock()
			defer mu.Unlock()
			if handed == most {
				// The error ends the other party's claim too, which must have been refused before.
				mu.Unlock()
				require.Eventually(t, func() bool { return refused() == most-1 }, time.Minute, time.Millisecond)
				mu.Lock()
				return nil, errFault
			}
			handed++
			return tsstest.NewSource().PreParams(context.WithoutCancel(t.Context())) // always the first one
		})
	}})
	asks := func() {
		r, err := p.Sessions.Create(t.Context(), alice, idle())
		_, _, err = ended(t, r, err)
		require.ErrorIs(t, err, errFault, "it asked until there were no more")
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, most, handed)
	}
	log = p.Log
	asks()
	require.Equal(t, 2, refused())
	mu.Lock()
	most += 2
	mu.Unlock()
	asks() // for another wallet
	require.Equal(t, 4, refused())
	require.NotContains(t, p.Log.String(), n.String())
}

// source is a source of pre-params.
type source func() (*tss.PreParams, error)

func (s source) Claim(context.Context, tss.Party) (*tss.PreParams, error)      { return s() }
func (s source) ClaimReady(context.Context, tss.Party) (*tss.PreParams, error) { return s() }
func (source) Ready(context.Context, tss.Party) (plenty bool, err error)       { return true, nil }
func (source) Pause()                                                          {}
func (source) Resume()                                                         {}

// A custodian that fails, or returns something else, is never the client's fault.
func TestCustodianFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want *session.Error
	}{
		"any error":                           {errFault, session.ErrInternal},
		"altered":                             {fmt.Errorf("x: %w", session.ErrDataCorrupted), session.ErrDataCorrupted},
		"what it has is no share":             {fmt.Errorf("x: %w", tss.ErrShareMalformed), session.ErrDataCorrupted},
		"what it has is another's":            {fmt.Errorf("x: %w", tss.ErrShareMismatch), session.ErrDataCorrupted},
		"as malformed as the session says it": {fmt.Errorf("x: %w", session.ErrShareMalformed), session.ErrDataCorrupted},
		"its time was up":                     {context.DeadlineExceeded, session.ErrInterrupted},
	} {
		p, f, _ := open(t, servertest.Config{Wrap: func(p *session.Ports) {
			p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: func(context.Context) error { return c.err }}
		}})
		r, err := p.Sessions.Sign(t.Context(), alice, signWith(f))
		_, _, err = ended(t, r, err)
		require.Equal(t, c.want.Reason, session.Reason(err), name)
		p.Log.Wait(t, "session failed", c.want.Reason, f.set)
	}
	t.Run("gives back the client's own share", func(t *testing.T) {
		p, f, _ := open(t, servertest.Config{Wrap: func(p *session.Ports) { p.ServerShares = wrong{p.ServerShares} }})
		r, err := p.Sessions.Sign(t.Context(), alice, signWith(f))
		_, _, err = ended(t, r, err)
		require.ErrorIs(t, err, session.ErrDataCorrupted)
	})
	t.Run("refuses a deposit", func(t *testing.T) {
		p, f, _ := open(t, servertest.Config{Wrap: func(p *session.Ports) {
			p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeDeposit: func(context.Context) error { return errFault }}
		}})
		before, err := p.Store.Wallet(t.Context(), f.wallet)
		require.NoError(t, err)
		r, err := p.Sessions.Backup(t.Context(), alice, session.BackupRequest{
			Start: start(), WalletID: f.wallet, SigningShare: secret.New(f.share), Method: session.Password,
		})
		_, _, err = ended(t, r, err)
		require.ErrorIs(t, err, errFault)
		after, err := p.Store.Wallet(t.Context(), f.wallet)
		require.NoError(t, err)
		require.Equal(t, before, after)
	})
}

// wrong is a custodian that returns the client share.
type wrong struct{ session.Custodian }

func (wrong) Fetch(context.Context, string, *session.StoredSet) (*tss.Share, error) {
	return tss.ParseShare(stock.first.share)
}

// Names of another caller or another wallet are refused.
func TestConfirmAndRevokeCheckTheCaller(t *testing.T) {
	t.Parallel()
	p, f, backup := open(t, servertest.Config{})
	stranger := session.Caller{Name: "stranger"}
	_, err := p.Sessions.Confirm(t.Context(), stranger, backup.wallet, backup.set, sum(backup.share))
	require.ErrorIs(t, err, session.ErrWalletNotFound)
	_, err = p.Sessions.Revoke(t.Context(), stranger, f.wallet, f.set, false, true)
	require.ErrorIs(t, err, session.ErrWalletNotFound)
	_, err = p.Sessions.Revoke(t.Context(), alice, f.wallet, f.set, false, true)
	require.ErrorIs(t, err, session.ErrPermissionDenied, "an owner without scope may not allow_last")
	_, err = p.Sessions.Confirm(t.Context(), alice, uuid.NewString(), backup.set, sum(backup.share))
	require.ErrorIs(t, err, session.ErrWalletNotFound)
	confirmed(t, p, backup)
	confirmed(t, p, backup)
	_, err = p.Sessions.Backup(t.Context(), alice, stock.backupReq)
	require.NoError(t, err, "it attaches")
	r, err := p.Sessions.Backup(t.Context(), alice, stock.backupReq)
	_, _, err = ended(t, r, err)
	require.ErrorIs(t, err, session.ErrSessionExpired)
}

// Unconfirmed results and runs both have a time limit.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	stocked(t)
	t.Run("result", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := servertest.Open(t, servertest.Config{Sessions: session.Config{ResultTTL: time.Hour}})
			req := session.CreateRequest{Start: start(), Curves: []session.Curve{session.Ed25519}}
			r, err := p.Sessions.Create(t.Context(), alice, req)
			h := made(t, r, err)
			time.Sleep(time.Hour - time.Minute)
			r, err = p.Sessions.Create(t.Context(), alice, req)
			require.Equal(t, h, made(t, r, err), "it is still there")
			time.Sleep(2 * time.Minute)
			r, err = p.Sessions.Create(t.Context(), alice, req)
			_, _, err = ended(t, r, err)
			require.ErrorIs(t, err, session.ErrSessionExpired)
			_, err = p.Sessions.Confirm(t.Context(), alice, h.wallet, h.set, sum(h.share))
			require.ErrorIs(t, err, session.ErrSessionExpired)
			p.Stop()
		})
	})
	t.Run("run", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := servertest.Open(t, servertest.Config{
				Sessions: session.Config{RunTimeout: time.Minute, Slots: 1},
				Wrap:     withPreParams(func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }),
			})
			begun := time.Now()
			a, err := p.Sessions.Create(t.Context(), alice, idle())
			require.NoError(t, err)
			time.Sleep(30 * time.Second)
			b, err := p.Sessions.Create(t.Context(), alice, idle())
			require.NoError(t, err)
			for i, r := range []*session.Run{a, b} {
				_, _, err = ended(t, r, nil)
				require.ErrorIs(t, err, session.ErrInterrupted)
				require.Equal(t, time.Duration(2+i)*30*time.Second, time.Since(begun), "waiting counts")
				rec, err := p.Sessions.Session(t.Context(), alice, r.SessionID())
				require.NoError(t, err)
				require.Equal(t, session.Interrupted, rec.State)
			}
			p.Stop()
		})
	})
}

func TestErrorsSayWhatTheLogNeeds(t *testing.T) {
	t.Parallel()
	p, f, _ := open(t, servertest.Config{})
	_, err := p.Sessions.Wallet(t.Context(), session.Caller{Name: "stranger"}, f.wallet)
	require.True(t, strings.Contains(err.Error(), "stranger") && strings.Contains(err.Error(), "alice"), err)
	require.ErrorIs(t, err, session.ErrWalletNotFound)
}
