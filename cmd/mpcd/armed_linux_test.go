package main

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// If the service is killed during a device-held ECDSA signing after its round 2 was sent and before its round 9 was, it
// charges a soft abort when it starts again.
func TestArmedSurvivesAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, seed(t.Context(), dir, 2))
	serve := func() *running {
		svc, err := startService(dir, "mpcd", os.Environ(), "--dev", "--keyset="+filepath.Join(dir, "mpcd.keyset"))
		require.NoError(t, err)
		t.Cleanup(svc.kill)
		return svc
	}
	svc := serve()
	a := dialService(t, svc)
	stream, err := a.CreateWallet(t.Context(), &mpcdv1.CreateWalletRequest{
		RequestId: uuid.NewString(), Curves: []mpcdv1.Curve{mpcdv1.Curve_CURVE_SECP256K1},
	})
	m, err := last(a, stream, err)
	require.NoError(t, err)
	h := held{m.GetOutcome().GetWalletId(), m.GetOutcome().GetShareSet().GetShareSetId(), m.GetOutcome().GetClientShare()}
	require.NoError(t, a.confirm(t.Context(), h))
	share, err := client.ParseShare(h.share)
	require.NoError(t, err)
	digest := sha256.Sum256([]byte("hello"))
	soft := uint32(0)
	// The service's parts: a hello, two for round 1, one for each further round up to 9. The device sends its round 8 once
	// it has the service's round 7.
	for _, k := range []struct {
		part  int32
		costs uint32
	}{{1, 0}, {4, 1}, {9, 1}, {11, 0}} {
		ctx, giveUp := context.WithCancel(t.Context()) // otherwise it retries for minutes
		phone := newDevice(t, svc, &memoryCloud{}, at(k.part, func() {
			svc.kill()
			giveUp()
		}))
		_, err := phone.Sign(ctx, share, client.CurveSecp256k1, digest[:])
		require.Error(t, err)
		svc = serve()
		soft += k.costs
		w, err := dialService(t, svc).GetWallet(t.Context(), &mpcdv1.GetWalletRequest{WalletId: h.wallet})
		require.NoError(t, err)
		require.Equal(t, soft, w.GetWallet().GetSoftAborts(), "killed at part %d", k.part)
		require.Equal(t, soft, w.GetWallet().GetShareSets()[0].GetSoftAborts())
		require.Zero(t, w.GetWallet().GetAborts())
	}
	phone := newDevice(t, svc, &memoryCloud{}, func() {})
	_, err = phone.Sign(t.Context(), share, client.CurveSecp256k1, digest[:])
	require.NoError(t, err)
	require.NoError(t, svc.stop())
}
