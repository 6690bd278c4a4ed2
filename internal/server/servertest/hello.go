package servertest

import (
	"crypto/ecdh"
	"crypto/rand"
	"testing"

	"github.com/stretchr/testify/require"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/wire"
)

// Hello returns the first part of a device that has a share, in a run on one curve. It is of no use after that: its
// keys are discarded. about identifies the run; the fields that the share determines are filled in.
func Hello(t testing.TB, share []byte, about tss.HelloContext) *pb.ProtocolMessage {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(t, err)
	h := &tss.Hello{Nonce: make([]byte, 32), SessionKey: key.PublicKey().Bytes()}
	_, _ = rand.Read(h.Nonce) // never fails
	if about.Operation != tss.OperationSign {
		h.PartyKeys = append(make([]byte, 31), 7)
	}
	s, err := tss.ParseShare(share)
	require.NoError(t, err)
	defer s.Wipe()
	about.WalletID, about.ShareSetID, about.RecordHash = s.WalletID, s.ShareSetID, s.RecordHash
	require.NoError(t, h.Prove(&about, s))
	m := wire.Message(tss.Part{Hello: h})
	m.Sequence = 1
	return m
}
