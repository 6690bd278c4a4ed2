package tss

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// idle returns a side of p whose parties are never started: the messages that it accepts stay in their inboxes.
func idle(c Curve, p *protocol, me Party) *side {
	s := &side{curve: c, me: me, proto: p, round: 1, failed: make(chan struct{})}
	s.seen = map[protoreflect.FullName][32]byte{}
	roles := []role{onlyRole}
	if p == resharings[c] {
		roles = []role{oldRole, newRole}
	}
	old, fresh := committee{big.NewInt(1), big.NewInt(2)}, committee{big.NewInt(3), big.NewInt(4)}
	for _, r := range roles {
		t := newLocalParty(r, []committee{old, fresh}[r][me])
		t.senders = [2][2]*lib.PartyID{old.ids("old"), fresh.ids("new")}
		sorted(t.senders[0])
		sorted(t.senders[1])
		s.parties = append(s.parties, t)
	}
	return s
}

func forEachProtocol(t *testing.T, f func(t *testing.T, c Curve, p *protocol)) {
	for _, c := range Curves() {
		for name, all := range map[string]map[Curve]*protocol{"keygen": keygens, "reshare": resharings, "sign": signings} {
			t.Run(fmt.Sprintf("%v %s", c, name), func(t *testing.T) { f(t, c, all[c]) })
		}
	}
}

// wellFormed makes a message that passes tss-lib's ValidateBasic and nothing else.
func wellFormed(t *testing.T, name protoreflect.FullName) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(name)
	require.NoError(t, err)
	for _, n := range []int{1, 2, 3, 5, 6, 10, 11, 12, 13, 258} { // the lengths of tss-lib's lists
		m := typ.New()
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if !f.IsList() {
				m.Set(f, protoreflect.ValueOfBytes([]byte{1}))
				continue
			}
			k := n
			switch f.Name() { // of two lists in one message
			case "proof_bob":
				k = 10
			case "proof_bob_wc":
				k = 12
			}
			list := m.Mutable(f).List()
			for range k {
				list.Append(protoreflect.ValueOfBytes([]byte{1}))
			}
		}
		content, ok := m.Interface().(lib.MessageContent)
		require.True(t, ok)
		if content.ValidateBasic() {
			return content
		}
	}
	require.Fail(t, "no well-formed message", name)
	return nil
}

func payload(t *testing.T, m proto.Message) []byte {
	t.Helper()
	a, err := anypb.New(m)
	require.NoError(t, err)
	b, err := proto.Marshal(a)
	require.NoError(t, err)
	return b
}

func requireBlame(t *testing.T, err error, culprit Party) {
	t.Helper()
	var pe *ProtocolError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, culprit, pe.Culprit)
}

// inboxes returns the number of messages in each party's inbox.
func (s *side) inboxes() (n []int) {
	for _, t := range s.parties {
		n = append(n, len(t.inbox))
	}
	return n
}

// A message from the other side must be a known, complete and new one of this protocol, or the run ends and blames the
// sender. The protocol's table determines its receivers, its sender and its flag (tss-lib.md, rows 15 and 16).
func TestAccept(t *testing.T) {
	forEachProtocol(t, func(t *testing.T, c Curve, p *protocol) {
		for name, st := range p.steps {
			m := wellFormed(t, name)
			good := payload(t, m)
			for _, me := range []Party{Client, Server} {
				s := idle(c, p, me)
				want := make([]int, len(s.parties))
				for _, r := range st.to {
					want[r] = 1
				}
				for range 2 { // the second one is ignored
					require.NoError(t, s.accept(t.Context(), Message{Curve: c, Payload: good}))
					require.Equal(t, want, s.inboxes())
				}
				for _, party := range s.parties {
					if len(party.inbox) == 1 {
						got := <-party.inbox
						require.Equal(t, st.broadcast, got.IsBroadcast())
						require.Same(t, party.senders[st.from][me.Other()], got.GetFrom())
					}
				}
				requireRefusals(t, c, p, me, m)

				other := proto.Clone(m)
				other.ProtoReflect().SetUnknown(protoreflect.RawFields{0x7a, 0x01, 0x00})
				err := s.accept(t.Context(), Message{Curve: c, Payload: payload(t, other)})
				requireBlame(t, err, me.Other())
				require.ErrorContains(t, err, "second, different")
			}
		}
	})
}

// requireRefusals sends malformed variants of m, each to a new side, and checks that they are rejected.
func requireRefusals(t *testing.T, c Curve, p *protocol, me Party, m proto.Message) {
	good := payload(t, m)
	name := string(proto.MessageName(m))
	wrapped := func(url string, content []byte) []byte {
		b, err := proto.Marshal(&anypb.Any{TypeUrl: url, Value: content})
		require.NoError(t, err)
		return b
	}
	bad := map[string]Message{
		"other curve":  {Curve: Secp256k1 + Ed25519 - c, Payload: good},
		"no curve":     {Curve: 0, Payload: good},
		"nothing":      {Curve: c},
		"garbage":      {Curve: c, Payload: []byte{0xff, 0xff, 0xff}},
		"truncated":    {Curve: c, Payload: good[:len(good)-1]},
		"unknown type": {Curve: c, Payload: wrapped("type.googleapis.com/mpcd.test.None", nil)},
		"no type":      {Curve: c, Payload: wrapped("", nil)},
		"bad content":  {Curve: c, Payload: wrapped("type.googleapis.com/"+name, []byte{0xff, 0xff})},
	}
	for _, all := range []map[Curve]*protocol{keygens, resharings, signings} {
		for _, q := range all {
			for other := range q.steps {
				if _, ok := p.steps[other]; !ok {
					bad["foreign "+string(other)] = Message{Curve: c, Payload: payload(t, wellFormed(t, other))}
				}
			}
		}
	}
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		less := proto.Clone(m)
		less.ProtoReflect().Clear(f)
		if content, ok := less.(lib.MessageContent); ok && content.ValidateBasic() {
			continue // tss-lib fails on it later; for the ssid, see TestCheckRound1
		}
		bad["without "+string(f.Name())] = Message{Curve: c, Payload: payload(t, less)}
	}
	for what, msg := range bad {
		s := idle(c, p, me)
		err := s.accept(t.Context(), msg)
		require.Error(t, err, what)
		requireBlame(t, err, me.Other())
		for _, n := range s.inboxes() {
			require.Zero(t, n, what)
		}
	}
}

// secretError is a panic value with a secret in it.
type secretError struct{ secret string }

func (e secretError) Error() string { return e.secret }

// tss-lib returns typed nils, wraps nil causes, names the wrong culprit, and panics with the values that it processes.
func TestRow6Errors(t *testing.T) {
	s := idle(Ed25519, resharings[Ed25519], Server)
	require.NoError(t, s.call(func() *lib.Error { return nil }))

	us := s.parties[0].senders[0][Server]
	err := s.call(func() *lib.Error { return lib.NewError(nil, "task", 5, us, us) })
	requireBlame(t, err, Client)
	require.Error(t, errors.Unwrap(err), "a non-nil cause")
	require.NotContains(t, err.Error(), "nil")

	cause := errors.New("V_0 != y")
	err = s.call(func() *lib.Error { return lib.NewError(cause, "task", 4, us, us) })
	requireBlame(t, err, Client)
	require.ErrorIs(t, err, cause)

	for _, v := range []any{"hunter2", secretError{"hunter2"}, []byte("hunter2"), struct{ S string }{"hunter2"}} {
		err = s.call(func() *lib.Error { panic(v) })
		requireBlame(t, err, Client)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			require.NotContains(t, fmt.Sprintf(verb, err), "hunter2")
			require.NotContains(t, fmt.Sprintf(verb, errors.Unwrap(err)), "hunter2")
		}
	}
}

// The first error stays, and errors after the end of the context are ignored.
func TestFirstErrorStays(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	s := idle(Ed25519, keygens[Ed25519], Client)
	s.fail(t.Context(), first)
	s.fail(t.Context(), second)
	require.Equal(t, first, s.err)

	s = idle(Ed25519, keygens[Ed25519], Client)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.fail(ctx, first)
	require.NoError(t, s.err)
}

// The round 1 messages of both sides, in either order, must have the same session id and the wallet's key; a message
// without a session id does not match.
func TestCheckRound1(t *testing.T) {
	rec, _ := Vector(t, Signing).Key(t, Secp256k1)
	x, y := Coordinates(t, rec)
	message := func(ssid []byte) *ecresharing.DGRound1Message {
		return &ecresharing.DGRound1Message{EcdsaPubX: x, EcdsaPubY: y, VCommitment: []byte{1}, Ssid: ssid}
	}
	ours := message([]byte("ours"))
	same := checkRound1(rec)
	require.NoError(t, same(ours))
	require.NoError(t, same(message([]byte("ours"))))
	for _, ssid := range [][]byte{[]byte("theirs"), nil, {}} {
		after, before := checkRound1(rec), checkRound1(rec)
		require.NoError(t, after(ours))
		require.Error(t, after(message(ssid)))
		require.NoError(t, before(message(ssid)))
		require.Error(t, before(ours), "%q came first", ssid)
	}
}
