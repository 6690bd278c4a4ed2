//go:build long

package e2e_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// Each message of an ECDSA signing is withheld, with every way to end the run.
func TestLongArmed(t *testing.T) {
	t.Parallel()
	for _, way := range slices.Sorted(maps.Keys(withheldEnds)) {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s, h := armedStage(t)
			soft := uint32(0)
			for said := 1; said <= lastPart; said++ {
				w := s.withholds(t, h, said)
				withheldEnds[way](t, w)
				w.over(t)
				if said >= firstArmed && said <= lastArmed {
					soft++
				}
				s.charged(t, h, soft)
			}
			require.Equal(t, uint32(lastArmed-firstArmed+1), soft)
		})
	}
}

// Withholding messages of other protocols, or of ECDSA before round 2, tells a dishonest device nothing: they are
// never armed.
func TestLongNothingElseIsArmed(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true), "CREATE", "BACKUP", "PROVISION", tss.OperationSign)
	for op, sent := range s.honest {
		for said := 1; said < len(sent); said += 2 {
			reached := make(chan struct{})
			r := s.rogue(t, op, func(r *rogue, n int, m *outgoing) {
				if n < said {
					r.say(m)
				} else if n == said {
					close(reached)
				}
			})
			ended := later(func() answer { return r.run(t) })
			<-reached
			done[*pb.CancelSessionResponse](t, overGRPC(t, s.Service, alice, &pb.CancelSessionRequest{SessionId: r.id}))
			refused(t, <-ended, codes.Canceled, "SESSION_CANCELLED")
		}
	}
	s.requireIdle(t)
	w := wallet(t, s.Service, s.second.wallet)
	require.Zero(t, w.GetSoftAborts())
	require.Zero(t, w.GetAborts())
}

// Runs that the service ends itself by shutting down cost nothing.
func TestLongArmedIsRefundedWhenTheServiceShutsDown(t *testing.T) {
	t.Parallel()
	s, h := armedStage(t)
	w := s.withholds(t, h, lastArmed)
	s.Sessions.Close()
	refused(t, <-w.ended, codes.Aborted, "INTERRUPTED")
	s.charged(t, h, 0)
}

// A set whose soft budget is exhausted makes no ECDSA signature with a device, and says when it will again;
// operations that are not armed continue. One abort is paid back per day, also across a restart, and a release resets
// all.
func TestLongShareSetLimited(t *testing.T) {
	t.Parallel()
	cfg := rogueConfig(0, true)
	cfg.Sessions.Aborts = 2
	cfg.Dir = t.TempDir()
	s := newStage(t, cfg)
	h := confirm(t, s.Service, create(t, s.Service, pb.Curve_CURVE_SECP256K1, pb.Curve_CURVE_ED25519))
	one, two := s.withholds(t, h, lastArmed), s.withholds(t, h, firstArmed)
	busy := s.ecRogue(t, tss.OperationSign, h, nil)
	refused(t, busy.run(t), codes.ResourceExhausted, "SHARE_SET_BUSY")
	for _, w := range []*withheld{one, two} {
		withheldEnds["cancel"](t, w)
	}
	s.charged(t, h, 2)
	limited := s.ecRogue(t, tss.OperationSign, h, nil)
	for range 2 { // the same request may continue once the budget allows it
		a := limited.run(t)
		refused(t, a, codes.ResourceExhausted, "SHARE_SET_LIMITED")
		require.Contains(t, a.status.Message(), "another set of the wallet")
		wait, ok := retryIn(t, a)
		require.True(t, ok)
		require.Greater(t, wait, 23*time.Hour)
		require.LessOrEqual(t, wait, 24*time.Hour)
		limited = again(t, limited, h)
	}
	set := shareSet(wallet(t, s.Service, h.wallet), h)
	require.Equal(t, uint32(2), set.GetSoftAborts())
	require.WithinDuration(t, time.Now().Add(24*time.Hour), set.GetLimitedUntil().AsTime(), time.Hour)
	require.Nil(t, set.GetLockTime())
	signsEd := s.rogue(t, tss.OperationSign, nil)
	signsEd.req = edit(deviceSignReq(h), func(r *pb.SignWithDeviceRequest) { r.Payload = signsEd.joint.Payload })
	signsEd.holds(t, h)
	signsEd.well(t)
	hosted := signReq(h)
	done[*pb.SignResponse](t, overGRPC(t, s.Service, alice, hosted))
	s.Stop()

	cfg.Keyset, cfg.Sessions.Wall = s.Keyset, func() time.Time { return time.Now().Add(25 * time.Hour) }
	s = &stage{stocked: &stocked{Service: servertest.Start(t, cfg), fixture: s.fixture}}
	set = shareSet(wallet(t, s.Service, h.wallet), h)
	require.Equal(t, uint32(1), set.GetSoftAborts())
	require.Nil(t, set.GetLimitedUntil())
	s.ecRogue(t, tss.OperationSign, h, nil).well(t)
	withheldEnds["cancel"](t, s.withholds(t, h, firstArmed))
	refused(t, s.ecRogue(t, tss.OperationSign, h, nil).run(t), codes.ResourceExhausted, "SHARE_SET_LIMITED")
	done[*pb.ReleaseShareSetResponse](t, overGRPC(t, s.Service, rootCaller, releaseReq(h)))
	set = shareSet(wallet(t, s.Service, h.wallet), h)
	require.Zero(t, set.GetSoftAborts())
	require.Nil(t, set.GetLimitedUntil())
	require.Equal(t, uint32(3), wallet(t, s.Service, h.wallet).GetSoftAborts(), "in the wallet's life")
	s.ecRogue(t, tss.OperationSign, h, nil).well(t)
}

// The worker processes what the service has acknowledged even if the run was cancelled at the same moment: a device
// that sends garbage and cancels is blamed every time. The caller learns of the cancellation at once.
func TestLongCancelDoesNotEraseBlame(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true), "BACKUP", "PROVISION", tss.OperationSign)
	counted := map[string]uint32{}
	for _, op := range []string{"BACKUP", "PROVISION", tss.OperationSign} {
		for n, part := range s.honest[op] {
			// An altered hello or share hash shows only in the MAC, which was never sent.
			if n == 0 || kindOf(part) == anEnd && op != tss.OperationSign {
				continue
			}
			r := s.rogue(t, op, func(r *rogue, k int, m *outgoing) {
				switch {
				case k < n:
					r.say(m)
				case k == n:
					r.say(alter(m, 1, 2))
					_, _ = s.CancelSession(servertest.As(t.Context(), "alice"), &pb.CancelSessionRequest{SessionId: r.id})
				}
			})
			a := r.run(t)
			i, _ := info(t, a.status)
			require.NotNil(t, i)
			require.Contains(t, []string{brokenOff, gaveUp}, i.GetReason())
			counted[r.uses]++
			require.Eventually(t, func() bool { return r.aborts(t) == counted[r.uses] }, 2*time.Minute, 10*time.Millisecond,
				"%s: part %d, %s: %d of %d aborts", op, n, i.GetReason(), r.aborts(t), counted[r.uses])
			if i.GetReason() == gaveUp {
				require.Equal(t, session.Cancelled, r.record(t).State)
				require.Contains(t, s.Log.Wait(t, "a client broke a session that had already been ended", r.id), "caused by CLIENT")
			}
		}
	}
	s.requireIdle(t)
	w := wallet(t, s.Service, s.second.wallet)
	total := uint32(0)
	for _, n := range counted {
		total += n
	}
	require.Equal(t, total, w.GetAborts())
	s.rogue(t, tss.OperationSign, nil).well(t)
}
