package session_test

import (
	"context"
	"testing"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// closedPolicy denies every request.
type closedPolicy struct{}

func (closedPolicy) Allow(context.Context, session.Question) error { return errFault }

// altered returns a modified client share.
func altered(t *testing.T, h held, change func(*tss.Share)) secret.Bytes {
	t.Helper()
	share, err := tss.ParseShare(h.share)
	require.NoError(t, err)
	change(share)
	b, err := share.Encode()
	require.NoError(t, err)
	return b
}

// Each check of a request against its caller, wallet and set, hosted and device-held, that refuses it before a session
// begins.
func TestRefusedBeforeASessionBegins(t *testing.T) {
	t.Parallel()
	p, first, backup := open(t, servertest.Config{})
	stranger, reader := session.Caller{Name: "bob"}, session.Caller{Name: "ops", Scopes: []session.Scope{session.ScopeRead}}
	device := func(h held) *session.Device { return &session.Device{ShareSetID: h.set, Instance: uuid.NewString()} }
	onDevice := func(h held) session.SignRequest {
		return session.SignRequest{RequestID: uuid.NewString(), WalletID: h.wallet, Device: device(h), Curve: session.Ed25519, Payload: []byte("x")}
	}
	refused := func(want error, run *session.Run, err error) {
		t.Helper()
		require.Nil(t, run)
		require.ErrorIs(t, err, want)
	}
	field := func(name string, run *session.Run, err error) {
		t.Helper()
		require.Nil(t, run)
		f := new(session.FieldError)
		require.ErrorAs(t, err, &f)
		require.Equal(t, name, f.Field)
	}
	sign := func(s *session.Service, c session.Caller, change func(*session.SignRequest)) (*session.Run, error) {
		req := signWith(first)
		change(&req)
		return s.Sign(t.Context(), c, req)
	}
	signOnDevice := func(s *session.Service, c session.Caller, change func(*session.SignRequest)) (*session.Run, error) {
		req := onDevice(first)
		change(&req)
		return s.Sign(t.Context(), c, req)
	}
	s := p.Sessions

	// The caller.
	for _, c := range []session.Caller{stranger, reader, {}} {
		run, err := s.Create(t.Context(), c, session.CreateRequest{Start: start(), Owner: "alice"})
		refused(session.ErrPermissionDenied, run, err)
		run, err = sign(s, c, func(*session.SignRequest) {})
		refused(session.ErrWalletNotFound, run, err)
		run, err = signOnDevice(s, c, func(*session.SignRequest) {})
		refused(session.ErrWalletNotFound, run, err)
	}
	// The request.
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	both := start()
	both.SealTo, both.Device = key.Recipient(), device(held{})
	run, err := s.Create(t.Context(), alice, session.CreateRequest{Start: both})
	field("seal_to", run, err)
	run, err = s.Provision(t.Context(), alice, session.ProvisionRequest{Start: both, WalletID: backup.wallet})
	field("seal_to", run, err)
	short := func(r *session.SignRequest) { r.Curve, r.Payload = session.Secp256k1, []byte("short") }
	run, err = sign(s, alice, short)
	field("payload", run, err)
	run, err = signOnDevice(s, alice, func(r *session.SignRequest) { r.Curve, r.Payload = session.Secp256k1, []byte("short") })
	field("payload", run, err)
	digest := make([]byte, 32)
	digest[31] = 1
	run, err = sign(s, alice, func(r *session.SignRequest) { r.Curve, r.Payload = session.Secp256k1, digest })
	field("curve", run, err)
	run, err = signOnDevice(s, alice, func(r *session.SignRequest) { r.Curve, r.Payload = session.Secp256k1, digest })
	field("curve", run, err)

	// The wallet and the set.
	other := uuid.NewString()
	run, err = sign(s, alice, func(r *session.SignRequest) { r.WalletID = other })
	refused(session.ErrWalletNotFound, run, err)
	run, err = signOnDevice(s, alice, func(r *session.SignRequest) { r.WalletID = other })
	refused(session.ErrWalletNotFound, run, err)
	run, err = signOnDevice(s, alice, func(r *session.SignRequest) { r.Device.ShareSetID = other })
	refused(session.ErrShareSetNotFound, run, err)
	run, err = signOnDevice(s, alice, func(r *session.SignRequest) { r.Device.ShareSetID = backup.set })
	refused(session.ErrShareSetMismatch, run, err)
	for _, x := range []struct {
		want  error
		share secret.Bytes
	}{
		{session.ErrShareMalformed, secret.New([]byte("garbage"))},
		{session.ErrShareSetNotFound, altered(t, first, func(s *tss.Share) { s.ShareSetID = other })},
		{session.ErrShareSetMismatch, altered(t, first, func(s *tss.Share) { s.WalletID = other })},
		{session.ErrShareSetMismatch, secret.New(backup.share)},
	} {
		run, err = sign(s, alice, func(r *session.SignRequest) { r.SigningShare = x.share })
		refused(x.want, run, err)
	}
	run, err = sign(s, alice, func(r *session.SignRequest) {
		r.SigningShare = altered(t, first, func(s *tss.Share) { s.RecordHash[0] ^= 1 })
	})
	refused(session.ErrShareSetMismatch, run, err)
	// The backup is not confirmed, so there is no ACTIVE one.
	run, err = s.Provision(t.Context(), alice, provisionOf(backup))
	refused(session.ErrBackupNotFound, run, err)
	again := start()
	again.Device = device(backup)
	run, err = s.Provision(t.Context(), alice, session.ProvisionRequest{Start: again, WalletID: backup.wallet})
	refused(session.ErrBackupNotFound, run, err)

	// The policy denies it.
	closed, _, _ := open(t, servertest.Config{Wrap: func(p *session.Ports) { p.Policy = closedPolicy{} }})
	run, err = sign(closed.Sessions, alice, func(*session.SignRequest) {})
	refused(errFault, run, err)
	run, err = closed.Sessions.Backup(t.Context(), alice, session.BackupRequest{
		Start: start(), WalletID: first.wallet, SigningShare: secret.New(first.share), Method: session.Custom,
	})
	refused(errFault, run, err)
	// The policy is not asked before the device has proved its share. Until then the session is only in memory.
	beginning := start()
	beginning.Device = device(first)
	for _, begin := range []func() (*session.Run, error){
		func() (*session.Run, error) {
			return signOnDevice(closed.Sessions, alice, func(*session.SignRequest) {})
		},
		func() (*session.Run, error) {
			req := session.BackupRequest{Start: beginning, WalletID: first.wallet, Method: session.Custom}
			return closed.Sessions.Backup(t.Context(), alice, req)
		},
	} {
		run, err = begin()
		require.NoError(t, err)
		id := run.SessionID()
		_, err = closed.Store.Session(t.Context(), id)
		require.ErrorIs(t, err, session.ErrSessionNotFound)
		for _, f := range []func(context.Context, session.Caller, string) (*session.Session, error){
			closed.Sessions.Session, closed.Sessions.Cancel,
		} {
			_, err = f(t.Context(), stranger, id)
			require.ErrorIs(t, err, session.ErrSessionNotFound)
		}
		require.Equal(t, session.Queued, stateOf(t, closed, id).State)
		cancelled, err := closed.Sessions.Cancel(t.Context(), alice, id)
		require.NoError(t, err)
		require.Equal(t, session.Cancelled, cancelled.State)
		_, _, err = ended(t, run, nil)
		require.ErrorIs(t, err, session.ErrSessionCancelled)
	}
	sealed, _, _ := open(t, servertest.Config{Sessions: session.Config{RequireSealTo: true}})
	run, err = sealed.Sessions.Create(t.Context(), alice, session.CreateRequest{Start: start()})
	field("seal_to", run, err)
}
