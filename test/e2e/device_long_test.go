//go:build long

package e2e_test

import (
	"testing"

	"github.com/mpcd/mpcd/client"
	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

func TestLongStranger(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{Workers: servertest.Workers(1)})
	strangersLife(t, &stranger{t: t, wire: strangerGRPC{s.WalletServiceClient}}, pb.Curve_CURVE_SECP256K1, pb.Curve_CURVE_ED25519)
}

func TestLongDeviceHeldDropsWhileASetIsMade(t *testing.T) {
	t.Parallel()
	dropsWhileASetIsMade(t, map[string]int32{"gRPC": 1, "HTTP": 3}, 3) // the gateway passes events on unchanged
}

func TestLongWholeLifeWithTheSDK(t *testing.T) {
	t.Parallel()
	wholeLife(t, client.CurveSecp256k1, client.CurveEd25519)
}

func TestLongCancelWhileCommitting(t *testing.T) {
	t.Parallel()
	cancelWhileCommitting(t, 50)
}
