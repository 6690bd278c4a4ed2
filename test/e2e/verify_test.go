package e2e_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/stretchr/testify/require"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// signs requires that a set signs with its wallet's ED25519 key.
func signs(t testing.TB, s *servertest.Service, w *pb.Wallet, h held) {
	t.Helper()
	req := signReq(h)
	resp := done[*pb.SignResponse](t, overGRPC(t, s, alice, req))
	require.Equal(t, h.set, resp.GetShareSetId())
	for _, k := range w.GetPublicKeys() {
		if k.GetCurve() == req.GetCurve() {
			verified(t, k, req.GetPayload(), resp.GetSignature(), resp.GetRecoveryId())
			return
		}
	}
	require.Fail(t, "the wallet has no such key")
}

// verified verifies a signature without mpcd's or tss-lib's code.
func verified(t testing.TB, k *pb.PublicKey, payload, sig []byte, recovery uint32) {
	t.Helper()
	require.Len(t, sig, 64)
	if k.GetCurve() == pb.Curve_CURVE_ED25519 {
		require.True(t, ed25519.Verify(k.GetPublicKey(), payload, sig))
		require.Zero(t, recovery)
		return
	}
	pub, err := secp256k1.ParsePubKey(k.GetPublicKey())
	require.NoError(t, err)
	require.Len(t, k.GetPublicKey(), 65)
	var r, s secp256k1.ModNScalar
	require.False(t, r.SetByteSlice(sig[:32]))
	require.False(t, s.SetByteSlice(sig[32:]))
	require.False(t, s.IsOverHalfOrder(), "low s")
	require.True(t, ecdsa.NewSignature(&r, &s).Verify(payload, pub))
	got, _, err := ecdsa.RecoverCompact(append([]byte{byte(27 + 4 + recovery)}, sig...), payload)
	require.NoError(t, err)
	require.True(t, got.IsEqual(pub))
}

func digest(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}
