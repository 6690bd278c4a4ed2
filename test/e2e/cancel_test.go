package e2e_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// announced signals when a run is about to commit, and gives others time to act.
type announced struct {
	session.Sessions
	commits chan struct{}
}

// Commit implements session.Sessions.
func (a *announced) Commit(ctx context.Context, s *session.Session, m session.Made, e session.Entry) error {
	a.commits <- struct{}{}
	time.Sleep(rand.N(10 * time.Millisecond)) // some way through a cancellation
	return a.Sessions.Commit(ctx, s, m, e)
}

// Of a concurrent cancellation and commit exactly one wins, and everybody sees the same result: the canceller, calls
// attached over either transport, calls that attach later, and those that list the wallets.
// TestLongCancelWhileCommitting tries more often.
func TestCancelWhileCommitting(t *testing.T) {
	t.Parallel()
	cancelWhileCommitting(t, 10)
}

func cancelWhileCommitting(t *testing.T, rounds int) {
	t.Helper()
	commits := make(chan struct{}, rounds)
	f := start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Sessions = &announced{Sessions: p.Sessions, commits: commits}
	}})
	wallets := func() int {
		return len(done[*pb.ListWalletsResponse](t, overGRPC(t, f.Service, alice, &pb.ListWalletsRequest{PageSize: 100})).GetWallets())
	}
	won := map[pb.SessionState]int{}
	for i := range rounds {
		req := createReq()
		before := wallets()
		var ends []<-chan answer
		for _, do := range transports {
			ends = append(ends, later(func() answer { return do(t, f.Service, alice, req) }))
		}
		id := sessionOf(t, f, req.GetRequestId())
		switch {
		case i == 0: // immediately: too early for the commit
		case i == 1: // too late for the cancellation
			require.Eventually(t, func() bool {
				return getSession(t, f.Service, id).GetState() == pb.SessionState_SESSION_STATE_SUCCEEDED
			}, time.Minute, time.Millisecond)
		case i%5 == 0: // during the run
			time.Sleep(rand.N(50 * time.Millisecond))
		default: // around the commit
			<-commits
			time.Sleep(rand.N(10 * time.Millisecond))
		}
		stands := done[*pb.CancelSessionResponse](t, overHTTP(t, f.Service, alice, &pb.CancelSessionRequest{SessionId: id})).GetSession()
		for _, end := range ends {
			sameEnd(t, stands, <-end)
		}
		for _, do := range transports {
			sameEnd(t, stands, do(t, f.Service, alice, req))
		}
		require.Equal(t, stands.GetState(), getSession(t, f.Service, id).GetState())
		if stands.GetState() == pb.SessionState_SESSION_STATE_SUCCEEDED {
			before++
		}
		require.Equal(t, before, wallets())
		won[stands.GetState()]++
		for len(commits) > 0 {
			<-commits
		}
	}
	t.Log(won)
	require.Len(t, won, 2, "both happen")
}

// sameEnd requires that a call's result agrees with its session.
func sameEnd(t testing.TB, stands *pb.Session, a answer) {
	t.Helper()
	switch stands.GetState() {
	case pb.SessionState_SESSION_STATE_SUCCEEDED:
		require.Equal(t, stands.GetShareSetId(), made(t, a, stands.GetWalletId()).set)
	default:
		require.Equal(t, pb.SessionState_SESSION_STATE_CANCELLED, stands.GetState())
		refused(t, a, codes.Canceled, "SESSION_CANCELLED")
	}
}
