//go:build long

package e2e_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// A caller with the share of its own set can prove it as often as it likes, and one with a token can create wallets:
// the number of pre-params that an owner's failed runs take from the pool is limited, for each kind of run.
func TestLongWastedPreParamsAreLimited(t *testing.T) {
	t.Parallel()
	const limit, tries = 3, 10
	for name, req := range map[string]func(held) proto.Message{
		"device": func(h held) proto.Message { return deviceBackupReq(h) },
		"hosted": func(h held) proto.Message { return backupReq(h) },
		"create": func(held) proto.Message { return createReq(pb.Curve_CURVE_SECP256K1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var taken spent
			f := start(t, servertest.Config{Sessions: session.Config{Creates: limit}, Wrap: taken.wrap})
			h := confirm(t, f.Service, create(t, f.Service, pb.Curve_CURVE_SECP256K1))
			began, first, limited := time.Now(), taken.preParams.Load(), 0
			for range tries {
				before := taken.preParams.Load()
				again := req(h)
				var ended <-chan answer
				if d, ok := again.(deviceRun); ok && d.GetDevice() != nil {
					r := begins(t, f.Service, alice, d)
					r.saysHello(t, h)
					ended = r.ended
				} else {
					ended = later(func() answer { return overGRPC(t, f.Service, alice, again) })
				}
				var a answer
				for over := false; !over && taken.preParams.Load() == before; {
					select {
					case a = <-ended:
						over = true
					case <-time.After(time.Millisecond):
					}
				}
				if a.status != nil {
					refused(t, a, codes.ResourceExhausted, "RATE_LIMITED")
					_, ok := retryIn(t, a)
					require.True(t, ok)
					limited++
					continue
				}
				rec, err := f.Store.ByRequest(t.Context(), alice.Name, again.(interface{ GetRequestId() string }).GetRequestId()) //nolint:errcheck,forcetypeassert // it has one
				require.NoError(t, err)
				overGRPC(t, f.Service, alice, &pb.CancelSessionRequest{SessionId: rec.ID})
				<-ended
			}
			require.Positive(t, limited)
			most := limit + 1 + int(time.Since(began)/(10*time.Second))
			require.LessOrEqual(t, int(taken.preParams.Load()-first), 2*most, "a hosted run takes two")
			silent(t, f.Service, deviceSignReq(f.second), f.second)() // runs that take none proceed
			// And so do those that need a share, for which a token is not enough.
			if name == "create" {
				done[*pb.BackupWalletResponse](t, overGRPC(t, f.Service, alice, backupReq(h)))
			}
		})
	}
}
