package tss_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"

	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// Tests with a network that tampers with one side's messages of one type, as if that side were malicious: it changes,
// repeats, replaces or withholds them. The other side, the victim, must fail with an error that blames that side.

type msgName = protoreflect.FullName

// rule returns the messages to send in place of m. A nil rule changes nothing.
type rule func(m tss.Message) []tss.Message

// everyType, as a network's target, means all types.
const everyType msgName = "*"

// network connects two sides with a Pipe.
type network struct {
	from   tss.Party // the side that tampers
	target msgName   // the type of message it tampers with
	apply  rule
	mirror bool // instead of apply, send the victim its own message of that type
	// translate also changes messages of some types, in both directions.
	translate map[msgName]func(sender tss.Party) rule

	ends [2]tss.Conn
	mu   sync.Mutex // guards sent and held
	sent [2]map[msgName]tss.Message
	held bool // a message was withheld until the victim has sent its own
}

// netConn is one end of a network.
type netConn struct {
	tss.Conn
	n  *network
	me tss.Party
}

func (n *network) join() [2]tss.Conn {
	n.ends[tss.Client], n.ends[tss.Server] = tsstest.Pipe()
	var out [2]tss.Conn
	for p := range out {
		n.sent[p] = map[msgName]tss.Message{}
		out[p] = &netConn{n.ends[p], n, tss.Party(p)}
	}
	return out
}

func nameOf(m tss.Message) msgName {
	var a anypb.Any
	if proto.Unmarshal(m.Payload, &a) != nil {
		return ""
	}
	return a.MessageName()
}

func (c *netConn) Send(ctx context.Context, m tss.Message) error {
	name := nameOf(m)
	c.n.mu.Lock()
	c.n.sent[c.me][name] = m
	own, ok := c.n.sent[c.n.from.Other()][name]
	targeted := name == c.n.target || c.n.target == everyType
	tampers := targeted && c.me == c.n.from
	release := targeted && !tampers && c.n.mirror && c.n.held
	c.n.held = c.n.held || tampers
	c.n.mu.Unlock()

	if f, ok := c.n.translate[name]; ok {
		m = f(c.me)(m)[0]
	}
	out := []tss.Message{m}
	switch {
	case tampers && c.n.mirror && ok:
		out = []tss.Message{own}
	case tampers && c.n.mirror:
		out = nil // sent on release
	case tampers && c.n.apply != nil:
		out = c.n.apply(m)
	case release:
		if err := c.n.ends[c.n.from].Send(ctx, m); err != nil {
			return err
		}
	}
	for _, m := range out {
		if err := c.Conn.Send(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// runFunc runs one side. It reports whether the side has a result.
type runFunc func(context.Context, tss.Party, tss.Conn) (made bool, err error)

// ended is the result of both sides, by Party.
type ended struct {
	made [2]bool
	errs [2]error
}

var errAbandoned = errors.New("the other side is gone")

// duel runs both sides over n. The first to fail ends the other one, as a transport would. It runs in a synctest
// bubble: if both sides wait forever, the clock jumps to their deadline, and a goroutine that outlives the run is an
// error.
func duel(t *testing.T, n *network, run runFunc) (e ended) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		deadline, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		var ctx [2]context.Context
		var abandon [2]context.CancelCauseFunc
		for p := range ctx {
			ctx[p], abandon[p] = context.WithCancelCause(deadline)
			defer abandon[p](nil)
		}
		conns := n.join()
		var wg sync.WaitGroup
		for p := range conns {
			wg.Go(func() {
				e.made[p], e.errs[p] = run(ctx[p], tss.Party(p), conns[p])
				if e.errs[p] != nil {
					abandon[1-p](errAbandoned)
				}
			})
		}
		wg.Wait()
	})
	for p, err := range e.errs {
		require.Equal(t, err == nil, e.made[p], "a side must have a result or an error: %v", err)
		// With two parties, only the other one can be to blame (tss-lib.md, row 21).
		if pe := new(tss.ProtocolError); errors.As(err, &pe) {
			require.Equal(t, tss.Party(p).Other(), pe.Culprit)
			require.NotZero(t, pe.Round)
		}
	}
	return e
}

// requireBlamed requires that the victim failed with an error that blames culprit and contains why. It returns the
// round.
func (e *ended) requireBlamed(t *testing.T, culprit tss.Party, why string) (round int) {
	t.Helper()
	var pe *tss.ProtocolError
	require.ErrorAs(t, e.errs[culprit.Other()], &pe)
	require.Equal(t, culprit, pe.Culprit)
	require.ErrorContains(t, pe.Err, why)
	return pe.Round
}

func (e *ended) requireOK(t *testing.T) {
	t.Helper()
	require.NoError(t, e.errs[tss.Client])
	require.NoError(t, e.errs[tss.Server])
}

// subject is one protocol on one curve, with the committed SIGNING set.
type subject struct {
	name  string
	curve tss.Curve
	start func(t *testing.T, set *tss.Set, src *tsstest.Source) runFunc
}

func subjects(c tss.Curve) []subject {
	return []subject{
		{"keygen", c, func(t *testing.T, _ *tss.Set, src *tsstest.Source) runFunc { return startKeygen(t, c, src) }},
		{"reshare", c, func(t *testing.T, set *tss.Set, src *tsstest.Source) runFunc {
			rec, both := set.Key(t, c)
			return startReshare(t, [2]*tss.KeyRecord{rec, rec}, both, src)
		}},
		{"sign", c, func(t *testing.T, set *tss.Set, _ *tsstest.Source) runFunc {
			rec, both := set.Key(t, c)
			return startSign([2]*tss.KeyRecord{rec, rec}, both)
		}},
	}
}

func startKeygen(t *testing.T, c tss.Curve, src *tsstest.Source) runFunc {
	keys, err := tss.NewPartyKeys(c)
	require.NoError(t, err)
	pre := pre(t, c, src)
	return func(ctx context.Context, p tss.Party, conn tss.Conn) (bool, error) {
		k, err := tss.Keygen(ctx, conn, tss.KeygenInput{Curve: c, Party: p, Keys: keys, PreParams: pre[p]}, tss.Observer{})
		return k != nil, err
	}
}

// startReshare takes each side's view of the old set, since a cheater's may be false.
func startReshare(t *testing.T, view [2]*tss.KeyRecord, both [2]*tss.KeyShare, src *tsstest.Source) runFunc {
	c := view[tss.Client].Curve
	keys, err := tss.NewPartyKeys(c)
	require.NoError(t, err)
	pre := pre(t, c, src)
	return func(ctx context.Context, p tss.Party, conn tss.Conn) (bool, error) {
		in := tss.ReshareInput{Party: p, Old: view[p], Share: both[p], NewKeys: keys, PreParams: pre[p]}
		k, err := tss.Reshare(ctx, conn, in, tss.Observer{})
		return k != nil, err
	}
}

func startSign(view [2]*tss.KeyRecord, both [2]*tss.KeyShare) runFunc {
	return func(ctx context.Context, p tss.Party, conn tss.Conn) (bool, error) {
		in := tss.SignInput{Party: p, Record: view[p], Share: both[p], Payload: digest("tampered with")}
		s, err := tss.Sign(ctx, conn, in, tss.Observer{})
		return s != nil, err
	}
}

// transcript is the messages that each side sent in an honest run, by Party and type.
type transcript [2]map[msgName]tss.Message

var transcripts sync.Map // of func() transcript, by subject

// honest returns the transcript of an honest run with the committed SIGNING set, which all tests have in common.
func (s *subject) honest(t *testing.T) transcript {
	t.Helper()
	one, _ := transcripts.LoadOrStore(s.name+s.curve.String(), sync.OnceValue(func() transcript {
		n := &network{}
		e := duel(t, n, s.start(t, tss.Vector(t, tss.Signing), tsstest.NewSource()))
		e.requireOK(t)
		return n.sent
	}))
	get, ok := one.(func() transcript)
	require.True(t, ok)
	return get()
}

// mutate returns a rule that changes the message with f and encodes it as tss-lib does.
func mutate(t *testing.T, f func(protoreflect.Message)) rule {
	return func(m tss.Message) []tss.Message {
		msg := unpack(t, m)
		f(msg.ProtoReflect())
		return []tss.Message{pack(t, m.Curve, msg)}
	}
}

func unpack(t *testing.T, m tss.Message) proto.Message {
	var a anypb.Any
	require.NoError(t, proto.Unmarshal(m.Payload, &a))
	msg, err := a.UnmarshalNew()
	require.NoError(t, err)
	return msg
}

func pack(t *testing.T, c tss.Curve, msg proto.Message) tss.Message {
	a, err := anypb.New(msg)
	require.NoError(t, err)
	b, err := proto.Marshal(a)
	require.NoError(t, err)
	return tss.Message{Curve: c, Payload: b}
}

func retype(t *testing.T, from tss.Message, to msgName) rule {
	return func(m tss.Message) []tss.Message {
		var a anypb.Any
		require.NoError(t, proto.Unmarshal(from.Payload, &a))
		a.TypeUrl = "type.googleapis.com/" + string(to)
		b, err := proto.Marshal(&a)
		require.NoError(t, err)
		return []tss.Message{{Curve: m.Curve, Payload: b}}
	}
}

func instead(payload []byte) rule {
	return func(m tss.Message) []tss.Message { return []tss.Message{{Curve: m.Curve, Payload: payload}} }
}

// part is one byte string of a message: a field, or one element of a repeated field.
type part struct {
	field protoreflect.FieldDescriptor
	index int // -1: the field is not repeated
}

func (p part) String() string {
	if p.index < 0 {
		return string(p.field.Name())
	}
	return fmt.Sprintf("%s[%d]", p.field.Name(), p.index)
}

// edit replaces the part by f of a copy of it.
func (p part) edit(m protoreflect.Message, f func([]byte) []byte) {
	if p.index < 0 {
		m.Set(p.field, protoreflect.ValueOfBytes(f(bytes.Clone(m.Get(p.field).Bytes()))))
		return
	}
	list := m.Mutable(p.field).List()
	list.Set(p.index, protoreflect.ValueOfBytes(f(bytes.Clone(list.Get(p.index).Bytes()))))
}

// parts returns the byte strings of a message; tss-lib's messages have no other fields.
func parts(t *testing.T, m tss.Message) []part {
	msg := unpack(t, m).ProtoReflect()
	var out []part
	fields := msg.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		require.Equal(t, protoreflect.BytesKind, f.Kind())
		if !f.IsList() {
			out = append(out, part{f, -1})
			continue
		}
		for j := range msg.Get(f).List().Len() {
			out = append(out, part{f, j})
		}
	}
	return out
}

func flip(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

// oversized returns an integer of about 4,000 bits. Much larger ones are expensive, and tested elsewhere (tss-lib.md,
// row 20).
func oversized(b []byte) []byte { return append(bytes.Repeat([]byte{0x5a}, 512), b...) }

// attack is one way to tamper with the messages of one type from one side.
type attack struct {
	name   string
	from   tss.Party
	target msgName
	rule   rule
	mirror bool
}

func (a *attack) network() *network {
	return &network{from: a.from, target: a.target, apply: a.rule, mirror: a.mirror}
}

// attacks returns the attacks on one side's messages. TestAccept tests messages that are rejected in every run.
func attacks(t *testing.T, honest transcript, from tss.Party) []attack {
	var out []attack
	for _, name := range names(honest[from]) {
		sample := honest[from][name]
		all := parts(t, sample)
		if len(all) == 0 {
			continue // an empty message is the same from both sides and in every run
		}
		add := func(what string, r rule) {
			label := fmt.Sprintf("%v %s %s", from, name.Name(), what)
			out = append(out, attack{name: label, from: from, target: name, rule: r})
		}
		for _, p := range all {
			add("alter "+p.String(), mutate(t, func(m protoreflect.Message) { p.edit(m, flip) }))
			add("oversized "+p.String(), mutate(t, func(m protoreflect.Message) { p.edit(m, oversized) }))
		}
		for _, other := range names(honest[from]) {
			if other != name {
				add("content of "+string(other.Name()), retype(t, honest[from][other], name))
			}
		}
		add("of another run", instead(sample.Payload))
		label := fmt.Sprintf("%v %s reflected", from, name.Name())
		out = append(out, attack{name: label, from: from, target: name, mirror: true})
	}
	return out
}

// names returns the types of a side's messages in alphabetical order, which is the order of the rounds.
func names(sent map[msgName]tss.Message) []msgName { return slices.Sorted(maps.Keys(sent)) }

// TestLongTamperEdDSA runs all attacks.
func TestTamperEdDSA(t *testing.T) { tamperEdDSA(t, 4) }

// tamperEdDSA runs one of every each attacks on the messages of all Ed25519 protocols, from both sides: it alters or
// enlarges each value, and replaces the message by another one, by that of another run, or by the victim's own. The old
// shares still sign afterwards.
func tamperEdDSA(t *testing.T, each int) {
	t.Helper()
	for _, s := range subjects(tss.Ed25519) {
		t.Run(s.name, func(t *testing.T) {
			honest := s.honest(t)
			for _, from := range []tss.Party{tss.Client, tss.Server} {
				t.Run(from.String(), func(t *testing.T) {
					t.Parallel()
					set := tss.Vector(t, tss.Signing)
					for i, a := range attacks(t, honest, from) {
						if i%each != 0 {
							continue
						}
						e := duel(t, a.network(), s.start(t, set, nil))
						require.Error(t, e.errs[from.Other()], a.name)
						e.requireBlamed(t, from, "")
					}
					rec, both := set.Key(t, s.curve)
					sign(t, rec, both, digest("the old shares still sign"))
				})
			}
		})
	}
}

// A run with a withheld message fails at its deadline, with the deadline's error, and leaves no goroutine. It blames
// nobody.
func TestWithheld(t *testing.T) {
	for _, s := range subjects(tss.Ed25519) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			honest := s.honest(t)
			for from := range honest {
				for _, name := range names(honest[from]) {
					n := &network{from: tss.Party(from), target: name, apply: func(tss.Message) []tss.Message { return nil }}
					e := duel(t, n, s.start(t, tss.Vector(t, tss.Signing), nil))
					require.ErrorIs(t, e.errs[1-from], context.DeadlineExceeded, name)
					for _, err := range e.errs {
						var blamed *tss.ProtocolError
						require.NotErrorAs(t, err, &blamed)
					}
				}
			}
		})
	}
}

// tss-lib.md, row 16: tss-lib overwrites a message with a later one. Here the first one counts: the same one again is
// ignored, a different one ends the run and blames its sender.
func TestRow16Repeated(t *testing.T) {
	for _, s := range subjects(tss.Ed25519) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			twice := func(m tss.Message) []tss.Message { return []tss.Message{m, m} }
			for _, from := range []tss.Party{tss.Client, tss.Server} {
				n := &network{from: from, target: everyType, apply: twice}
				e := duel(t, n, s.start(t, tss.Vector(t, tss.Signing), nil))
				e.requireOK(t)
				// Not a side's last message: the run may end before a second one arrives.
				for _, name := range names(n.sent[from])[:len(n.sent[from])-1] {
					other := mutate(t, func(m protoreflect.Message) {
						if all := parts(t, n.sent[from][name]); len(all) > 0 {
							all[0].edit(m, flip)
							return
						}
						m.SetUnknown(protoreflect.RawFields{0x7a, 0x01, 0x00}) // field 15, one byte
					})
					both := func(m tss.Message) []tss.Message { return append([]tss.Message{m}, other(m)...) }
					e := duel(t, &network{from: from, target: name, apply: both}, s.start(t, tss.Vector(t, tss.Signing), nil))
					e.requireBlamed(t, from, "second, different "+string(name.Name()))
				}
			}
		})
	}
}

// tss-lib.md, row 21: if a side consistently reshares a secret that is not its own, the other one notices that the new
// sharing does not match the wallet's key; tss-lib then names the local party. The network translates the public key in
// the first messages, so that each side sees the one that it expects.
func TestRow21CulpritIsTheOther(t *testing.T) {
	t.Parallel()
	for _, from := range []tss.Party{tss.Client, tss.Server} {
		rec, both := tss.Vector(t, tss.Signing).Key(t, tss.Ed25519)
		wrong := both[from].Xi()
		wrong.Xor(wrong, big.NewInt(1))
		both[from] = both[from].SetXi(wrong)
		view := [2]*tss.KeyRecord{rec, rec}
		view[from] = rec.WithXi(t, from, wrong)
		n := &network{translate: map[msgName]func(sender tss.Party) rule{
			"binance.tsslib.eddsa.resharing.DGRound1Message": func(sender tss.Party) rule {
				x, y := tss.Coordinates(t, view[sender.Other()])
				return mutate(t, func(m protoreflect.Message) {
					msg, ok := m.Interface().(*edresharing.DGRound1Message)
					require.True(t, ok)
					msg.EddsaPubX, msg.EddsaPubY = x, y
				})
			},
		}}
		e := duel(t, n, startReshare(t, view, both, nil))
		e.requireBlamed(t, from, "V_0 != y")
	}
}

// TestLongTamperECDSA alters the other proofs, too.
func TestTamperECDSA(t *testing.T) { tamperECDSA(t, "modProof") }

// tamperECDSA alters one value of each of the given fields. There are no more attacks, since an ECDSA run takes
// seconds; the factor proof has TestRow7FirstErrorEnds, and messages that would kill the process have row 19.
func tamperECDSA(t *testing.T, fields ...protoreflect.Name) {
	t.Helper()
	const resharing, kg = "binance.tsslib.ecdsa.resharing.", "binance.tsslib.ecdsa.keygen."
	for i, x := range []struct {
		subject int // in subjects
		target  msgName
		field   protoreflect.Name
		index   int
	}{
		{0, kg + "KGRound1Message", "dlnproof_1", 7},
		{1, resharing + "DGRound2Message1", "modProof", 3},
		{1, resharing + "DGRound3Message1", "share", -1},
	} {
		from := tss.Party(i % 2)
		if !slices.Contains(fields, x.field) {
			continue
		}
		t.Run(fmt.Sprintf("%v %s %s", from, x.target.Name(), x.field), func(t *testing.T) {
			t.Parallel()
			s := subjects(tss.Secp256k1)[x.subject]
			set := tss.Vector(t, tss.Signing)
			alter := mutate(t, func(m protoreflect.Message) {
				f := m.Descriptor().Fields().ByName(x.field)
				require.NotNil(t, f)
				part{f, x.index}.edit(m, flip)
			})
			e := duel(t, &network{from: from, target: x.target, apply: alter}, s.start(t, set, tsstest.NewSource()))
			e.requireBlamed(t, from, "")
		})
	}
}

// TestLongTamperECDSASigning alters every message.
func TestTamperECDSASigning(t *testing.T) { tamperECDSASigning(t, 5) }

// tamperECDSASigning alters the first value of one of every each messages of an ECDSA signing. The tampering side may
// fail first, because the victim computes with the altered value, and then blames the victim. The victim gets no
// signature.
func tamperECDSASigning(t *testing.T, each int) {
	t.Helper()
	s := subjects(tss.Secp256k1)[2]
	honest := s.honest(t)
	require.Len(t, honest[tss.Client], 10)
	for i, name := range names(honest[tss.Client]) {
		from := tss.Party(i % 2)
		if i%each != 0 {
			continue
		}
		t.Run(fmt.Sprintf("%v %s", from, name.Name()), func(t *testing.T) {
			t.Parallel()
			first := parts(t, honest[from][name])[0]
			alter := mutate(t, func(m protoreflect.Message) { first.edit(m, flip) })
			e := duel(t, &network{from: from, target: name, apply: alter}, s.start(t, tss.Vector(t, tss.Signing), nil))
			require.False(t, e.made[from.Other()])
			require.True(t, errors.As(e.errs[0], new(*tss.ProtocolError)) || errors.As(e.errs[1], new(*tss.ProtocolError)))
		})
	}
}

// TestLongRow15EveryEntry has the two protocols whose parties start with seconds of work.
func TestRow15EveryEntry(t *testing.T) {
	t.Parallel()
	everyEntry(t, append(subjects(tss.Ed25519), subjects(tss.Secp256k1)[2])...)
}

// Both sides of all protocols use the ingress: a first message with an unknown field, which tss-lib would ignore, and a
// message before it that its sender cannot have made yet, which tss-lib would keep, both end the run (tss-lib.md, row
// 15).
func everyEntry(t *testing.T, of ...subject) {
	t.Helper()
	all, err := tss.ReadMessages()
	require.NoError(t, err)
	for _, s := range of {
		c := s.curve
		kind := map[string]string{"keygen": "keygen.KG", "reshare": "resharing.DG", "sign": "signing.Sign"}[s.name]
		prefix := "binance.tsslib." + map[tss.Curve]string{tss.Secp256k1: "ecdsa.", tss.Ed25519: "eddsa."}[c] + kind
		var types []msgName // from the first to the last
		for name := range all {
			if strings.HasPrefix(string(name), prefix) {
				types = append(types, name)
			}
		}
		slices.Sort(types)
		first, last := types[0], types[len(types)-1]
		if kind == "signing.Sign" && c == tss.Secp256k1 { // the first is private, the second broadcast
			first = types[1]
		}
		unknown := mutate(t, func(m protoreflect.Message) { m.SetUnknown(protoreflect.RawFields{0x7a, 0x01, 0x00}) })
		early := func(m tss.Message) []tss.Message { return []tss.Message{{Curve: c, Payload: all[last]}, m} }
		for _, from := range []tss.Party{tss.Client, tss.Server} {
			t.Run(fmt.Sprintf("%v %s %v", c, s.name, from), func(t *testing.T) {
				t.Parallel()
				if c == tss.Ed25519 || from == tss.Client { // ECDSA parties start with seconds of work
					run := s.start(t, tss.Vector(t, tss.Signing), tsstest.NewSource())
					e := duel(t, &network{from: from, target: first, apply: unknown}, run)
					e.requireBlamed(t, from, "unknown fields")
				}
				if c == tss.Secp256k1 && from == tss.Client {
					return
				}
				if kind == "keygen.KG" && c == tss.Ed25519 {
					return // its second and last round can follow as soon as we have sent our first
				}
				run := s.start(t, tss.Vector(t, tss.Signing), tsstest.NewSource())
				e := duel(t, &network{from: from, target: first, apply: early}, run)
				e.requireBlamed(t, from, "too early")
			})
		}
	}
}
