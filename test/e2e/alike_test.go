package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/mpcd/mpcd/client"
	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/tss"
)

// one is a user with one phone, hosted or device-held, and what the service reports to and keeps for them.
type one struct {
	*client.Client
	service *servertest.Service
	share   *client.Share
	backup  string

	mu       sync.Mutex // guards progress
	progress []string   // what the service has reported
}

// operations are a user's operations, each with what it needs from those before.
var operations = []struct {
	name string
	do   func(context.Context, *one) error
}{
	{"create", func(ctx context.Context, u *one) (err error) {
		u.share, err = u.CreateWallet(ctx, nil)
		return err
	}},
	{"backup", func(ctx context.Context, u *one) error {
		b, err := u.BackupWallet(ctx, u.share, client.MethodICloud, nil)
		if err != nil {
			return err
		}
		u.backup = b.CipherText
		return u.ConfirmBackup(ctx, b, b.CipherText)
	}},
	{"provision", func(ctx context.Context, u *one) (err error) {
		u.share, err = u.ProvisionWallet(ctx, u.backup, client.MethodICloud, nil)
		return err
	}},
	{"sign", func(ctx context.Context, u *one) error {
		_, err := u.Sign(ctx, u.share, client.CurveEd25519, []byte("hello"))
		return err
	}},
}

// note records what the service reports. It omits the step of waiting for a device, which hosted runs lack.
func (u *one) note(p *pb.Progress) {
	if p.GetStatus() == pb.Status_STATUS_QUEUED {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	step := fmt.Sprintf("%d%% %s %v %d of %d", p.GetPercent(), p.GetStatus(), p.GetCurve(), p.GetRound(), p.GetRounds())
	if len(u.progress) == 0 || u.progress[len(u.progress)-1] != step {
		u.progress = append(u.progress, step)
	}
}

// take returns what was reported since the last call.
func (u *one) take() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	reported := u.progress
	u.progress = nil
	return reported
}

// watch is a stream interceptor that notes the progress of every stream.
func (u *one) watch(
	ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := streamer(ctx, desc, cc, method, opts...)
	return &watched{stream, u}, err
}

type watched struct {
	grpc.ClientStream
	by *one
}

func (w *watched) RecvMsg(m any) error {
	err := w.ClientStream.RecvMsg(m)
	if r, ok := m.(interface{ GetProgress() *pb.Progress }); err == nil && ok && r.GetProgress() != nil {
		w.by.note(r.GetProgress())
	}
	return err
}

// records describes a wallet's sets and their public records, in order, without random values.
func (u *one) records(t testing.TB) (out []string) {
	t.Helper()
	w, err := u.service.Store.Wallet(t.Context(), u.share.WalletID())
	require.NoError(t, err)
	names := map[string]string{"": "none"}
	for i := range w.Sets {
		names[w.Sets[i].ID] = fmt.Sprint("set ", i)
		set, err := u.service.Store.Set(t.Context(), w.ID, w.Sets[i].ID)
		require.NoError(t, err)
		r, err := tss.ParseRecord(set.Record)
		require.NoError(t, err)
		row := fmt.Sprintf("%v %v %v from %s, record: %v", set.Purpose, set.Method, set.State, names[set.ParentID], r.Purpose)
		for j, k := range r.Keys {
			row += fmt.Sprintf(" %v", k.Curve)
			require.Equal(t, w.Keys[j].Key, k.PublicKey)
			require.Equal(t, k.Curve == tss.Secp256k1, k.Parties[tss.Server].PaillierN != nil)
		}
		require.Equal(t, tss.SetID{WalletID: w.ID, ShareSetID: set.ID, Purpose: set.Purpose}, r.SetID)
		require.Len(t, set.ServerShare, len(r.Keys))
		out = append(out, row)
	}
	return out
}

// audit returns a wallet's audit entries, in order, without random values.
func (u *one) audit(t testing.TB) (out []string) {
	t.Helper()
	lines, err := u.service.Store.Audit(t.Context(), u.share.WalletID())
	require.NoError(t, err)
	for _, l := range lines {
		out = append(out, strings.Join([]string{l.Action, l.Caller, l.Outcome, l.Reason, l.Detail}, " "))
	}
	return out
}

// Hosted and device-held runs of the same operations leave the same records, report the same progress and write the
// same audit entries, except where noted below. TestLongRunsAreAlike covers both curves.
func TestRunsAreAlike(t *testing.T) {
	t.Parallel()
	runsAreAlike(t, client.CurveEd25519)
}

func runsAreAlike(t *testing.T, curves ...client.Curve) {
	t.Helper()
	users := make([]*one, 2)
	for i, held := range []bool{false, true} {
		users[i] = &one{}
		s := servertest.Start(t, servertest.Config{Dial: []grpc.DialOption{grpc.WithStreamInterceptor(users[i].watch)}})
		options := []client.Option{
			client.WithCurves(curves...), client.WithCloudKey(client.MethodICloud, &keychain{}),
			client.WithStore(func(context.Context, *client.Share) error { return nil }),
		}
		if held {
			options = append(options, client.WithDeviceHeldShares())
		}
		c, err := client.New(s.Conn, options...)
		require.NoError(t, err)
		users[i].Client, users[i].service = c, s
	}
	hosted, held := users[0], users[1]
	for _, op := range operations {
		for _, u := range users {
			require.NoError(t, op.do(t.Context(), u), op.name)
		}
		ofHosted, ofHeld := hosted.take(), held.take()
		if op.name == "sign" { // Sign is no stream
			require.Empty(t, ofHosted)
		} else {
			require.NotEmpty(t, ofHosted)
			require.Equal(t, ofHosted, ofHeld, op.name)
		}
		require.Equal(t, hosted.records(t), held.records(t), op.name)
	}
	// A device has the signature before its session is committed: its release has an entry of its own.
	said := held.audit(t)
	released := slices.IndexFunc(said, func(l string) bool { return strings.HasPrefix(l, "session.release ") })
	require.NotEqual(t, -1, released)
	require.Equal(t, hosted.audit(t), slices.Delete(said, released, released+1))
}
