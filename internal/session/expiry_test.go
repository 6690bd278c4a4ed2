package session_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// swept runs the sweeper as if the given time had passed.
func swept(t testing.TB, p *servertest.Parts, later time.Duration) session.Swept {
	t.Helper()
	s, err := p.Store.Sweep(t.Context(), time.Now().Add(later), 30*24*time.Hour)
	require.NoError(t, err)
	return s
}

// After the sweep, the caller who made the set is told that it has expired, and others that it does not exist. The
// same request never starts a second run.
func TestAfterTheSweep(t *testing.T) {
	t.Parallel()
	p := servertest.Open(t, servertest.Config{})
	req := session.CreateRequest{Start: start(), Curves: []session.Curve{session.Ed25519}}
	r, err := p.Sessions.Create(t.Context(), alice, req)
	h := made(t, r, err)
	require.Equal(t, session.Swept{Sets: 1, Wallets: 1}, swept(t, p, time.Hour))

	_, err = p.Sessions.Confirm(t.Context(), alice, h.wallet, h.set, sum(h.share))
	require.ErrorIs(t, err, session.ErrSessionExpired)
	for _, other := range []session.Caller{{Name: "bob"}, {Name: "root", Scopes: servertest.Dev.Scopes}} {
		_, err = p.Sessions.Confirm(t.Context(), other, h.wallet, h.set, sum(h.share))
		require.ErrorIs(t, err, session.ErrWalletNotFound)
	}
	_, err = p.Sessions.Confirm(t.Context(), alice, h.wallet, uuid.NewString(), sum(h.share))
	require.ErrorIs(t, err, session.ErrWalletNotFound)
	for range 2 {
		again, err := p.Sessions.Create(t.Context(), alice, req)
		_, out, err := ended(t, again, err)
		require.ErrorIs(t, err, session.ErrSessionExpired)
		require.Nil(t, out)
		require.Equal(t, r.SessionID(), again.SessionID())
	}
	rec := stateOf(t, p, r.SessionID())
	require.Equal(t, session.Expired, rec.State)
	require.Equal(t, uint32(1), rec.Attempt)
	list, _, err := p.Sessions.List(t.Context(), alice, "", session.Position{}, 10)
	require.NoError(t, err)
	require.Empty(t, list)
	other := req
	other.DisplayName = "x"
	_, err = p.Sessions.Create(t.Context(), alice, other)
	require.Equal(t, "REQUEST_ID_REUSED", session.Reason(follow(t, p, other, err)))
}

// follow follows an accepted request to its end.
func follow(t testing.TB, p *servertest.Parts, req session.CreateRequest, err error) error {
	t.Helper()
	if err != nil {
		return err
	}
	r, err := p.Sessions.Create(t.Context(), alice, req)
	if err != nil {
		return err
	}
	_, _, err = ended(t, r, nil)
	return err
}

// Sweeping a set does not affect the other sets of the wallet.
func TestSweptBackup(t *testing.T) {
	t.Parallel()
	p, first, backup := open(t, servertest.Config{})
	require.Equal(t, 1, swept(t, p, time.Hour).Sets)
	_, err := p.Sessions.Confirm(t.Context(), alice, backup.wallet, backup.set, sum(backup.share))
	require.ErrorIs(t, err, session.ErrSessionExpired)
	_, err = p.Sessions.Confirm(t.Context(), session.Caller{Name: "root", Scopes: servertest.Dev.Scopes}, backup.wallet, backup.set, sum(backup.share))
	require.ErrorIs(t, err, session.ErrShareSetNotFound)
	_, err = p.Sessions.Provision(t.Context(), alice, provisionOf(backup))
	require.ErrorIs(t, err, session.ErrBackupNotFound)
	r, err := p.Sessions.Sign(t.Context(), alice, signWith(first))
	_, _, err = ended(t, r, err)
	require.NoError(t, err)
}

// The set is swept, confirmed by another call, or revoked between the check and the change.
func TestConfirmLosesARace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		meanwhile func(t *testing.T, p *servertest.Parts, backup held)
		want      *session.Error
	}{
		"sweep": {func(t *testing.T, p *servertest.Parts, _ held) { swept(t, p, time.Hour) }, session.ErrSessionExpired},
		"confirm": {func(t *testing.T, p *servertest.Parts, backup held) {
			_, err := p.Store.Confirm(t.Context(), backup.wallet, backup.set, session.Entry{Action: "x", Outcome: "ok", WalletID: backup.wallet})
			require.NoError(t, err)
		}, nil},
		"revoke": {func(t *testing.T, p *servertest.Parts, backup held) {
			_, err := p.Sessions.Revoke(t.Context(), alice, backup.wallet, backup.set, false, false)
			require.NoError(t, err)
		}, session.ErrShareSetRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &wallets{}
			p, _, backup := open(t, servertest.Config{Wrap: func(p *session.Ports) { w.Wallets, p.Wallets = p.Wallets, w }})
			w.beforeConfirm = sync.OnceFunc(func() { c.meanwhile(t, p, backup) })
			_, err := p.Sessions.Confirm(t.Context(), alice, backup.wallet, backup.set, sum(backup.share))
			if c.want == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, c.want)
			}
		})
	}
}

// wallets runs a function before a confirmation.
type wallets struct {
	session.Wallets
	beforeConfirm func()
}

func (w *wallets) Confirm(ctx context.Context, walletID, setID string, e session.Entry) (bool, error) {
	w.beforeConfirm()
	return w.Wallets.Confirm(ctx, walletID, setID, e)
}

// The sweeper runs by itself, and ends with its context.
func TestSweep(t *testing.T) {
	t.Parallel()
	p, _, backup := open(t, servertest.Config{Sessions: session.Config{ResultTTL: time.Nanosecond}})
	r, err := p.Sessions.Provision(t.Context(), alice, provisionOf(confirmed(t, p, backup)))
	h := made(t, r, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // ends with cancel
		defer close(done)
		p.Sessions.Sweep(ctx)
	}()
	p.Log.Wait(t, "erased what was not confirmed in time", `"sets":1`)
	cancel()
	<-done
	_, err = p.Store.Set(t.Context(), h.wallet, h.set)
	require.ErrorIs(t, err, session.ErrShareSetNotFound)
}

// Twenty signings are active when their set is revoked: after the revocation has returned no signature is made, and
// the signings fail with the reason.
func TestRevokeInFlight(t *testing.T) {
	t.Parallel()
	const flights = 20
	gate := servertest.NewGate()
	p, first, backup := open(t, servertest.Config{Sessions: session.Config{Slots: flights}, Wrap: func(p *session.Ports) {
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: gate.Wait}
	}})
	confirmed(t, p, backup)
	var runs []*session.Run
	var reqs []session.SignRequest
	for range flights {
		req := signWith(first)
		r, err := p.Sessions.Sign(t.Context(), alice, req)
		require.NoError(t, err)
		runs, reqs = append(runs, r), append(reqs, req)
	}
	for range flights {
		<-gate.Came
	}
	root := session.Caller{Name: "root", Scopes: servertest.Dev.Scopes}
	_, err := p.Sessions.Revoke(t.Context(), root, first.wallet, first.set, true, true)
	require.NoError(t, err)
	gate.Open() // each has read the server share, which is erased by now
	for i, r := range runs {
		_, out, err := ended(t, r, nil)
		require.ErrorIs(t, err, session.ErrShareSetRevoked)
		require.Nil(t, out)
		rec := stateOf(t, p, r.SessionID())
		require.Equal(t, session.Failed, rec.State)
		require.Nil(t, rec.Result)
		r, err = p.Sessions.Sign(t.Context(), alice, reqs[i])
		_, _, err = ended(t, r, err)
		require.ErrorIs(t, err, session.ErrShareSetRevoked, "it is final")
	}
	_, err = p.Sessions.Sign(t.Context(), alice, signWith(first))
	require.ErrorIs(t, err, session.ErrShareSetRevoked)
}

// The audit log says who did what to which set, and with what outcome.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	p := servertest.Open(t, servertest.Config{})
	ctx := t.Context()
	r, err := p.Sessions.Create(ctx, alice, session.CreateRequest{Start: start(), Curves: []session.Curve{session.Ed25519}})
	first := made(t, r, err)
	created := r.SessionID()
	_, err = p.Sessions.Confirm(ctx, alice, first.wallet, first.set, make([]byte, 32))
	require.ErrorIs(t, err, session.ErrShareSetMismatch)
	confirmed(t, p, first)
	confirmed(t, p, first) // changes nothing
	_, err = p.Sessions.Provision(ctx, alice, provisionOf(first))
	require.ErrorIs(t, err, session.ErrBackupNotFound)
	sign := signWith(first)
	r, err = p.Sessions.Sign(ctx, alice, sign)
	_, out, err := ended(t, r, err)
	require.NoError(t, err)
	signed := r.SessionID()
	r, err = p.Sessions.Sign(ctx, alice, sign)
	_, _, err = ended(t, r, err)
	require.NoError(t, err, "attaching is not audited")
	mallory := session.Caller{Name: "mallory"}
	_, err = p.Sessions.Sign(ctx, mallory, signWith(first))
	require.ErrorIs(t, err, session.ErrWalletNotFound)
	_, err = p.Sessions.Revoke(ctx, mallory, first.wallet, first.set, false, false)
	require.ErrorIs(t, err, session.ErrWalletNotFound)
	_, err = p.Sessions.Revoke(ctx, alice, first.wallet, first.set, false, false)
	require.ErrorIs(t, err, session.ErrLastShareSet)
	_, err = p.Sessions.Sign(ctx, alice, session.SignRequest{RequestID: uuid.NewString(), WalletID: first.wallet, SigningShare: secret.New([]byte("x")), Curve: session.Ed25519})
	require.ErrorIs(t, err, session.ErrShareMalformed, "which is not a decision")
	_, err = p.Sessions.Revoke(ctx, servertest.Dev, first.wallet, first.set, false, true)
	require.NoError(t, err)

	digest := sum(sign.Payload)
	lines, err := p.Store.Audit(ctx, first.wallet)
	require.NoError(t, err)
	short := func(e session.Entry) string {
		return strings.Join([]string{e.Caller, e.Action, e.ShareSetID, e.SessionID, e.Outcome, e.Reason, e.Detail}, "|")
	}
	var got []string
	for _, l := range lines {
		require.WithinDuration(t, time.Now(), l.Time, time.Minute)
		got = append(got, short(l.Entry))
	}
	set := first.set
	require.Equal(t, []string{
		"alice|session.begin||" + created + "|ok||CREATE",
		"alice|session.run||" + created + "|ok||CREATE",
		"alice|session.commit|" + set + "|" + created + "|ok||CREATE",
		"alice|share_set.confirm|" + set + "||refused|SHARE_SET_MISMATCH|",
		"alice|share_set.confirm|" + set + "|" + created + "|ok||",
		"alice|session.begin|||refused|BACKUP_NOT_FOUND|PROVISION",
		"alice|session.begin||" + signed + "|ok||SIGN",
		"alice|session.run||" + signed + "|ok||SIGN",
		"alice|session.commit|" + set + "|" + signed + "|ok||SIGN ED25519 " + hex.EncodeToString(digest),
		"alice|share_set.revoke|" + set + "||refused|LAST_SHARE_SET|",
		"dev|share_set.revoke|" + set + "||ok||",
	}, got)
	lines, err = p.Store.Audit(ctx, "")
	require.NoError(t, err)
	got = nil
	for _, l := range lines {
		got = append(got, short(l.Entry))
	}
	require.Equal(t, []string{
		"mallory|session.begin|||refused|WALLET_NOT_FOUND|SIGN wallet " + first.wallet,
		"mallory|share_set.revoke|" + set + "||refused|WALLET_NOT_FOUND|wallet " + first.wallet,
	}, got)
	_, _, err = p.Store.VerifyAudit(ctx)
	require.NoError(t, err)

	all, err := p.Store.Audit(ctx, first.wallet)
	require.NoError(t, err)
	text := fmt.Sprintf("%+v %+v", all, lines)
	require.Contains(t, text, hex.EncodeToString(digest), "the control")
	for _, b := range [][]byte{first.share, first.share[len(first.share)/2:], out.Signature.Bytes[:]} {
		require.NotContains(t, text, string(b[:16]))
		require.NotContains(t, text, hex.EncodeToString(b[:16]))
	}
}

// Cancellations, interruptions and failures are audited with their reasons.
func TestAuditOfFailures(t *testing.T) {
	t.Parallel()
	p, gate, first, _ := atGate(t, session.Config{})
	r, err := p.Sessions.Sign(t.Context(), alice, signWith(first))
	require.NoError(t, err)
	<-gate.Came
	_, err = p.Sessions.Cancel(t.Context(), alice, r.SessionID())
	require.NoError(t, err)
	left, err := p.Sessions.Sign(t.Context(), alice, signWith(first))
	require.NoError(t, err)
	<-gate.Came
	p.Sessions.Close()
	lines, err := p.Store.Audit(t.Context(), first.wallet)
	require.NoError(t, err)
	ends := map[string]string{}
	for _, l := range lines {
		if l.Outcome == "failed" {
			ends[l.SessionID] += l.Action + " " + l.Reason
		}
	}
	require.Equal(t, map[string]string{r.SessionID(): "session.cancel SESSION_CANCELLED", left.SessionID(): "session.end INTERRUPTED"}, ends)
}
