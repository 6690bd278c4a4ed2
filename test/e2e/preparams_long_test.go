//go:build long

package e2e_test

import (
	"context"
	"crypto/sha256"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// While the pool is empty a device-held run that needs pre-params is refused: no prime search, no worker, and no
// share is read. The same request succeeds once there are some. Runs that need none are unaffected.
func TestLongEmptyPoolRefusesDevices(t *testing.T) {
	t.Parallel()
	var pool *preparams.Pool
	var read atomic.Int32
	cfg := rogueConfig(0, true)
	cfg.Workers.Warm = 0
	cfg.Wrap = func(p *session.Ports) {
		pool = fillsNothing(t, p)
		p.PreParams = pool
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: func(context.Context) error {
			read.Add(1)
			return nil
		}}
	}
	cfg.Sessions.Creates = 1 // a run refused for lack of a set does not count as begun
	s := newStage(t, cfg)
	add := func(party tss.Party, number int) {
		set, err := preParams(t, number)(t.Context())
		require.NoError(t, err)
		require.NoError(t, pool.Add(t.Context(), party, set))
	}
	add(tss.Client, 0) // which the server cannot use
	started := s.Workers.Stats().Started
	first := s.ecRogue(t, "CREATE", held{}, nil)
	noneIsReady(t, first, false)
	require.Equal(t, started, s.Workers.Stats().Started)

	s.rogue(t, tss.OperationSign, nil).well(t)
	add(tss.Server, 1)
	again := s.ecRogue(t, "CREATE", held{}, nil)
	again.req = first.req
	again.well(t)
	require.Equal(t, uint32(1), again.record(t).Attempt)

	h := held{wallet: again.joined.WalletID, set: again.joined.Share.ShareSetID, share: again.joined.Encoded.Reveal()}
	done[*pb.ConfirmShareSetResponse](t, overGRPC(t, s.Service, alice, &pb.ConfirmShareSetRequest{WalletId: h.wallet, ShareSetId: h.set}))
	started, read0 := s.Workers.Stats().Started, read.Load()
	b := s.ecRogue(t, "BACKUP", h, nil)
	noneIsReady(t, b, true)
	require.Equal(t, started, s.Workers.Stats().Started)
	require.Equal(t, read0, read.Load(), "a share was read")
	require.Zero(t, b.aborts(t))
}

// fillsNothing is a store's pool whose filler does not run.
func fillsNothing(t testing.TB, p *session.Ports) *preparams.Pool {
	t.Helper()
	st, ok := p.Sessions.(preparams.Store)
	require.True(t, ok)
	return preparams.NewPool(st, p.Sealer, preparams.Config{Depth: 2, MaxAge: time.Hour}, p.Log)
}

// A device may not use any modulus that the service generated: a hosted client may know its primes.
func TestLongRogueNamesTheServicesModulus(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true))
	set, err := preParams(t, lastSet)(t.Context())
	require.NoError(t, err)
	n, nTilde := set.Moduli()
	require.NoError(t, s.Store.ReserveModuli(t.Context(), uuid.NewString(), session.MadeHere, sha256.Sum256(n.Bytes()), sha256.Sum256(nTilde.Bytes())))
	s.stopped(t, "the service's", s.ecRogue(t, "CREATE", held{}, nil), session.ErrModulusUsed.Error())
}
