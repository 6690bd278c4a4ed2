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

// The kinds of parts.
const (
	aHello   = "hello"
	aMessage = "message"
	anEnd    = "end"
	aMAC     = "mac"
)

func kindOf(m *outgoing) string {
	switch {
	case m.GetHello() != nil:
		return aHello
	case m.GetEnd() != nil:
		return anEnd
	case len(m.GetMac()) > 0:
		return aMAC
	}
	return aMessage
}

// bitFlip flips one bit of a field: in the byte at num/den of its length.
func bitFlip(b []byte, num, den int) []byte {
	if len(b) == 0 {
		return []byte{1}
	}
	b = append([]byte{}, b...)
	b[min(len(b)-1, len(b)*num/den)] ^= 1
	return b
}

// alter flips a bit in a part's content; of a hello, not in its proof.
func alter(m *outgoing, num, den int) *outgoing {
	m = proto.CloneOf(m)
	switch kindOf(m) {
	case aHello:
		m.Hello.Nonce = bitFlip(m.GetHello().GetNonce(), num, den)
	case aMessage:
		m.Payload = bitFlip(m.GetPayload(), num, den)
	case anEnd:
		m.End.ShareSha256 = bitFlip(m.GetEnd().GetShareSha256(), num, den)
	default:
		m.Mac = bitFlip(m.GetMac(), num, den)
	}
	return m
}

// attack is one change to one part of a run.
type attack struct {
	do trick
	// ends are the ways in which the run may end, by the part's kind; kinds without any are not attacked.
	ends map[string][]string
}

// always returns the same way for every kind of part.
func always(way string) map[string][]string {
	return map[string][]string{aHello: {way}, aMessage: {way}, anEnd: {way}, aMAC: {way}}
}

func sayAltered(num, den int) trick {
	return func(r *rogue, _ int, m *outgoing) { r.say(r.proven(alter(m, num, den))) }
}

// large is more than any part of a run holds, and less than a call may carry.
func large() []byte { return make([]byte, 200<<10) }

// attacks are applied to each part of each run.
var attacks = map[string]attack{
	"altered at its start":  {sayAltered(0, 1), always(brokenOff)},
	"altered in the middle": {sayAltered(1, 2), always(brokenOff)},
	"altered at its end":    {sayAltered(1, 1), always(brokenOff)},
	"said again": {func(r *rogue, _ int, m *outgoing) {
		r.say(m)
		r.say(proto.CloneOf(m))
	}, map[string][]string{aHello: {brokenOff}, aMessage: {brokenOff}, anEnd: {brokenOff}, aMAC: {succeeded}}}, // after the last part nothing is read
	"said again, altered": {func(r *rogue, _ int, m *outgoing) {
		r.say(m)
		r.say(r.proven(alter(m, 1, 1)))
	}, map[string][]string{aHello: {brokenOff}, aMessage: {brokenOff}, anEnd: {brokenOff}, aMAC: {succeeded}}},
	"too large for its protocol": {func(r *rogue, _ int, m *outgoing) {
		switch kindOf(m) {
		case aHello:
			m.Hello.Nonce = large()
		case aMessage:
			m.Payload = large()
		case anEnd:
			m.End.ShareSha256 = large()
		default:
			m.Mac = large()
		}
		r.say(r.proven(m))
	}, map[string][]string{aHello: {brokenOff, unshown}, aMessage: {brokenOff}, anEnd: {brokenOff}, aMAC: {brokenOff}}},
	"of another kind": {func(r *rogue, _ int, m *outgoing) {
		if kindOf(m) == aMAC {
			r.say(&outgoing{End: &pb.End{}})
		} else {
			r.say(&outgoing{Mac: make([]byte, 32)})
		}
	}, map[string][]string{aHello: {brokenOff, unshown}, aMessage: {brokenOff}, anEnd: {brokenOff}, aMAC: {brokenOff}}},
	"with its private flag flipped": {func(r *rogue, _ int, m *outgoing) {
		m.Private = !m.GetPrivate()
		r.say(m)
	}, map[string][]string{aMessage: {brokenOff}}},
	"of a curve that the run has not": {func(r *rogue, _ int, m *outgoing) {
		m.Curve = pb.Curve_CURVE_SECP256K1
		r.say(m)
	}, map[string][]string{aMessage: {brokenOff}}},
	"of no curve": {func(r *rogue, _ int, m *outgoing) {
		m.Curve = 77
		r.say(m)
	}, map[string][]string{aMessage: {brokenOff}}},
	"of another protocol": {func(r *rogue, _ int, m *outgoing) {
		if m.GetPrivate() {
			m.Payload = r.sealed(r.foreign(true))
		} else {
			m.Payload = r.foreign(false)
		}
		r.say(m)
	}, map[string][]string{aMessage: {brokenOff}}},
	"after a later one": {func(r *rogue, n int, m *outgoing) {
		r.say(proto.CloneOf(r.stage.honest[r.op][n+1]))
		r.say(m)
	}, map[string][]string{aHello: {brokenOff, unshown}, aMessage: {brokenOff}, anEnd: {brokenOff}}},
	"with another party key": {func(r *rogue, _ int, m *outgoing) {
		m.Hello.PartyKeys = bitFlip(m.GetHello().GetPartyKeys(), 1, 1)
		r.say(r.proven(m))
	}, map[string][]string{aHello: {brokenOff, gaveUp}}}, // its own parties compute with the original one
	"with another session key": {func(r *rogue, _ int, m *outgoing) {
		m.Hello.SessionKey = bitFlip(m.GetHello().GetSessionKey(), 1, 2)
		r.say(r.proven(m))
	}, map[string][]string{aHello: {brokenOff, gaveUp}}}, // its own parties cannot decrypt what is sent to them
	"with a session key of small order": {func(r *rogue, _ int, m *outgoing) {
		m.Hello.SessionKey = make([]byte, 32)
		r.say(r.proven(m))
	}, map[string][]string{aHello: {brokenOff}}},
	"with the wallet's id": {func(r *rogue, _ int, m *outgoing) {
		m.Hello.WalletId = r.stage.first.wallet
		r.say(m)
	}, map[string][]string{aHello: {brokenOff}}},
	"with a set's id": {func(r *rogue, _ int, m *outgoing) {
		m.Hello.ShareSetId = uuid.NewString()
		r.say(m)
	}, map[string][]string{aHello: {brokenOff}}},
	"with a record": {func(r *rogue, _ int, m *outgoing) {
		m.Hello.Record = large()
		r.say(m)
	}, map[string][]string{aHello: {brokenOff, unshown}}},
}

// parts returns the parts of an operation that an attack applies to.
func (s *stage) parts(op, name string) (parts []int) {
	if name == "with a session key of small order" && op == tss.OperationSign {
		return nil // no message would be encrypted to it
	}
	for n, part := range s.honest[op] {
		if len(attacks[name].ends[kindOf(part)]) > 0 {
			parts = append(parts, n)
		}
	}
	return parts
}

// tries applies one attack to one part of a run, which the service must detect: the run ends with PROTOCOL_ABORTED,
// naming the device, and nothing else has happened.
func (s *stage) tries(t testing.TB, op, name string, n int) {
	t.Helper()
	x, kind := attacks[name], kindOf(s.honest[op][n])
	ways := x.ends[kind]
	if kind == aHello && op != "CREATE" {
		ways = append(slices.Clone(ways), showedNoShare)
	}
	way := s.rogue(t, op, at(n, x.do)).ends(t, ways...)
	t.Logf("%s: part %d, a %s, %s: %s", op, n, kind, name, way)
	s.requireClean(t, way)
}

// Each attack on parts, once. TestLongRogueParts applies it to each part.
func TestRogueParts(t *testing.T) {
	t.Parallel()
	operations := []string{"CREATE", "BACKUP", "PROVISION", tss.OperationSign}
	for o, op := range operations {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, rogueConfig(0, false), op)
			for i, name := range slices.Sorted(maps.Keys(attacks)) {
				if i%len(operations) == o {
					parts := s.parts(op, name)
					s.tries(t, op, name, parts[i%len(parts)])
				}
			}
		})
	}
}

// at plays a trick on one part, and sends the others unchanged.
func at(n int, do trick) trick {
	return func(r *rogue, k int, m *outgoing) {
		if k == n {
			do(r, k, m)
		} else {
			r.say(m)
		}
	}
}

// left omits a part of an operation, and then swaps it with the next one: on a service with a long timeout, or on one
// with a brief one if nothing follows.
func (s *stage) left(t testing.TB, brief *stage, op string, n int) {
	t.Helper()
	part := s.honest[op][n]
	on, want := brief, unblamed
	if k := kindOf(part); k == anEnd {
		on, want = s, brokenOff // what follows it is out of order
	}
	kept := make(chan *outgoing, 1)
	r := on.rogue(t, op, at(n, func(_ *rogue, _ int, m *outgoing) { kept <- m }))
	way := r.ends(t, want)
	r.say(<-kept)
	late := r.refusals()
	require.Len(t, late, 1, "only the late one")
	if r.recorded(t) {
		refused(t, answer{status: late[0]}, codes.Aborted, want)
	} else {
		refused(t, answer{status: late[0]}, codes.NotFound, "SESSION_NOT_FOUND")
	}
	t.Logf("%s: part %d, a %s, left out: %s", op, n, kindOf(part), way)
	on.requireClean(t, way)

	if n+1 == len(s.honest[op]) {
		return
	}
	// Swapped with the next, if that can be sent without it.
	r = brief.rogue(t, op, func(r *rogue, k int, m *outgoing) {
		switch k {
		case n:
			kept <- m
		case n + 1:
			r.say(m, <-kept)
		default:
			r.say(m)
		}
	})
	way = r.ends(t, brokenOff, unblamed)
	t.Logf("%s: parts %d and %d, swapped: %s", op, n, n+1, way)
	brief.requireClean(t, way)
}

// stages returns two services for the same operation: the second has a brief device timeout.
func stages(t testing.TB, op string) (s, brief *stage) {
	t.Helper()
	s = newStage(t, rogueConfig(0, false), op)
	brief = &stage{stocked: start(t, rogueConfig(briefly, false)), honest: s.honest}
	brief.before = wallet(t, brief.Service, brief.second.wallet)
	return s, brief
}

// A part that never arrives is not blamed on anyone, unless what follows it is out of order. Sent after the run's
// end, it changes nothing. TestLongRogueLate covers each part of each operation.
func TestRogueLate(t *testing.T) {
	t.Parallel()
	for o, op := range []string{"CREATE", "PROVISION", tss.OperationSign} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			s, brief := stages(t, op)
			for n := range s.honest[op] {
				if n%3 == o {
					s.left(t, brief, op, n)
				}
			}
		})
	}
}

// Calls that are rejected do not harm a run: a repeated number, numbers that are not next, acknowledgements of parts
// never sent, calls of and for others, and invalid calls. It tries every part of every operation, each with a
// corrupted copy.
func TestRogueNoise(t *testing.T) {
	t.Parallel()
	bob := &session.Caller{Name: "bob"}
	s := newStage(t, rogueConfig(0, false), "CREATE")
	for _, op := range []string{"CREATE", "BACKUP", "PROVISION", tss.OperationSign} {
		var odd []string // answers that differ from the expected
		r := s.rogue(t, op, func(r *rogue, _ int, m *outgoing) {
			poison := alter(m, 1, 1)
			want := func(what string, code codes.Code, as *session.Caller, change func(*pb.SendMessagesRequest, *outgoing)) {
				p := proto.CloneOf(poison)
				p.Sequence = r.next + 1
				req := r.words(p)
				change(req, p)
				if st := r.shout(as, req); st.Code() != code {
					odd = append(odd, what+": "+st.String())
				}
			}
			want("of another user", codes.NotFound, bob, func(*pb.SendMessagesRequest, *outgoing) {})
			want("of an operator who may only read", codes.NotFound, &session.Caller{Name: "ops", Scopes: []session.Scope{session.ScopeRead}}, func(*pb.SendMessagesRequest, *outgoing) {})
			want("of another instance", codes.Aborted, alice, func(req *pb.SendMessagesRequest, _ *outgoing) { req.Instance = uuid.NewString() })
			want("of the attempt before", codes.Aborted, alice, func(req *pb.SendMessagesRequest, _ *outgoing) { req.Attempt-- })
			want("of an attempt to come", codes.Aborted, alice, func(req *pb.SendMessagesRequest, _ *outgoing) { req.Attempt++ })
			want("for a session that is not", codes.NotFound, alice, func(req *pb.SendMessagesRequest, _ *outgoing) { req.SessionId = uuid.NewString() })
			want("of two kinds", codes.InvalidArgument, alice, func(_ *pb.SendMessagesRequest, p *outgoing) {
				p.Mac, p.End = []byte("x"), &pb.End{}
			})
			want("larger than any", codes.InvalidArgument, alice, func(_ *pb.SendMessagesRequest, p *outgoing) {
				p.Hello, p.End, p.Mac, p.Payload, p.Curve = nil, nil, nil, make([]byte, 300<<10), pb.Curve_CURVE_ED25519
			})
			want("larger than a call", codes.ResourceExhausted, alice, func(_ *pb.SendMessagesRequest, p *outgoing) { p.Payload = make([]byte, 3<<20) })
			for _, sequence := range []uint32{0, r.next + 2, r.next + 1000, 1<<32 - 1} {
				want("out of its sequence", codes.OK, alice, func(_ *pb.SendMessagesRequest, p *outgoing) { p.Sequence = sequence })
			}
			for _, ack := range []uint32{1000, 1<<32 - 1} {
				want("with a wild ack", codes.OK, alice, func(_ *pb.SendMessagesRequest, p *outgoing) { p.Sequence, p.Ack = 0, ack })
			}
			r.say(m)
			want("the same number again", codes.OK, alice, func(_ *pb.SendMessagesRequest, p *outgoing) { p.Sequence-- })
		})
		way := r.ends(t, succeeded)
		require.Empty(t, odd, op)
		s.requireClean(t, way)
	}
}

// A device that acknowledges what it has not received loses it and harms only itself: the run ends without blame.
func TestRogueAcknowledgesWhatItHasNot(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(briefly, false))
	r := s.rogue(t, "PROVISION", func(r *rogue, _ int, m *outgoing) {
		r.say(m)
		for i := range uint32(64) {
			m.Ack = i
			r.shout(alice, r.words(m))
		}
	})
	way := r.ends(t, succeeded, unblamed)
	t.Log(way)
	s.requireClean(t, way)
}

// A device that restarts begins another attempt. Its first parties' messages are useless in it, under the old
// attempt's number or the new one's, and in any later run.
func TestRogueEarlierAttempt(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"PROVISION", tss.OperationSign} {
		s := newStage(t, rogueConfig(0, false), op)
		for n := range s.honest[op] {
			if n <= 1 { // without its own hello, the second begins no attempt
				continue
			}
			first, took := s.rogue(t, op, nil), make(chan struct{})
			first.trick = func(r *rogue, k int, m *outgoing) {
				if k < n {
					r.say(m)
				} else if k == n {
					close(took)
				}
			}
			ended := later(func() answer { return first.run(t) }) // it ends when the second begins
			<-took

			second := s.rogue(t, op, func(r *rogue, k int, m *outgoing) {
				if k != n-1 {
					r.say(m)
					return
				}
				old := first.words(first.part(k))
				old.Messages[0].Sequence = r.next + 1
				r.shout(alice, old) // under its own number
				r.say(first.part(k))
			})
			again := proto.Clone(first.req).(deviceRun) //nolint:errcheck,forcetypeassert // it has this type
			again.GetDevice().Instance = uuid.NewString()
			second.req = again
			ways := []string{brokenOff}
			if equal(first.part(n-1), s.honest[op][n-1]) {
				ways = []string{succeeded}
			}
			way := second.ends(t, ways...)
			refused(t, <-ended, codes.Aborted, "INTERRUPTED")
			require.Equal(t, first.id, second.id, "one session")
			require.Equal(t, uint32(2), second.joint.Attempt)
			old := second.refusals()
			require.NotEmpty(t, old)
			i, _ := info(t, old[0])
			require.Equal(t, "INTERRUPTED", i.GetReason())
			t.Logf("%s: part %d of attempt 1 in attempt 2: %s", op, n-1, way)
			s.requireClean(t, way)
		}
	}
}
