package session_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// jumpy is a wall clock that a test can set.
type jumpy struct{ off atomic.Int64 }

func (j *jumpy) now() time.Time { return time.Now().Add(time.Duration(j.off.Load())) }

// A wall clock that jumps by an hour, while a run computes or its set waits for the confirmation, costs no share: the
// set is neither erased early nor kept too long.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	for name, jump := range map[string]time.Duration{"an hour on": time.Hour, "an hour back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock, gate := new(jumpy), servertest.NewGate()
			p, first, backup := open(t, servertest.Config{Sessions: session.Config{Wall: clock.now}, Wrap: func(p *session.Ports) {
				p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeDeposit: gate.Wait}
			}})
			sweeping, stop := context.WithCancel(t.Context())
			defer stop()
			confirmed(t, p, backup)
			req := provisionOf(backup)
			r, err := p.Sessions.Provision(t.Context(), alice, req)
			require.NoError(t, err)
			<-gate.Came
			clock.off.Store(int64(jump))
			gate.Open()
			h := made(t, r, nil)
			again, err := p.Sessions.Provision(t.Context(), alice, req)
			require.Equal(t, h, made(t, again, err), "the result waits")
			progress, _, err := ended(t, again, nil)
			require.NoError(t, err)
			for _, x := range progress {
				require.True(t, x.Elapsed >= 0 && x.Elapsed < time.Hour, "%v", x.Elapsed)
			}
			swept := make(chan struct{})
			go func() { // ends with stop
				defer close(swept)
				p.Sessions.Sweep(sweeping)
			}()
			require.Never(t, func() bool { // it sweeps once at its start
				_, err := p.Store.Set(t.Context(), h.wallet, h.set)
				return err != nil
			}, 200*time.Millisecond, 20*time.Millisecond)
			confirmed(t, p, h)
			r, err = p.Sessions.Sign(t.Context(), alice, signWith(h))
			_, _, err = ended(t, r, err)
			require.NoError(t, err)
			stop()
			<-swept
			_, _, err = p.Store.VerifyAudit(t.Context())
			require.NoError(t, err)

			// The next process starts with the current clock. ACTIVE sets are not affected.
			p.Stop()
			next := servertest.Open(t, servertest.Config{Dir: p.Dir, Keyset: p.Keyset, Sessions: session.Config{Wall: clock.now}})
			w, err := next.Sessions.Wallet(t.Context(), alice, first.wallet)
			require.NoError(t, err)
			require.Len(t, w.Active(session.Signing), 2)
			require.Len(t, w.Active(session.Backup), 1)
		})
	}
}

// A deadline that passed between two processes, because the clock jumped, has expired, and the caller is told so.
func TestClockJumpsBetweenProcesses(t *testing.T) {
	t.Parallel()
	clock := new(jumpy)
	p, _, backup := open(t, servertest.Config{})
	confirmed(t, p, backup)
	req := provisionOf(backup)
	r, err := p.Sessions.Provision(t.Context(), alice, req)
	h := made(t, r, err)
	p.Stop()
	clock.off.Store(int64(time.Hour))
	next := servertest.Open(t, servertest.Config{Dir: p.Dir, Keyset: p.Keyset, Sessions: session.Config{Wall: clock.now}})
	_, err = next.Sessions.Confirm(t.Context(), alice, h.wallet, h.set, sum(h.share))
	require.ErrorIs(t, err, session.ErrSessionExpired)
	again, err := next.Sessions.Provision(t.Context(), alice, req)
	_, _, err = ended(t, again, err)
	require.ErrorIs(t, err, session.ErrSessionExpired)
}

// A service that is shutting down still replays ended sessions, which needs no run.
func TestReplayWhileDraining(t *testing.T) {
	t.Parallel()
	p, first, backup := open(t, servertest.Config{})
	confirmed(t, p, backup)
	req, sign := provisionOf(backup), signWith(first)
	r, err := p.Sessions.Provision(t.Context(), alice, req)
	h := made(t, r, err)
	r, err = p.Sessions.Sign(t.Context(), alice, sign)
	_, signed, err := ended(t, r, err)
	require.NoError(t, err)
	p.Sessions.Close()

	r, err = p.Sessions.Provision(t.Context(), alice, req)
	require.Equal(t, h, made(t, r, err))
	r, err = p.Sessions.Sign(t.Context(), alice, sign)
	_, out, err := ended(t, r, err)
	require.NoError(t, err)
	require.Equal(t, signed.Signature.Bytes, out.Signature.Bytes)
	confirmed(t, p, h)
	other := sign
	other.Payload = []byte("something else")
	_, err = p.Sessions.Sign(t.Context(), alice, other)
	require.ErrorIs(t, err, session.ErrRequestIDReused)
	_, err = p.Sessions.Sign(t.Context(), alice, signWith(first))
	require.ErrorIs(t, err, session.ErrShuttingDown)
}

// Active runs count as unconfirmed sets: together they cannot exceed the limit.
func TestPendingCapCountsRuns(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	p, _, backup := open(t, servertest.Config{Sessions: session.Config{PendingSets: 2}, Wrap: func(p *session.Ports) {
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeDeposit: gate.Wait}
	}})
	confirmed(t, p, backup)
	var runs []*session.Run
	for range 2 {
		r, err := p.Sessions.Provision(t.Context(), alice, provisionOf(backup))
		require.NoError(t, err)
		runs = append(runs, r)
	}
	_, err := p.Sessions.Provision(t.Context(), alice, provisionOf(backup))
	require.ErrorIs(t, err, session.ErrTooManyPending)
	gate.Open()
	for _, r := range runs {
		confirmed(t, p, made(t, r, nil))
	}
	r, err := p.Sessions.Provision(t.Context(), alice, provisionOf(backup))
	made(t, r, err)
}

// A stored signature is erased with the set that made it.
func TestRevocationErasesSignatures(t *testing.T) {
	t.Parallel()
	p, first, backup := open(t, servertest.Config{})
	confirmed(t, p, backup)
	req := signWith(first)
	r, err := p.Sessions.Sign(t.Context(), alice, req)
	_, _, err = ended(t, r, err)
	require.NoError(t, err)
	require.NotNil(t, stateOf(t, p, r.SessionID()).Result)
	root := session.Caller{Name: "root", Scopes: servertest.Dev.Scopes}
	_, err = p.Sessions.Revoke(t.Context(), root, first.wallet, first.set, true, true)
	require.NoError(t, err)
	rec, err := p.Store.Session(t.Context(), r.SessionID())
	require.NoError(t, err)
	require.Nil(t, rec.Result)
	again, err := p.Sessions.Sign(t.Context(), alice, req)
	_, _, err = ended(t, again, err)
	require.ErrorIs(t, err, session.ErrSessionExpired)
}
