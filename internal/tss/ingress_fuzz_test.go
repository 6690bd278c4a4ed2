package tss

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
)

// One fuzz target for each type of message from the other side: a side that waits for it does not panic, and accepts
// only what tss-lib.md allows, which passed checks again, independently of the reader.

// MessagesFile has one honest message of each type, from a client to a server with the committed SIGNING set.
// TestMessages -write makes it.
const MessagesFile = "testdata/messages.json"

// Cut returns payload with the long parts of its DLN and modulus proofs, except W, truncated to two bytes. They are
// most of the size of all messages, and only tss-lib's computations check them, so that fuzzing them finds nothing.
func Cut(t testing.TB, payload []byte) []byte {
	var a anypb.Any
	require.NoError(t, proto.Unmarshal(payload, &a))
	m, err := a.UnmarshalNew()
	require.NoError(t, err)
	for _, name := range []protoreflect.Name{"dlnproof_1", "dlnproof_2", "modProof"} {
		f := m.ProtoReflect().Descriptor().Fields().ByName(name)
		if f == nil {
			continue
		}
		list := m.ProtoReflect().Mutable(f).List()
		for i := range list.Len() {
			if b := list.Get(i).Bytes(); i > 0 && len(b) > bitsLen {
				list.Set(i, protoreflect.ValueOfBytes(b[:2]))
			}
		}
	}
	return payloadOf(m)
}

// ReadMessages returns the payloads in MessagesFile, by type.
var ReadMessages = sync.OnceValues(func() (map[protoreflect.FullName][]byte, error) {
	b, err := os.ReadFile(MessagesFile)
	if err != nil {
		return nil, err
	}
	var all map[protoreflect.FullName]string
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	out := map[protoreflect.FullName][]byte{}
	for name, s := range all {
		if out[name], err = hex.DecodeString(s); err != nil {
			return nil, err
		}
	}
	return out, nil
})

// stage is the data that every execution needs, read once.
type stage struct {
	messages map[protoreflect.FullName][]byte
	record   map[Curve]*KeyRecord // of the committed SIGNING set
	n        *big.Int             // of the captured key generation, as nTilde
	nTilde   *big.Int
}

func newStage(t testing.TB) *stage {
	messages, err := ReadMessages()
	require.NoError(t, err)
	s := &stage{messages: messages, record: map[Curve]*KeyRecord{}}
	set := Vector(t, Signing)
	for _, c := range Curves() {
		s.record[c], _ = set.Key(t, c)
	}
	first, ok := decoded(t, s.messages[typeOf(&eckeygen.KGRound1Message{})]).(*eckeygen.KGRound1Message)
	require.True(t, ok)
	s.n, s.nTilde = new(big.Int).SetBytes(first.GetPaillierN()), new(big.Int).SetBytes(first.GetNTilde())
	return s
}

func decoded(t testing.TB, payload []byte) proto.Message {
	var a anypb.Any
	require.NoError(t, proto.Unmarshal(payload, &a))
	m, err := a.UnmarshalNew()
	require.NoError(t, err)
	return m
}

func payloadOf(m proto.Message) []byte {
	content := must(proto.MarshalOptions{Deterministic: true}.Marshal(m))
	return wrapped(typePrefix+string(proto.MessageName(m)), content)
}

func wrapped(url string, content []byte) []byte {
	return must(proto.MarshalOptions{Deterministic: true}.Marshal(&anypb.Any{TypeUrl: url, Value: content}))
}

// protocolOf returns the protocol with a type of message.
func protocolOf(name protoreflect.FullName) (Curve, *protocol) {
	for _, c := range Curves() {
		for _, all := range []map[Curve]*protocol{keygens, resharings, signings} {
			if _, ok := all[c].steps[name]; ok {
				return c, all[c]
			}
		}
	}
	return 0, nil
}

// ourTheta is the server's theta in round 3 of an ECDSA signing.
const ourTheta = 5

// server returns a server's side that has sent all of its messages. Its parties are never started: accepted messages
// stay in their inboxes.
func (s *stage) server(c Curve, p *protocol) *side {
	out := idle(c, p, Server)
	g := &ingress{curve: c, me: Server, proto: p, sent: map[protoreflect.FullName]bool{}, theta: big.NewInt(ourTheta)}
	for name := range p.steps {
		g.sent[name] = true
	}
	if p == signings[c] {
		g.record = s.record[c]
	}
	if p == resharings[c] {
		out.inspect = checkRound1(s.record[c])
	}
	if c == Secp256k1 {
		ours := s.record[c].Parties[Server]
		g.setOwnModuli(ours.PaillierN, ours.NTilde, func(_, _ *big.Int) error { return nil })
	}
	if p == keygens[Secp256k1] {
		g.n, g.nTilde = s.n, s.nTilde
	}
	out.ingress = g
	return out
}

// fuzzMessage fuzzes the messages of m's type: the bytes of the content, and one edit of one of its values, which gets
// further than changed bytes where lengths precede values.
func fuzzMessage(f *testing.F, m proto.Message) {
	s := newStage(f)
	name := typeOf(m)
	c, p := protocolOf(name)
	require.NotNil(f, p)
	var a anypb.Any
	require.NoError(f, proto.Unmarshal(s.messages[name], &a))
	honest := Message{Curve: c, Payload: s.messages[name]}
	require.NoError(f, s.server(c, p).accept(f.Context(), honest), "the honest message")
	f.Add(a.GetValue(), []byte(nil))
	if m.ProtoReflect().Descriptor().Fields().Len() > 0 {
		for op := range byte(edits) {
			f.Add(a.GetValue(), []byte{op, 0, 0, 1, 0})
		}
		f.Add(a.GetValue(), append([]byte{editReplace, 0, 0}, c.order().Bytes()...))
		f.Add(a.GetValue(), append([]byte{editReplace, 0, 1}, s.record[c].Parties[Server].PartyKey.Bytes()...))
	}
	var limits []int
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		limits = append(limits, limitsOf(fields.Get(i))...)
	}
	for i, n := range limits { // a value with one byte too many; only some of long lists
		if i > 0 && i < len(limits)-1 && i%50 != 2 && len(limits) > 50 {
			continue
		}
		edit := binary.BigEndian.AppendUint16([]byte{editFill}, uint16(i))
		f.Add(a.GetValue(), binary.BigEndian.AppendUint16(edit, uint16(n+1)|editFillMod))
	}
	f.Fuzz(func(t *testing.T, content, edit []byte) {
		payload := wrapped(typePrefix+string(name), content)
		if len(edit) > 3 {
			other := m.ProtoReflect().New().Interface()
			if proto.Unmarshal(content, other) != nil {
				return
			}
			change(other.ProtoReflect(), edit[0]%edits, int(binary.BigEndian.Uint16(edit[1:])), edit[3:])
			payload = payloadOf(other)
		}
		s.offer(t, s.server(c, p), payload)
	})
}

// offer passes the side a payload, and checks an accepted one with passed.
func (s *stage) offer(t *testing.T, to *side, payload []byte) {
	if err := to.accept(context.Background(), Message{Curve: to.curve, Payload: payload}); err != nil {
		requireBlame(t, err, Client)
		for _, n := range to.inboxes() {
			require.Zero(t, n)
		}
		return
	}
	require.LessOrEqual(t, len(payload), maxWireBytes)
	m := decoded(t, payload)
	require.Equal(t, payloadOf(m), payload, "it has a second encoding")
	(&passed{s, t, to.curve, m}).check()
}

// The edits of one value. An edit has its number, the value's number, and an argument.
const (
	editReplace = iota
	editAppend
	editPrepend
	editFill // with argument mod editFillMod bytes
	editAdd
	editMultiply
	editDelete
	editInsert
	editSwap
	edits
)

const editFillMod = 1 << 10

// value is one byte string of a message.
type value struct {
	get  func() []byte
	set  func([]byte)
	list protoreflect.List // nil: not in a list
	at   int
}

// values returns m's values, in the order of its fields.
func values(m protoreflect.Message) (out []value) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !f.IsList() {
			out = append(out, value{
				get: func() []byte { return m.Get(f).Bytes() },
				set: func(b []byte) { m.Set(f, protoreflect.ValueOfBytes(b)) },
			})
			continue
		}
		list := m.Mutable(f).List()
		for at := range list.Len() {
			out = append(out, value{
				get:  func() []byte { return list.Get(at).Bytes() },
				set:  func(b []byte) { list.Set(at, protoreflect.ValueOfBytes(b)) },
				list: list, at: at,
			})
		}
	}
	return out
}

func change(m protoreflect.Message, op byte, which int, arg []byte) {
	all := values(m)
	if len(all) == 0 {
		return
	}
	v := all[which%len(all)]
	old := slices.Clone(v.get())
	number, argNumber := new(big.Int).SetBytes(old), new(big.Int).SetBytes(arg)
	switch op {
	case editReplace:
		v.set(arg)
	case editAppend:
		v.set(append(old, arg...))
	case editPrepend:
		v.set(append(slices.Clone(arg), old...))
	case editFill:
		v.set(slices.Repeat(arg[:1], int(argNumber.Uint64()%editFillMod)))
	case editAdd:
		v.set(number.Add(number, argNumber).Bytes())
	case editMultiply:
		v.set(number.Mul(number, argNumber).Bytes())
	case editSwap:
		other := all[int(argNumber.Uint64()%uint64(len(all)))]
		v.set(slices.Clone(other.get()))
		other.set(old)
	case editDelete:
		if v.list == nil {
			v.set(nil)
			return
		}
		for i := v.at + 1; i < v.list.Len(); i++ {
			v.list.Set(i-1, v.list.Get(i))
		}
		v.list.Truncate(v.list.Len() - 1)
	case editInsert:
		if v.list != nil {
			v.list.Append(protoreflect.ValueOfBytes(arg))
		}
	}
}

// passed is an accepted message.
type passed struct {
	*stage
	t     *testing.T
	curve Curve
	m     proto.Message
}

func (x *passed) check() {
	x.bounds()
	x.numbers()
	x.library()
	switch m := x.m.(type) {
	case newKeys:
		x.keys(m)
	case *ecsigning.SignRound1Message1:
		x.unit(m.GetC(), Client)
	case *ecsigning.SignRound2Message:
		x.unit(m.GetC1(), Server)
		x.unit(m.GetC2(), Server)
		s1 := new(big.Int).SetBytes(m.GetProofBobWc()[6])
		require.NotZero(x.t, s1.Mod(s1, x.order()).Sign())
		x.point(m.GetProofBobWc()[10], m.GetProofBobWc()[11])
	case *ecsigning.SignRound3Message:
		sum := new(big.Int).SetBytes(m.GetTheta())
		require.NotZero(x.t, sum.Add(sum, big.NewInt(ourTheta)).Cmp(x.order()))
	case *eckeygen.KGRound2Message2:
		x.forgeable(m.GetModProof()[0], x.n)
	}
	if m, ok := x.m.(*ecresharing.DGRound2Message1); ok {
		x.forgeable(m.GetModProof()[0], new(big.Int).SetBytes(m.GetPaillierN()))
	}
}

// longest has the maximum lengths of row 20 for values other than those of 32 bytes; for a list, those of its values,
// in their order.
var longest = map[string][]int{
	"paillier_n": {256}, "n_tilde": {256}, "h1": {256}, "h2": {256},
	"dlnproof_1": slices.Repeat([]int{256}, 258), "dlnproof_2": slices.Repeat([]int{256}, 258),
	"modProof":          slices.Repeat([]int{256}, 163),
	"facProof":          {256, 256, 256, 256, 256, 544, 224, 224, 353, 353, 609},
	"paillier_proof":    slices.Repeat([]int{256}, 13),
	"range_proof_alice": {256, 512, 256, 256, 96, 353},
	"proof_bob":         {256, 256, 256, 512, 256, 256, 96, 353, 224, 353},
	"proof_bob_wc":      {256, 256, 256, 512, 256, 256, 96, 353, 224, 353, 32, 32},
	"c":                 {512}, "c1": {512}, "c2": {512},
}

// decommitted has the number of points in a decommitment, by message, where it is not 2.
var decommitted = map[protoreflect.FullName]int{
	typeOf(&ecsigning.SignRound4Message{}): 1,
	typeOf(&edsigning.SignRound2Message{}): 1,
}

// limitsOf returns the maximum lengths of a field's values.
func limitsOf(f protoreflect.FieldDescriptor) []int {
	if limits, ok := longest[string(f.Name())]; ok {
		return limits
	}
	if !f.IsList() {
		return []int{32}
	}
	n, ok := decommitted[f.ContainingMessage().FullName()]
	if !ok {
		n = 2
	}
	return slices.Repeat([]int{32}, 1+2*n)
}

// bounds requires that each value is present, no longer than an honest one, and without leading zeros.
func (x *passed) bounds() {
	m := x.m.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		limits := limitsOf(f)
		var all [][]byte
		if f.IsList() {
			list := m.Get(f).List()
			for i := range list.Len() {
				all = append(all, list.Get(i).Bytes())
			}
		} else {
			all = [][]byte{m.Get(f).Bytes()}
		}
		require.Len(x.t, all, len(limits), f.Name())
		for i, b := range all {
			require.NotEmpty(x.t, b, "%s[%d]", f.Name(), i)
			require.LessOrEqual(x.t, len(b), limits[i], "%s[%d]", f.Name(), i)
			require.NotZero(x.t, b[0], "%s[%d]", f.Name(), i)
		}
		if strings.HasSuffix(string(f.Name()), "commitment") && f.IsList() {
			for xy := range slices.Chunk(all[1:], 2) {
				x.point(xy[0], xy[1])
			}
		}
	}
}

func (x *passed) order() *big.Int {
	if x.curve == Secp256k1 {
		return secp256k1.Params().N
	}
	q, _ := new(big.Int).SetString("27742317777372353535851937790883648493", 10)
	return q.Add(q, new(big.Int).Lsh(big.NewInt(1), 252))
}

// numbers requires 0 < x < q for the values with which tss-lib multiplies points, and that points are on the curve.
func (x *passed) numbers() {
	m := x.m.ProtoReflect()
	field := func(name protoreflect.Name) []byte {
		f := m.Descriptor().Fields().ByName(name)
		if f == nil {
			return nil
		}
		return m.Get(f).Bytes()
	}
	for _, name := range []protoreflect.Name{"share", "theta", "proof_t", "v_proof_t", "v_proof_u", "s"} {
		if b := field(name); b != nil {
			v := new(big.Int).SetBytes(b)
			require.Positive(x.t, v.Sign(), name)
			require.Negative(x.t, v.Cmp(x.order()), name)
		}
	}
	for _, name := range []protoreflect.Name{"proof_alpha", "v_proof_alpha", "ecdsa_pub", "eddsa_pub"} {
		if b := field(name + "_x"); b != nil {
			x.point(b, field(name+"_y"))
		}
	}
}

// point requires a point of the prime-order group, by the curves' equations.
func (x *passed) point(bx, by []byte) {
	px, py := new(big.Int).SetBytes(bx), new(big.Int).SetBytes(by)
	if x.curve == Secp256k1 {
		p := secp256k1.Params().P
		require.True(x.t, px.Cmp(p) < 0 && py.Cmp(p) < 0)
		left := new(big.Int).Mul(py, py)
		right := new(big.Int).Exp(px, big.NewInt(3), p)
		left.Sub(left, right).Sub(left, big.NewInt(7))
		require.Zero(x.t, left.Mod(left, p).Sign())
		return
	}
	p := edwardsPrime
	require.True(x.t, px.Cmp(p) < 0 && py.Cmp(p) < 0)
	xx, yy := mulMod(px, px), mulMod(py, py)
	left := new(big.Int).Sub(yy, xx)
	left.Sub(left, mulMod(edwardsD, mulMod(xx, yy))).Sub(left, big.NewInt(1))
	require.Zero(x.t, left.Mod(left, p).Sign())
	require.NotZero(x.t, px.Sign(), "of order 1 or 2")
	end := edwardsTimes(x.order(), [3]*big.Int{px, py, big.NewInt(1)})
	require.True(x.t, end[0].Sign() == 0 && end[1].Cmp(end[2]) == 0, "it has a part of small order")
}

// Ed25519 in projective coordinates, with the textbook formulas.
var (
	edwardsPrime = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	edwardsD     = mulMod(minus121665, new(big.Int).ModInverse(big.NewInt(121666), edwardsPrime))
	minus121665  = new(big.Int).Sub(edwardsPrime, big.NewInt(121665))
)

func mulMod(a, b *big.Int) *big.Int {
	c := new(big.Int).Mul(a, b)
	return c.Mod(c, edwardsPrime)
}

func edwardsAdd(p, q [3]*big.Int) [3]*big.Int {
	a := mulMod(p[2], q[2])
	b := mulMod(a, a)
	c, d := mulMod(p[0], q[0]), mulMod(p[1], q[1])
	e := mulMod(edwardsD, mulMod(c, d))
	f, g := new(big.Int).Sub(b, e), new(big.Int).Add(b, e)
	cross := mulMod(new(big.Int).Add(p[0], p[1]), new(big.Int).Add(q[0], q[1]))
	cross.Sub(cross, c).Sub(cross, d)
	return [3]*big.Int{mulMod(a, mulMod(f, cross)), mulMod(a, mulMod(g, new(big.Int).Add(d, c))), mulMod(f, g)}
}

func edwardsTimes(k *big.Int, p [3]*big.Int) [3]*big.Int {
	out := [3]*big.Int{new(big.Int), big.NewInt(1), big.NewInt(1)}
	for i := k.BitLen() - 1; i >= 0; i-- {
		out = edwardsAdd(out, out)
		if k.Bit(i) == 1 {
			out = edwardsAdd(out, p)
		}
	}
	return out
}

// library requires that tss-lib's own decoders, which its rounds call, accept the message.
func (x *passed) library() {
	v := reflect.ValueOf(x.m)
	for i := range v.NumMethod() {
		if !strings.HasPrefix(v.Type().Method(i).Name, "Unmarshal") {
			continue
		}
		var in []reflect.Value
		if v.Method(i).Type().NumIn() == 1 {
			in = append(in, reflect.ValueOf(x.curve.ec()))
		}
		out := v.Method(i).Call(in)
		if err, ok := out[len(out)-1].Interface().(error); ok {
			require.NoError(x.t, err, v.Type().Method(i).Name)
		}
	}
}

func (x *passed) unit(b []byte, of Party) {
	n := x.record[x.curve].Parties[of].PaillierN
	c := new(big.Int).SetBytes(b)
	require.Negative(x.t, c.Cmp(new(big.Int).Mul(n, n)))
	require.NotNil(x.t, new(big.Int).ModInverse(c, n))
}

// keys checks row 18, with trial division for the small factors.
func (x *passed) keys(m newKeys) {
	n, nTilde := new(big.Int).SetBytes(m.GetPaillierN()), new(big.Int).SetBytes(m.GetNTilde())
	ours := x.record[x.curve].Parties[Server]
	for _, v := range []*big.Int{n, nTilde} {
		require.Equal(x.t, 2048, v.BitLen())
		require.EqualValues(x.t, 1, v.Bit(0))
		rest, d := new(big.Int), new(big.Int)
		for p := uint64(3); p < 1<<16; p += 2 {
			if rest.Mod(v, d.SetUint64(p)).Sign() == 0 {
				require.Fail(x.t, "a small factor", p)
			}
		}
		require.False(x.t, v.ProbablyPrime(0))
		for _, other := range []*big.Int{ours.PaillierN, ours.NTilde} {
			require.NotNil(x.t, new(big.Int).ModInverse(other, v))
		}
	}
	require.NotNil(x.t, new(big.Int).ModInverse(n, nTilde))
	one := big.NewInt(1)
	h1, h2 := new(big.Int).SetBytes(m.GetH1()), new(big.Int).SetBytes(m.GetH2())
	for _, h := range []*big.Int{h1, h2} {
		require.Positive(x.t, h.Cmp(one))
		require.Negative(x.t, h.Cmp(new(big.Int).Sub(nTilde, one)))
		require.NotNil(x.t, new(big.Int).ModInverse(h, nTilde))
	}
	require.NotZero(x.t, h1.Cmp(h2))
}

func (x *passed) forgeable(w []byte, n *big.Int) {
	v := new(big.Int).SetBytes(w)
	require.Negative(x.t, v.Cmp(n))
	require.Equal(x.t, -1, big.Jacobi(v, n))
	require.NotNil(x.t, new(big.Int).ModInverse(v, n))
}

// allTypes returns the types of all protocols.
func allTypes() (names []protoreflect.FullName) {
	for _, all := range []map[Curve]*protocol{keygens, resharings, signings} {
		for _, p := range all {
			for name := range p.steps {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// Messages of any type, in any state of any protocol.
func FuzzIngress(f *testing.F) {
	s := newStage(f)
	all := allTypes()
	require.Len(f, s.messages, len(all))
	for i, name := range all {
		typ, err := protoregistry.GlobalTypes.FindMessageByName(name)
		require.NoError(f, err)
		require.NotEmpty(f, typ.Descriptor().Name())
		if len(s.messages[name]) < 1<<12 { // the others have their own targets
			var a anypb.Any
			require.NoError(f, proto.Unmarshal(s.messages[name], &a))
			f.Add(uint8(i), ^uint16(0), a.GetTypeUrl(), a.GetValue())
			f.Add(uint8(i), uint16(1), a.GetTypeUrl(), a.GetValue())
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, sent uint16, url string, content []byte) {
		c, p := protocolOf(all[int(which)%len(all)])
		to := s.server(c, p)
		if sent>>15 == 0 {
			to.ingress.n, to.ingress.nTilde = nil, nil
		}
		i := 0
		for _, name := range all { // the bits of sent select the protocol's types
			if _, ok := p.steps[name]; ok {
				to.ingress.sent[name] = sent>>i&1 == 1
				i++
			}
		}
		s.offer(t, to, (&anyOf{url, content}).bytes(t))
	})
}

// anyOf encodes an Any with a fuzzed type, which may be invalid UTF-8, which protobuf does not encode.
type anyOf struct {
	url     string
	content []byte
}

func (a *anyOf) bytes(t *testing.T) []byte {
	b, err := proto.Marshal(&anypb.Any{TypeUrl: a.url, Value: a.content})
	if err != nil {
		t.Skip("no type at all")
	}
	return b
}

func FuzzECKeygenRound1Message(f *testing.F)  { fuzzMessage(f, &eckeygen.KGRound1Message{}) }
func FuzzECKeygenRound2Message1(f *testing.F) { fuzzMessage(f, &eckeygen.KGRound2Message1{}) }
func FuzzECKeygenRound2Message2(f *testing.F) { fuzzMessage(f, &eckeygen.KGRound2Message2{}) }
func FuzzECKeygenRound3Message(f *testing.F)  { fuzzMessage(f, &eckeygen.KGRound3Message{}) }

func FuzzECReshareRound1Message(f *testing.F)  { fuzzMessage(f, &ecresharing.DGRound1Message{}) }
func FuzzECReshareRound2Message1(f *testing.F) { fuzzMessage(f, &ecresharing.DGRound2Message1{}) }
func FuzzECReshareRound2Message2(f *testing.F) { fuzzMessage(f, &ecresharing.DGRound2Message2{}) }
func FuzzECReshareRound3Message1(f *testing.F) { fuzzMessage(f, &ecresharing.DGRound3Message1{}) }
func FuzzECReshareRound3Message2(f *testing.F) { fuzzMessage(f, &ecresharing.DGRound3Message2{}) }
func FuzzECReshareRound4Message1(f *testing.F) { fuzzMessage(f, &ecresharing.DGRound4Message1{}) }
func FuzzECReshareRound4Message2(f *testing.F) { fuzzMessage(f, &ecresharing.DGRound4Message2{}) }

func FuzzECSignRound1Message1(f *testing.F) { fuzzMessage(f, &ecsigning.SignRound1Message1{}) }
func FuzzECSignRound1Message2(f *testing.F) { fuzzMessage(f, &ecsigning.SignRound1Message2{}) }
func FuzzECSignRound2Message(f *testing.F)  { fuzzMessage(f, &ecsigning.SignRound2Message{}) }
func FuzzECSignRound3Message(f *testing.F)  { fuzzMessage(f, &ecsigning.SignRound3Message{}) }
func FuzzECSignRound4Message(f *testing.F)  { fuzzMessage(f, &ecsigning.SignRound4Message{}) }
func FuzzECSignRound5Message(f *testing.F)  { fuzzMessage(f, &ecsigning.SignRound5Message{}) }
func FuzzECSignRound6Message(f *testing.F)  { fuzzMessage(f, &ecsigning.SignRound6Message{}) }
func FuzzECSignRound7Message(f *testing.F)  { fuzzMessage(f, &ecsigning.SignRound7Message{}) }
func FuzzECSignRound8Message(f *testing.F)  { fuzzMessage(f, &ecsigning.SignRound8Message{}) }
func FuzzECSignRound9Message(f *testing.F)  { fuzzMessage(f, &ecsigning.SignRound9Message{}) }

func FuzzEdKeygenRound1Message(f *testing.F)  { fuzzMessage(f, &edkeygen.KGRound1Message{}) }
func FuzzEdKeygenRound2Message1(f *testing.F) { fuzzMessage(f, &edkeygen.KGRound2Message1{}) }
func FuzzEdKeygenRound2Message2(f *testing.F) { fuzzMessage(f, &edkeygen.KGRound2Message2{}) }

func FuzzEdReshareRound1Message(f *testing.F)  { fuzzMessage(f, &edresharing.DGRound1Message{}) }
func FuzzEdReshareRound2Message(f *testing.F)  { fuzzMessage(f, &edresharing.DGRound2Message{}) }
func FuzzEdReshareRound3Message1(f *testing.F) { fuzzMessage(f, &edresharing.DGRound3Message1{}) }
func FuzzEdReshareRound3Message2(f *testing.F) { fuzzMessage(f, &edresharing.DGRound3Message2{}) }
func FuzzEdReshareRound4Message(f *testing.F)  { fuzzMessage(f, &edresharing.DGRound4Message{}) }

func FuzzEdSignRound1Message(f *testing.F) { fuzzMessage(f, &edsigning.SignRound1Message{}) }
func FuzzEdSignRound2Message(f *testing.F) { fuzzMessage(f, &edsigning.SignRound2Message{}) }
func FuzzEdSignRound3Message(f *testing.F) { fuzzMessage(f, &edsigning.SignRound3Message{}) }
