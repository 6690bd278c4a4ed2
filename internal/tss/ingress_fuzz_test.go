package tss

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"os"
	"testing"

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
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// One fuzz target for each type of message that comes from the other side. Each begins with
// an honest message, in the state in which it is expected, so that its content is looked at
// to the end.

// HonestFile has one message of each type, each after its length; TestHonestMessages writes it.
const HonestFile = "testdata/honest.bin"

// honest returns the content of the honest message of each type.
func honest(t testing.TB) map[protoreflect.FullName][]byte {
	t.Helper()
	b, err := os.ReadFile(HonestFile)
	require.NoError(t, err)
	all := map[protoreflect.FullName][]byte{}
	for len(b) > 4 {
		n := binary.BigEndian.Uint32(b)
		var a anypb.Any
		require.NoError(t, proto.Unmarshal(b[4:4+n], &a))
		all[a.MessageName()], b = a.GetValue(), b[4+n:]
	}
	return all
}

// expecting is an ingress in the middle of a run, to which every message may come.
func expecting(t testing.TB, c Curve, p *protocol, all map[protoreflect.FullName][]byte) *ingress {
	t.Helper()
	g := &ingress{curve: c, me: Server, proto: p, sent: map[protoreflect.FullName]bool{}, theta: big.NewInt(7)}
	for name := range p.steps {
		g.sent[name] = true
	}
	if p == signings[c] {
		g.record, _ = Vector(t, Signing).Record.Key(c)
	}
	if p == keygens[Secp256k1] { // the modulus that the proof in its second round is of
		var m eckeygen.KGRound1Message
		require.NoError(t, proto.Unmarshal(all[typeOf(&m)], &m))
		g.n = new(big.Int).SetBytes(m.GetPaillierN())
	}
	return g
}

// fuzz gives the ingress a message of one type, as it is and, so that more of it gets to
// where its content is looked at, encoded as tss-lib would.
func fuzz(f *testing.F, c Curve, p *protocol, like proto.Message) {
	f.Helper()
	all := honest(f)
	name := typeOf(like)
	content, ok := all[name]
	require.True(f, ok, "no honest %s: run TestHonestMessages with -write", name)
	st, ok := p.steps[name]
	require.True(f, ok)
	require.NoError(f, checked(expecting(f, c, p, all), st, name, content), "an honest one is taken")
	f.Add(content)
	f.Add(content[:len(content)/2])
	f.Add([]byte{0x0a, 0x01, 0x07})
	f.Fuzz(func(t *testing.T, content []byte) {
		if checked(expecting(t, c, p, all), st, name, content) == nil {
			requireBounded(t, name, content)
		}
		m := newOf(t, name)
		if proto.Unmarshal(content, m) != nil {
			return
		}
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		require.NoError(t, err)
		if checked(expecting(t, c, p, all), st, name, again) == nil {
			requireBounded(t, name, again)
		}
	})
}

func newOf(t testing.TB, name protoreflect.FullName) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(name)
	require.NoError(t, err)
	return typ.New().Interface()
}

func checked(g *ingress, st step, name protoreflect.FullName, content []byte) error {
	a := &anypb.Any{TypeUrl: typePrefix + string(name), Value: content}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(a)
	if err != nil {
		return err
	}
	return g.check(a, st, payload)
}

// requireBounded says of what was let through what must be true of it, without the reader's
// own words: tss-lib parses it, it is encoded in one way, and no value is longer than the
// longest of an honest message, or zero.
func requireBounded(t *testing.T, name protoreflect.FullName, content []byte) {
	t.Helper()
	require.LessOrEqual(t, len(content), maxWireBytes)
	m := newOf(t, name)
	require.NoError(t, proto.Unmarshal(content, m))
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, again))
	parsed, ok := m.(lib.MessageContent)
	require.True(t, ok)
	require.True(t, parsed.ValidateBasic())
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		values := []protoreflect.Value{v}
		if f.IsList() {
			values = nil
			for i := range v.List().Len() {
				values = append(values, v.List().Get(i))
			}
		}
		for _, x := range values {
			require.NotEmpty(t, x.Bytes())
			require.NotZero(t, x.Bytes()[0])
			require.LessOrEqual(t, len(x.Bytes()), 609) // V of a factor proof
		}
		return true
	})
}

func FuzzECKeygenRound1Message(f *testing.F) {
	fuzz(f, Secp256k1, keygens[Secp256k1], &eckeygen.KGRound1Message{})
}

func FuzzECKeygenRound2Message1(f *testing.F) {
	fuzz(f, Secp256k1, keygens[Secp256k1], &eckeygen.KGRound2Message1{})
}

func FuzzECKeygenRound2Message2(f *testing.F) {
	fuzz(f, Secp256k1, keygens[Secp256k1], &eckeygen.KGRound2Message2{})
}

func FuzzECKeygenRound3Message(f *testing.F) {
	fuzz(f, Secp256k1, keygens[Secp256k1], &eckeygen.KGRound3Message{})
}

func FuzzECResharingRound1Message(f *testing.F) {
	fuzz(f, Secp256k1, resharings[Secp256k1], &ecresharing.DGRound1Message{})
}

func FuzzECResharingRound2Message1(f *testing.F) {
	fuzz(f, Secp256k1, resharings[Secp256k1], &ecresharing.DGRound2Message1{})
}

func FuzzECResharingRound2Message2(f *testing.F) {
	fuzz(f, Secp256k1, resharings[Secp256k1], &ecresharing.DGRound2Message2{})
}

func FuzzECResharingRound3Message1(f *testing.F) {
	fuzz(f, Secp256k1, resharings[Secp256k1], &ecresharing.DGRound3Message1{})
}

func FuzzECResharingRound3Message2(f *testing.F) {
	fuzz(f, Secp256k1, resharings[Secp256k1], &ecresharing.DGRound3Message2{})
}

func FuzzECResharingRound4Message1(f *testing.F) {
	fuzz(f, Secp256k1, resharings[Secp256k1], &ecresharing.DGRound4Message1{})
}

func FuzzECResharingRound4Message2(f *testing.F) {
	fuzz(f, Secp256k1, resharings[Secp256k1], &ecresharing.DGRound4Message2{})
}

func FuzzECSigningRound1Message1(f *testing.F) {
	fuzz(f, Secp256k1, signings[Secp256k1], &ecsigning.SignRound1Message1{})
}

func FuzzECSigningRound1Message2(f *testing.F) {
	fuzz(f, Secp256k1, signings[Secp256k1], &ecsigning.SignRound1Message2{})
}

func FuzzECSigningRound2Message(f *testing.F) {
	fuzz(f, Secp256k1, signings[Secp256k1], &ecsigning.SignRound2Message{})
}

func FuzzECSigningRound3Message(f *testing.F) {
	fuzz(f, Secp256k1, signings[Secp256k1], &ecsigning.SignRound3Message{})
}

func FuzzECSigningRound4Message(f *testing.F) {
	fuzz(f, Secp256k1, signings[Secp256k1], &ecsigning.SignRound4Message{})
}

func FuzzECSigningRound5Message(f *testing.F) {
	fuzz(f, Secp256k1, signings[Secp256k1], &ecsigning.SignRound5Message{})
}

func FuzzECSigningRound6Message(f *testing.F) {
	fuzz(f, Secp256k1, signings[Secp256k1], &ecsigning.SignRound6Message{})
}

func FuzzECSigningRound7Message(f *testing.F) {
	fuzz(f, Secp256k1, signings[Secp256k1], &ecsigning.SignRound7Message{})
}

func FuzzECSigningRound8Message(f *testing.F) {
	fuzz(f, Secp256k1, signings[Secp256k1], &ecsigning.SignRound8Message{})
}

func FuzzECSigningRound9Message(f *testing.F) {
	fuzz(f, Secp256k1, signings[Secp256k1], &ecsigning.SignRound9Message{})
}

func FuzzEdKeygenRound1Message(f *testing.F) {
	fuzz(f, Ed25519, keygens[Ed25519], &edkeygen.KGRound1Message{})
}

func FuzzEdKeygenRound2Message1(f *testing.F) {
	fuzz(f, Ed25519, keygens[Ed25519], &edkeygen.KGRound2Message1{})
}

func FuzzEdKeygenRound2Message2(f *testing.F) {
	fuzz(f, Ed25519, keygens[Ed25519], &edkeygen.KGRound2Message2{})
}

func FuzzEdResharingRound1Message(f *testing.F) {
	fuzz(f, Ed25519, resharings[Ed25519], &edresharing.DGRound1Message{})
}

func FuzzEdResharingRound2Message(f *testing.F) {
	fuzz(f, Ed25519, resharings[Ed25519], &edresharing.DGRound2Message{})
}

func FuzzEdResharingRound3Message1(f *testing.F) {
	fuzz(f, Ed25519, resharings[Ed25519], &edresharing.DGRound3Message1{})
}

func FuzzEdResharingRound3Message2(f *testing.F) {
	fuzz(f, Ed25519, resharings[Ed25519], &edresharing.DGRound3Message2{})
}

func FuzzEdResharingRound4Message(f *testing.F) {
	fuzz(f, Ed25519, resharings[Ed25519], &edresharing.DGRound4Message{})
}

func FuzzEdSigningRound1Message(f *testing.F) {
	fuzz(f, Ed25519, signings[Ed25519], &edsigning.SignRound1Message{})
}

func FuzzEdSigningRound2Message(f *testing.F) {
	fuzz(f, Ed25519, signings[Ed25519], &edsigning.SignRound2Message{})
}

func FuzzEdSigningRound3Message(f *testing.F) {
	fuzz(f, Ed25519, signings[Ed25519], &edsigning.SignRound3Message{})
}
