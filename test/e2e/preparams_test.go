package e2e_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// noneIsReady requires that a run was refused for lack of pre-params, and may be retried; that of a new wallet before
// it was recorded.
func noneIsReady(t *testing.T, r *rogue, recorded bool) {
	t.Helper()
	a := r.run(t)
	refused(t, a, codes.ResourceExhausted, "OVERLOADED")
	require.Contains(t, a.status.Message(), "no pre-params ready")
	in, ok := retryIn(t, a)
	require.True(t, ok)
	require.GreaterOrEqual(t, in, time.Second)
	rec, err := r.stage.Store.ByRequest(t.Context(), alice.Name, r.req.GetRequestId())
	if !recorded {
		require.ErrorIs(t, err, session.ErrSessionNotFound)
		return
	}
	require.NoError(t, err)
	require.Equal(t, session.Interrupted, rec.State)
}

// A run whose worker finds that another run has claimed the last set ends in the same way.
func TestLastSetIsClaimedByAnother(t *testing.T) {
	t.Parallel()
	cfg := rogueConfig(0, true)
	cfg.Wrap = func(p *session.Ports) {
		p.PreParams = &servertest.PreParams{Source: p.PreParams, Before: func(context.Context) error {
			return &session.NoPreParamsError{RetryAfter: 3 * time.Second}
		}}
	}
	s := newStage(t, cfg)
	r := s.ecRogue(t, "CREATE", held{}, nil)
	noneIsReady(t, r, true)
	s.requireClean(t, unblamed)
}
