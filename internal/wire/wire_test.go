package wire

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
)

// Any message is either rejected or yields a part of bounded size that converts back to the same message.
func FuzzPart(f *testing.F) {
	key := bytes.Repeat([]byte{7}, 32)
	for _, p := range []tss.Part{
		{Hello: &tss.Hello{Nonce: key, SessionKey: key, PartyKeys: key}},
		{Hello: &tss.Hello{Nonce: key, SessionKey: key, PartyKeys: key, Proof: append(key, key...)}},
		{Hello: &tss.Hello{Nonce: key, SessionKey: key, WalletID: "w", ShareSetID: "s", Record: key}},
		{Message: &tss.Message{Curve: tss.Ed25519, Payload: key}},
		{Message: &tss.Message{Curve: tss.Secp256k1, Private: true, Payload: key}},
		{End: &tss.End{ShareHash: key}},
		{End: &tss.End{}},
		{MAC: key},
	} {
		b, err := proto.Marshal(Message(p))
		require.NoError(f, err)
		f.Add(b)
	}
	for _, m := range []*pb.ProtocolMessage{
		{},
		{Payload: key, Mac: key},
		{Mac: key, Private: true},
		{Payload: key, Curve: 7},
		{Hello: &pb.Hello{}, End: &pb.End{}},
		{Payload: make([]byte, maxMessage+1)},
	} {
		b, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(pb.ProtocolMessage)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		p, err := Part(m)
		if err != nil {
			require.Equal(t, tss.Part{}, p)
			return
		}
		set := 0
		for _, is := range []bool{p.Hello != nil, p.Message != nil, p.End != nil, len(p.MAC) > 0} {
			if is {
				set++
			}
		}
		require.Equal(t, 1, set)
		again := Message(p)
		if p.Message != nil {
			require.LessOrEqual(t, len(p.Message.Payload), maxMessage)
			require.True(t, p.Message.Curve == 0 || p.Message.Curve.Valid())
			if p.Message.Curve == 0 { // an unknown one
				again.Curve = m.GetCurve()
			}
		}
		again.Sequence, again.Ack = m.GetSequence(), m.GetAck()
		forget(m.ProtoReflect())
		require.True(t, proto.Equal(m, again))
	})
}

// forget drops fields unknown to this version of the API.
func forget(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() != nil {
			forget(v.Message())
		}
		return true
	})
}
