//go:build long

package server_test

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

// A device whose run needs pre-params is refused while the pool is empty: nothing searches
// primes for it, no worker is used and no share is read. The same request goes on when there
// are some. A run that needs none goes on in the meantime.
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
	cfg.Sessions.Creates = 1 // who is refused for want of a set has not begun any
	s := newStage(t, cfg)
	add := func(party tss.Party, number int) {
		set, err := preParams(t, number)(t.Context())
		require.NoError(t, err)
		require.NoError(t, pool.Add(t.Context(), party, set))
	}
	add(tss.Client, 0) // which is no server's
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

// A modulus that the service made, for whomever, is none of a device's: a hosted client knows
// the primes of one.
func TestLongRogueNamesTheServicesModulus(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true))
	set, err := preParams(t, lastSet)(t.Context())
	require.NoError(t, err)
	n, nTilde := set.Moduli()
	require.NoError(t, s.Store.ReserveModuli(t.Context(), uuid.NewString(), session.MadeHere, sha256.Sum256(n.Bytes()), sha256.Sum256(nTilde.Bytes())))
	s.stopped(t, "the service's", s.ecRogue(t, "CREATE", held{}, nil), session.ErrModulusUsed.Error())
}
