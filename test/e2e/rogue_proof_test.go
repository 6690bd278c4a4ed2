package e2e_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// unshown is how a run ends whose device does not prove that it has the share.
const unshown = "SHARE_SET_MISMATCH"

// claiming sends a hello with a proof that the right share's holder made for something else.
func claiming(change func(*tss.HelloContext)) trick {
	return func(r *rogue, _ int, m *outgoing) {
		about := r.about()
		change(about)
		m.Hello.Proof = proofOf(m.GetHello(), about, r.joint.Share)
		r.say(m)
	}
}

// carrying sends a hello with another one's proof.
func carrying(change func(*pb.Hello)) trick {
	return func(r *rogue, _ int, m *outgoing) {
		change(m.GetHello())
		r.say(m)
	}
}

// falseProofs are hellos from an attacker with a token who knows all public values and has seen every message of the
// device.
var falseProofs = map[string]trick{
	"none":     carrying(func(h *pb.Hello) { h.Proof = nil }),
	"no hello": func(r *rogue, n int, _ *outgoing) { r.say(proto.CloneOf(r.stage.honest[r.op][n+1])) },
	"altered":  carrying(func(h *pb.Hello) { h.Proof = bitFlip(h.GetProof(), 1, 1) }),
	// With which it could decrypt private messages.
	"with its own": carrying(func(h *pb.Hello) { h.SessionKey = bitFlip(h.GetSessionKey(), 1, 2) }),
	"of another set's share": func(r *rogue, _ int, m *outgoing) {
		share, err := tss.ParseShare(r.stage.pendingBackup.share)
		if err != nil {
			panic(err) // the fixture has it
		}
		m.Hello.Proof = proofOf(m.GetHello(), r.about(), share)
		r.say(m)
	},
	"of an earlier run":    func(r *rogue, n int, _ *outgoing) { r.say(proto.CloneOf(r.stage.honest[r.op][n])) },
	"of another session":   claiming(func(c *tss.HelloContext) { c.SessionID = uuid.NewString() }),
	"of another attempt":   claiming(func(c *tss.HelloContext) { c.Attempt++ }),
	"of another instance":  claiming(func(c *tss.HelloContext) { c.Instance = uuid.NewString() }),
	"of another operation": claiming(func(c *tss.HelloContext) { c.Operation = "CREATE" }),
}

// Without a proof of the share a device gets nothing from the service, not even its hello, and the set is not
// charged. TestLongRogueProofs covers the other operations, and workers.
func TestRogueProofs(t *testing.T) {
	t.Parallel()
	provesNothing(t, tss.OperationSign, false)
}

func provesNothing(t *testing.T, op string, workers bool) {
	t.Helper()
	s := newStage(t, rogueConfig(0, workers), op)
	for _, name := range slices.Sorted(maps.Keys(falseProofs)) {
		r := s.rogue(t, op, at(0, falseProofs[name]))
		way := r.ends(t, unshown)
		require.Empty(t, r.heard, name)
		_, err := s.Store.Session(t.Context(), r.id)
		require.ErrorIs(t, err, session.ErrSessionNotFound, name)
		s.requireClean(t, way)
	}
}

// The requested signature is not the one that the device's proof is for.
func TestRogueProofOfAnotherPayload(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, false))
	r := s.rogue(t, tss.OperationSign, at(0, claiming(func(c *tss.HelloContext) { c.Payload = []byte("another") })))
	s.requireClean(t, r.ends(t, unshown))
	require.Empty(t, r.heard)
}

// A new wallet has no share, and a hello that names one is rejected.
func TestRogueProofWithoutAShare(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, false))
	r := s.rogue(t, "CREATE", at(0, carrying(func(h *pb.Hello) { h.Proof = make([]byte, 64) })))
	s.requireClean(t, r.ends(t, brokenOff))
}

// Replaying the hello of the device's own live run does not take it over: neither as another instance, nor as the
// device's own.
func TestRogueReplaysAHello(t *testing.T) {
	t.Parallel()
	for i, op := range []string{"PROVISION", tss.OperationSign} {
		s := newStage(t, rogueConfig(0, i == 0))
		victim := s.rogue(t, op, nil)
		reached, goOn := victim.pausesAt(2)
		ended := later(func() answer { return victim.run(t) })
		<-reached
		again := proto.Clone(victim.req).(deviceRun) //nolint:errcheck,forcetypeassert // it has this type
		again.GetDevice().Instance = uuid.NewString()
		thief := begins(t, s.Service, alice, again)
		require.Equal(t, victim.id, thief.id)
		heard := victim.part(0)
		heard.Sequence = 1
		_, st := thief.says(heard)
		require.Equal(t, codes.OK, st.Code())
		refused(t, <-thief.ended, codes.InvalidArgument, unshown)

		// As the device's own instance it counts as a repetition.
		ack, st := victim.call(alice, victim.words(heard))
		require.Equal(t, codes.OK, st.Code())
		require.Equal(t, uint32(2), ack)
		close(goOn)
		require.Equal(t, codes.OK, (<-ended).status.Code())
		require.Equal(t, uint32(1), victim.record(t).Attempt)
		require.Zero(t, victim.aborts(t))
		s.requireClean(t, succeeded)
	}
}
