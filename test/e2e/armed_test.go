package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// withheld is a device-held ECDSA signing whose device sends its first parts honestly, and none after them.
type withheld struct {
	*rogue
	said  int
	ended <-chan answer
}

// The parts of a device in an ECDSA signing: its hello, two messages of round 1, one of each round up to 9, an end, a
// MAC. The service's parts follow from them.
const (
	firstArmed = 3  // the device withholds its round 2; the service has sent its own
	lastArmed  = 9  // its round 8; the service has opened U and T
	lastPart   = 12 // its MAC
)

// serverSays returns how many parts the service sends to a device that sends this many.
func serverSays(said int) int {
	switch {
	case said == 0:
		return 1
	case said < firstArmed:
		return 3
	}
	return min(said, 11) + 1 // its end comes with its round 9, once the device's has arrived
}

// withholds starts such a signing, and returns when the service has answered everything.
func (s *stage) withholds(t testing.TB, h held, said int) *withheld {
	t.Helper()
	r := s.ecRogue(t, tss.OperationSign, h, func(r *rogue, n int, m *outgoing) {
		if n < said {
			r.say(m)
		}
	})
	w := &withheld{rogue: r, said: said, ended: later(func() answer { return r.run(t) })}
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.heard) >= serverSays(said)
	}, 2*time.Minute, 5*time.Millisecond, "the service has not answered %d parts", said)
	return w
}

// The ways in which such a run ends.
var withheldEnds = map[string]func(t testing.TB, w *withheld){
	"cancel": func(t testing.TB, w *withheld) {
		done[*pb.CancelSessionResponse](t, overGRPC(t, w.stage.Service, alice, &pb.CancelSessionRequest{SessionId: w.id}))
		refused(t, <-w.ended, codes.Canceled, "SESSION_CANCELLED")
	},
	"silence": func(t testing.TB, w *withheld) {
		refused(t, <-w.ended, codes.Aborted, "INTERRUPTED")
	},
	"dropped stream": func(t testing.TB, w *withheld) { // followed by silence
		w.drop()
		<-w.ended
	},
	"takeover": func(t testing.TB, w *withheld) {
		h := held{wallet: w.joint.Share.WalletID, set: w.uses, share: w.share(t)}
		again := w.stage.ecRogue(t, tss.OperationSign, h, nil)
		again.req = proto.CloneOf(w.req.(*pb.SignWithDeviceRequest)) //nolint:errcheck,forcetypeassert // it has this type
		again.req.GetDevice().Instance = uuid.NewString()
		again.well(t)
		refused(t, <-w.ended, codes.Aborted, "INTERRUPTED")
	},
}

// share returns the client share that it signs with.
func (w *withheld) share(t testing.TB) []byte {
	t.Helper()
	encoded, err := w.joint.Share.Encode()
	require.NoError(t, err)
	return encoded.Reveal()
}

// charged waits until a wallet has this many soft aborts, and requires that no hard ones were charged.
func (s *stage) charged(t testing.TB, h held, soft uint32) {
	t.Helper()
	require.Eventually(t, func() bool {
		return wallet(t, s.Service, h.wallet).GetSoftAborts() >= soft
	}, 2*time.Minute, 20*time.Millisecond, "%d soft aborts", soft)
	w := wallet(t, s.Service, h.wallet)
	require.Equal(t, soft, w.GetSoftAborts())
	require.Zero(t, w.GetAborts())
	set := shareSet(w, h)
	require.Equal(t, soft, set.GetSoftAborts())
	require.Zero(t, set.GetAborts())
	require.Nil(t, set.GetLockTime())
	s.requireIdle(t)
}

// over waits until the run's session has ended.
func (w *withheld) over(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool { return w.record(t).State.Ended() }, 2*time.Minute, 20*time.Millisecond)
}

// An ECDSA signing costs a soft abort if the device withholds a message after the service's round 2 and before its
// round 9, which leaves only when its own check has passed; here by a cancel. TestLongArmed covers every message and
// every way to end the run.
func TestArmed(t *testing.T) {
	t.Parallel()
	s, h := armedStage(t)
	soft := uint32(0)
	for said, costs := range map[int]uint32{firstArmed - 1: 0, firstArmed: 1, lastArmed + 1: 0} {
		w := s.withholds(t, h, said)
		withheldEnds["cancel"](t, w)
		w.over(t)
		soft += costs
		s.charged(t, h, soft)
	}
	r := s.ecRogue(t, tss.OperationSign, h, nil)
	r.well(t)
	s.charged(t, h, soft)
	lines, err := s.Store.Audit(t.Context(), h.wallet)
	require.NoError(t, err)
	charges := uint32(0)
	for _, l := range lines {
		if l.Action == "share_set.charge" {
			charges++
			require.Equal(t, h.set, l.ShareSetID)
			require.True(t, strings.HasPrefix(l.Detail, fmt.Sprintf("SIGN soft aborts %d of ", charges)), l.Detail)
			require.True(t, strings.HasSuffix(l.Detail, fmt.Sprintf(", of the wallet %d of 32", charges)), l.Detail)
		}
	}
	require.Equal(t, soft, charges)
}

// armedStage is a service with workers and a short silence, and alice's wallet on SECP256K1.
func armedStage(t testing.TB) (*stage, held) {
	t.Helper()
	s := newStage(t, rogueConfig(20*time.Second, true)) // longer than ECDSA takes on a busy machine
	return s, confirm(t, s.Service, create(t, s.Service, pb.Curve_CURVE_SECP256K1))
}

// The aborts of all sets together lock the wallet, including an unused set: its shares are of the same key. Releasing
// one set unlocks the wallet, but no other set.
func TestAbortsLockAWallet(t *testing.T) {
	t.Parallel()
	cfg := rogueConfig(0, true)
	cfg.Sessions.Aborts = 1
	s := newStage(t, cfg)
	for i, op := range []string{"BACKUP", tss.OperationSign, "PROVISION"} {
		w := wallet(t, s.Service, s.first.wallet)
		require.Nil(t, w.GetLockTime())
		require.Equal(t, uint32(i), w.GetAborts())
		n := 1 // the part that is altered
		s.rogue(t, op, func(r *rogue, k int, m *outgoing) {
			if k == n {
				m = alter(m, 1, 2)
			}
			r.say(m)
		}).ends(t, brokenOff)
	}
	w := wallet(t, s.Service, s.first.wallet)
	require.NotNil(t, w.GetLockTime())
	require.Equal(t, uint32(3), w.GetAborts())
	unused := confirm(t, s.Service, s.pending)
	w = wallet(t, s.Service, s.first.wallet)
	require.Equal(t, w.GetLockTime().AsTime(), shareSet(w, unused).GetLockTime().AsTime())
	for _, do := range transports {
		refused(t, do(t, s.Service, alice, signReq(unused)), codes.FailedPrecondition, "SHARE_SET_LOCKED")
	}
	r := s.rogue(t, tss.OperationSign, nil)
	r.req = deviceSignReq(unused)
	r.holds(t, unused)
	refused(t, r.run(t), codes.FailedPrecondition, "SHARE_SET_LOCKED")

	done[*pb.ReleaseShareSetResponse](t, overGRPC(t, s.Service, rootCaller, releaseReq(unused)))
	signs(t, s.Service, w, unused)
	refused(t, overGRPC(t, s.Service, alice, signReq(s.first)), codes.FailedPrecondition, "SHARE_SET_LOCKED")
	w = wallet(t, s.Service, s.first.wallet)
	require.Nil(t, w.GetLockTime())
	require.Zero(t, w.GetAborts())
	lines, err := s.Store.Audit(t.Context(), s.first.wallet)
	require.NoError(t, err)
	var said []string
	for _, l := range lines {
		switch l.Action {
		case "wallet.lock", "share_set.release":
			said = append(said, l.Action+": "+l.Detail)
		}
	}
	require.Equal(t, []string{
		"wallet.lock: PROVISION culprit CLIENT",
		"share_set.release: had aborts 0, soft aborts 0; the wallet 3, soft 0, and was locked",
	}, said)
}

// A final end that could not be stored is not reported, and the same request runs again; its cost is charged then, in
// addition to that of the next attempt.
func TestAbortThatIsNotStored(t *testing.T) {
	t.Parallel()
	cfg := rogueConfig(0, false)
	full := make(chan struct{}, 1)
	full <- struct{}{}
	cfg.Wrap = func(p *session.Ports) { p.Sessions = fullSessions{p.Sessions, full} }
	s := newStage(t, cfg)
	r := s.rogue(t, tss.OperationSign, sayAltered(1, 2))
	a := r.run(t)
	refused(t, a, codes.Aborted, "INTERRUPTED")
	require.Zero(t, r.aborts(t))
	n := s.rogue(t, tss.OperationSign, sayAltered(1, 2))
	n.req = proto.CloneOf(r.req.(*pb.SignWithDeviceRequest)) //nolint:errcheck,forcetypeassert // it has this type
	n.req.GetDevice().Instance = uuid.NewString()
	for range 2 { // then it is final, and attaching starts no run
		refused(t, n.run(t), codes.Aborted, "PROTOCOL_ABORTED")
		require.Equal(t, uint32(2), n.aborts(t))
	}
}

// fullSessions fails to store failures while full.
type fullSessions struct {
	session.Sessions
	full chan struct{}
}

func (f fullSessions) Update(ctx context.Context, s *session.Session, b session.Budget, e session.Entry) error {
	if s.State == session.Failed {
		select {
		case <-f.full:
			return errors.New("a full disk")
		default:
		}
	}
	return f.Sessions.Update(ctx, s, b, e)
}

// An honest device that gives up costs nothing, at whichever part.
func TestCancelIsNotBlamed(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true), tss.OperationSign)
	for n := range s.honest[tss.OperationSign] {
		r := s.rogue(t, tss.OperationSign, func(r *rogue, k int, m *outgoing) {
			if k <= n {
				r.say(m)
			}
			if k == n {
				_, _ = s.CancelSession(servertest.As(t.Context(), "alice"), &pb.CancelSessionRequest{SessionId: r.id})
			}
		})
		a := r.run(t)
		if a.status.Code() != codes.OK { // the last parts may be faster
			refused(t, a, codes.Canceled, "SESSION_CANCELLED")
		}
		s.requireIdle(t)
		require.Zero(t, r.aborts(t))
	}
	s.requireClean(t, gaveUp)
}

// again is the same request from a restarted device.
func again(t testing.TB, r *rogue, h held) *rogue {
	t.Helper()
	n := r.stage.ecRogue(t, r.op, h, nil)
	n.req = proto.CloneOf(r.req.(*pb.SignWithDeviceRequest)) //nolint:errcheck,forcetypeassert // it has this type
	n.req.GetDevice().Instance = uuid.NewString()
	return n
}
