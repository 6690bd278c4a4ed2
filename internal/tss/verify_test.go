package tss_test

import (
	"crypto/ed25519"
	"math/big"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// Verify accepts only a canonical signature of this payload under this key, and no variant of it.
func TestVerifyECDSA(t *testing.T) {
	t.Parallel()
	rec, both := tss.Vector(t, tss.Signing).Key(t, tss.Secp256k1)
	payload := digest("payload")
	good := *sign(t, rec, both, payload)
	q := tss.Secp256k1.Order()
	verify := func(sig tss.Signature) error { return tss.Verify(tss.Secp256k1, rec.PublicKey, payload, &sig) }
	require.NoError(t, verify(good))

	// Independently of tss.Verify: s*R = z*G + r*Q, with math/big and the curve's group.
	require.True(t, verifyByHand(t, rec.PublicKey, payload, good))

	changed := func(name string, from int, f func(x *big.Int) *big.Int) {
		sig := good
		x := f(new(big.Int).SetBytes(sig.Bytes[from : from+32]))
		x.FillBytes(sig.Bytes[from : from+32])
		require.Error(t, verify(sig), name)
	}
	flip := func(x *big.Int) *big.Int { return x.Xor(x, big.NewInt(1)) }
	zero := func(*big.Int) *big.Int { return new(big.Int) }
	changed("r", 0, flip)
	changed("s", 32, flip)
	changed("r = 0", 0, zero)
	changed("s = 0", 32, zero)
	changed("r = q", 0, func(*big.Int) *big.Int { return new(big.Int).Set(q) })
	changed("s = q", 32, func(*big.Int) *big.Int { return new(big.Int).Set(q) })

	// The other signature of the same payload, with a high s and the other recovery id: ECDSA verifiers that do not
	// require a low s accept it.
	high := good
	s := new(big.Int).SetBytes(high.Bytes[32:])
	s.Sub(q, s).FillBytes(high.Bytes[32:])
	high.RecoveryID ^= 1
	require.True(t, verifyByHand(t, rec.PublicKey, payload, high))
	require.Error(t, verify(high), "high s")

	for id := range 256 {
		other := good
		other.RecoveryID = byte(id)
		require.Equal(t, id == int(good.RecoveryID), verify(other) == nil, "recovery id %d", id)
	}
	var none tss.Signature
	require.Error(t, verify(none))

	backup, _ := tss.Vector(t, tss.Backup).Key(t, tss.Secp256k1)
	for name, x := range map[string]struct{ key, payload []byte }{
		"another payload":  {rec.PublicKey, digest("other")},
		"a longer payload": {rec.PublicKey, append(digest("payload"), 0)},
		"a short payload":  {rec.PublicKey, payload[:31]},
		"no payload":       {rec.PublicKey, nil},
		"another key":      {backup.WithXi(t, tss.Client, big.NewInt(5)).PublicKey, payload},
		"no key":           {nil, payload},
		"bad key":          {make([]byte, 65), payload},
	} {
		require.Error(t, tss.Verify(tss.Secp256k1, x.key, x.payload, &good), name)
	}
}

func verifyByHand(t *testing.T, publicKey, payload []byte, sig tss.Signature) bool {
	t.Helper()
	pub, err := secp256k1.ParsePubKey(publicKey)
	require.NoError(t, err)
	q := tss.Secp256k1.Order()
	r, s := new(big.Int).SetBytes(sig.Bytes[:32]), new(big.Int).SetBytes(sig.Bytes[32:])
	w := new(big.Int).ModInverse(s, q)
	u1 := w.Mul(w, new(big.Int).SetBytes(payload))
	u1.Mod(u1, q)
	u2 := new(big.Int).ModInverse(s, q)
	u2.Mul(u2, r).Mod(u2, q)
	var k1, k2 secp256k1.ModNScalar
	k1.SetByteSlice(u1.Bytes())
	k2.SetByteSlice(u2.Bytes())
	var key, p1, p2, sum secp256k1.JacobianPoint
	pub.AsJacobian(&key)
	secp256k1.ScalarBaseMultNonConst(&k1, &p1)
	secp256k1.ScalarMultNonConst(&k2, &key, &p2)
	secp256k1.AddNonConst(&p1, &p2, &sum)
	sum.ToAffine()
	x := new(big.Int).SetBytes(sum.X.Bytes()[:])
	return x.Mod(x, q).Cmp(r) == 0
}

// The recovery id yields the public key, with another library's header byte.
func TestVerifyRecovers(t *testing.T) {
	t.Parallel()
	rec, both := tss.Vector(t, tss.Signing).Key(t, tss.Secp256k1)
	payload := digest("recover")
	sig := sign(t, rec, both, payload)
	require.Less(t, sig.RecoveryID, uint8(4))
	got, _, err := ecdsa.RecoverCompact(append([]byte{27 + sig.RecoveryID}, sig.Bytes[:]...), payload)
	require.NoError(t, err)
	require.Equal(t, rec.PublicKey, got.SerializeUncompressed())
}

func TestVerifyEdDSA(t *testing.T) {
	t.Parallel()
	rec, both := tss.Vector(t, tss.Signing).Key(t, tss.Ed25519)
	message := []byte("message")
	good := *sign(t, rec, both, message)
	verify := func(sig tss.Signature) error { return tss.Verify(tss.Ed25519, rec.PublicKey, message, &sig) }
	require.NoError(t, verify(good))
	require.True(t, ed25519.Verify(rec.PublicKey, message, good.Bytes[:]))
	for i := range good.Bytes {
		sig := good
		sig.Bytes[i] ^= 1
		require.Error(t, verify(sig), "byte %d", i)
	}
	// s + q is the same number mod q, and not canonical (RFC 8032, 5.1.7).
	sig := good
	le := func(b []byte) *big.Int {
		x := new(big.Int)
		for i := len(b) - 1; i >= 0; i-- {
			x.Lsh(x, 8).Or(x, big.NewInt(int64(b[i])))
		}
		return x
	}
	s := le(sig.Bytes[32:])
	s.Add(s, tss.Ed25519.Order())
	for i, b := range s.FillBytes(make([]byte, 32)) {
		sig.Bytes[63-i] = b
	}
	require.Error(t, verify(sig), "s + q")
	require.Error(t, tss.Verify(tss.Ed25519, rec.PublicKey, []byte("other"), &good))
	require.Error(t, tss.Verify(tss.Ed25519, rec.PublicKey[:31], message, &good))
	require.Error(t, tss.Verify(tss.Ed25519, nil, message, &good))
	require.Error(t, tss.Verify(tss.Secp256k1, rec.PublicKey, digest("x"), &good))
}
