package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/tss"
)

// one is a user with one phone, hosted or device-held, and what the service reports to and keeps for them.
type one struct {
	*client.Client
	service *servertest.Service
	share   *client.Share
	backup  string

	progress []string // what the service reported about the current operation
}

// operations are a user's operations, each with what it needs from those before.
var operations = []struct {
	name string
	do   func(context.Context, *one) error
}{
	{"create", func(ctx context.Context, u *one) (err error) {
		u.share, err = u.CreateWallet(ctx, u.note)
		return err
	}},
	{"backup", func(ctx context.Context, u *one) error {
		b, err := u.BackupWallet(ctx, u.share, client.MethodICloud, u.note)
		if err != nil {
			return err
		}
		u.backup = b.CipherText
		return u.ConfirmBackup(ctx, b, b.CipherText)
	}},
	{"provision", func(ctx context.Context, u *one) (err error) {
		u.share, err = u.ProvisionWallet(ctx, u.backup, client.MethodICloud, u.note)
		return err
	}},
	{"sign", func(ctx context.Context, u *one) error {
		_, err := u.Sign(ctx, u.share, client.CurveEd25519, []byte("hello"))
		return err
	}},
}

// note records what the service reports. It omits the step of waiting for a device, which hosted runs lack, and the
// SDK's own steps, which have no sequence.
func (u *one) note(p client.Progress) {
	if p.Sequence == 0 || p.Status == "Queued" {
		return
	}
	step := fmt.Sprintf("%d%% %s %s %d of %d", p.Percent, p.Status, p.Curve, p.Round, p.Rounds)
	if len(u.progress) == 0 || u.progress[len(u.progress)-1] != step {
		u.progress = append(u.progress, step)
	}
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
		s := servertest.Start(t, servertest.Config{})
		options := []client.Option{
			client.WithCurves(curves...), client.WithCloudKey(client.MethodICloud, &keychain{}),
			client.WithStore(func(context.Context, *client.Share) error { return nil }),
		}
		if held {
			options = append(options, client.WithDeviceHeldShares())
		}
		c, err := client.New(s.Conn, options...)
		require.NoError(t, err)
		users[i] = &one{Client: c, service: s}
	}
	hosted, held := users[0], users[1]
	for _, op := range operations {
		for _, u := range users {
			u.progress = nil
			require.NoError(t, op.do(t.Context(), u), op.name)
		}
		require.Equal(t, hosted.progress, held.progress, op.name)
		require.Equal(t, op.name == "sign", len(held.progress) == 0, "Sign reports none")
		require.Equal(t, hosted.records(t), held.records(t), op.name)
	}
	// A device has the signature before its session is committed: its release has an entry of its own.
	said := held.audit(t)
	released := slices.IndexFunc(said, func(l string) bool { return strings.HasPrefix(l, "session.release ") })
	require.NotEqual(t, -1, released)
	require.Equal(t, hosted.audit(t), slices.Delete(said, released, released+1))
}
