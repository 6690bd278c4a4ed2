package session_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// blamed makes runs fail at their commit as if a party had broken the protocol.
type blamed struct {
	mu      sync.Mutex // guards what follows
	culprit string     // empty: runs succeed
}

func (b *blamed) on(culprit string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.culprit = culprit
}

func (b *blamed) commit() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.culprit == "" {
		return nil
	}
	return &session.AbortedError{Culprit: b.culprit, Round: 2, Err: errFault}
}

func (b *blamed) wrap(p *session.Ports) {
	p.Sessions = &sessions{Sessions: p.Sessions, commit: b.commit}
}

func setOf(t testing.TB, p *servertest.Parts, h held) *session.StoredSet {
	t.Helper()
	set, err := p.Store.Set(t.Context(), h.wallet, h.set)
	require.NoError(t, err)
	return set
}

// backupOf returns a request for another backup of a signing set.
func backupOf(h held) session.BackupRequest {
	return session.BackupRequest{Start: start(), WalletID: h.wallet, SigningShare: signWith(h).SigningShare, Method: session.Custom}
}

// In a hosted run both sides are the service's: whichever of them breaks it, the client is not blamed, and nothing is
// charged.
func TestHostedRunsBlameNoClient(t *testing.T) {
	t.Parallel()
	var fault blamed
	p, first, backup := open(t, servertest.Config{Sessions: session.Config{Aborts: 1}, Wrap: fault.wrap})
	confirmed(t, p, backup)
	for what, run := range map[string]func() (*session.Run, error){
		"sign":      func() (*session.Run, error) { return p.Sessions.Sign(t.Context(), alice, signWith(first)) },
		"backup":    func() (*session.Run, error) { return p.Sessions.Backup(t.Context(), alice, backupOf(first)) },
		"provision": func() (*session.Run, error) { return p.Sessions.Provision(t.Context(), alice, provisionOf(backup)) },
		"create": func() (*session.Run, error) {
			return p.Sessions.Create(t.Context(), alice, session.CreateRequest{Start: start(), Curves: []session.Curve{session.Ed25519}})
		},
	} {
		for _, culprit := range []string{"CLIENT", "SERVER"} {
			fault.on(culprit)
			r, err := run()
			_, _, err = ended(t, r, err)
			require.Equal(t, "INTERNAL", session.Reason(err), "%s: %v", what, err)
			rec := stateOf(t, p, r.SessionID())
			require.Equal(t, session.Failed, rec.State, what)
			require.Equal(t, &session.Failure{Reason: "INTERNAL"}, rec.Failure, what)
		}
	}
	w := found(t, p, first)
	require.Zero(t, w.HardAborts)
	for _, set := range w.Sets {
		require.Zero(t, set.Aborts)
	}
	lines, err := p.Store.Audit(t.Context(), first.wallet)
	require.NoError(t, err)
	for _, l := range lines {
		require.NotContains(t, l.Detail, "culprit")
	}
	fault.on("")
	r, err := p.Sessions.Sign(t.Context(), alice, signWith(first))
	_, _, err = ended(t, r, err)
	require.NoError(t, err)
}

// A run that is active when its set is locked makes nothing, and one that waits for a slot does not begin.
func TestLockInFlight(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	p, first, backup := open(t, servertest.Config{Sessions: session.Config{Slots: 3}, Wrap: func(p *session.Ports) {
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: gate.Wait}
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: gate.Wait}
	}})
	confirmed(t, p, backup)
	var runs []*session.Run
	for _, start := range []func() (*session.Run, error){
		func() (*session.Run, error) { return p.Sessions.Sign(t.Context(), alice, signWith(first)) },
		func() (*session.Run, error) { return p.Sessions.Backup(t.Context(), alice, backupOf(first)) },
		func() (*session.Run, error) { return p.Sessions.Provision(t.Context(), alice, provisionOf(backup)) },
	} {
		r, err := start()
		require.NoError(t, err)
		<-gate.Came
		runs = append(runs, r)
	}
	waiting, err := p.Sessions.Sign(t.Context(), alice, signWith(first))
	require.NoError(t, err)
	before := found(t, p, first)
	p.Lock(t, first.wallet, first.set)
	p.Lock(t, backup.wallet, backup.set)
	gate.Open() // each of the three has checked its set by now
	for _, r := range append(runs, waiting) {
		progress, out, err := ended(t, r, nil)
		require.ErrorIs(t, err, session.ErrShareSetLocked)
		require.Nil(t, out)
		rec := stateOf(t, p, r.SessionID())
		require.Equal(t, session.Failed, rec.State)
		require.Nil(t, rec.Result)
		if r == waiting {
			for _, step := range progress {
				require.Equal(t, session.StatusQueued, step.Status, "it did nothing")
			}
		}
	}
	require.Len(t, found(t, p, first).Sets, len(before.Sets))
	require.Equal(t, uint32(1), setOf(t, p, first).Aborts, "a refusal is not an abort")
}

func found(t testing.TB, p *servertest.Parts, h held) *session.Wallet {
	t.Helper()
	w, err := p.Store.Wallet(t.Context(), h.wallet)
	require.NoError(t, err)
	return w
}

// Only an admin releases a set, and the audit log records it. A locked set can still be revoked.
func TestRelease(t *testing.T) {
	t.Parallel()
	p, first, backup := open(t, servertest.Config{})
	confirmed(t, p, backup)
	admin := session.Caller{Name: "root", Scopes: []session.Scope{session.ScopeAdmin}}
	ctx := context.WithoutCancel(t.Context())
	p.Lock(t, first.wallet, first.set)
	noAdmin := []session.Scope{session.ScopeRead, session.ScopeWrite, session.ScopeSign}
	for want, c := range map[*session.Error]session.Caller{
		session.ErrPermissionDenied: {Name: "alice", Scopes: noAdmin},
		session.ErrWalletNotFound:   {Name: "mallory", Scopes: noAdmin},
	} {
		_, err := p.Sessions.Release(ctx, c, first.wallet, first.set)
		require.ErrorIs(t, err, want)
	}
	require.True(t, setOf(t, p, first).Locked())
	_, err := p.Sessions.Sign(ctx, alice, signWith(first))
	require.ErrorIs(t, err, session.ErrShareSetLocked)
	for range 2 { // the second time changes nothing
		w, err := p.Sessions.Release(ctx, admin, first.wallet, first.set)
		require.NoError(t, err)
		require.False(t, w.Sets[0].Locked())
		require.Zero(t, w.Sets[0].Aborts)
	}
	r, err := p.Sessions.Sign(ctx, alice, signWith(first))
	_, _, err = ended(t, r, err)
	require.NoError(t, err)

	r, err = p.Sessions.Provision(ctx, alice, provisionOf(backup))
	second := confirmed(t, p, made(t, r, err))
	p.Lock(t, second.wallet, second.set)
	_, err = p.Sessions.Revoke(ctx, alice, second.wallet, second.set, false, false)
	require.NoError(t, err)
	_, err = p.Sessions.Sign(ctx, alice, signWith(second))
	require.ErrorIs(t, err, session.ErrShareSetRevoked)
	_, err = p.Sessions.Release(ctx, admin, second.wallet, second.set)
	require.ErrorIs(t, err, session.ErrShareSetRevoked)

	lines, err := p.Store.Audit(ctx, first.wallet)
	require.NoError(t, err)
	var got []string
	for _, l := range lines {
		if l.Action == "share_set.release" {
			got = append(got, fmt.Sprint(l.Caller, " ", l.ShareSetID == first.set, " ", l.Outcome, " ", l.Reason))
		}
	}
	require.Equal(t, []string{"alice true refused PERMISSION_DENIED", "root true ok ", "root false refused SHARE_SET_REVOKED"}, got)
}
