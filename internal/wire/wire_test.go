package wire_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/wire"
)

// parts is one of each kind.
var parts = []tss.Part{
	{Hello: &tss.Hello{Nonce: []byte("n"), SessionKey: []byte("k"), PartyKeys: []byte("p"), WalletID: "w", ShareSetID: "s", Record: []byte("r")}},
	{Message: &tss.Sealable{Curve: tss.Ed25519, Private: true, Payload: []byte("m")}},
	{Message: &tss.Sealable{Curve: tss.Secp256k1, Payload: []byte("m")}},
	{End: &tss.End{ShareHash: []byte("h")}},
	{MAC: []byte("m")},
}

// What goes out comes in as it was.
func TestBothWays(t *testing.T) {
	t.Parallel()
	for _, p := range parts {
		got, err := wire.Part(wire.Message(p))
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
}

// Whatever comes, it is one part, and the same part again on its way back, or it is refused.
func FuzzPart(f *testing.F) {
	for _, p := range parts {
		b, err := proto.Marshal(wire.Message(p))
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m pb.ProtocolMessage
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		p, err := wire.Part(&m)
		if err != nil {
			return
		}
		again, err := wire.Part(wire.Message(p))
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}
