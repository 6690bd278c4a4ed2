package tss

import (
	"bytes"
	"crypto/elliptic"
	"encoding/hex"
	"math/big"
	"slices"
	"testing"

	"filippo.io/edwards25519"
	"github.com/stretchr/testify/require"

	tsscrypto "github.com/bnb-chain/tss-lib/v2/crypto"
)

// torsion has the canonical encodings of the eight points of small order of edwards25519, the neutral element first.
var torsion = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}

func edwardsPoint(t *testing.T, s string) *edwards25519.Point {
	t.Helper()
	p, err := new(edwards25519.Point).SetBytes(UnHex(t, s))
	require.NoError(t, err)
	return p
}

// Encoding and decoding a point are inverse, and checkPoint accepts the same points.
func TestPointRoundTrip(t *testing.T) {
	for _, c := range Curves() {
		q := c.order()
		for _, x := range []*big.Int{
			big.NewInt(1), big.NewInt(2), big.NewInt(77), new(big.Int).Sub(q, big.NewInt(1)), new(big.Int).Rsh(q, 1),
		} {
			p := c.baseMult(x)
			require.NoError(t, c.checkPoint(p))
			b := c.encodePoint(p)
			got, err := c.decodePoint(b)
			require.NoError(t, err)
			require.True(t, got.Equals(p))
			require.Equal(t, b, c.encodePoint(got))
		}
	}
	// RFC 8032, 5.1: the encoding of the base point.
	base := Ed25519.encodePoint(Ed25519.baseMult(big.NewInt(1)))
	require.Equal(t, "5866666666666666666666666666666666666666666666666666666666666666", hex.EncodeToString(base))
}

// tss-lib.md, row 12: variant encodings of points, each accepted by some library.
func TestRow12PointEncodings(t *testing.T) {
	good := Secp256k1.encodePoint(Secp256k1.baseMult(big.NewInt(5)))
	p := Secp256k1.ec().Params().P
	edit := func(f func([]byte)) []byte {
		b := slices.Clone(good)
		f(b)
		return b
	}
	// A point for which x + p has 32 bytes: x = 1 is on y^2 = x^3 + 7.
	small := make([]byte, 65)
	small[0] = 4
	small[32] = 1
	y := new(big.Int).ModSqrt(big.NewInt(8), p)
	require.NotNil(t, y)
	y.FillBytes(small[33:])
	_, err := Secp256k1.decodePoint(small)
	require.NoError(t, err)
	overP := slices.Clone(small)
	new(big.Int).Add(p, big.NewInt(1)).FillBytes(overP[1:33])

	secp := map[string][]byte{
		"empty":                nil,
		"compressed":           append([]byte{2 + good[64]&1}, good[1:33]...),
		"hybrid":               edit(func(b []byte) { b[0] = 6 + b[64]&1 }),
		"raw":                  good[1:],
		"infinity":             {0},
		"infinity, long":       make([]byte, 65),
		"zero with its prefix": append([]byte{4}, make([]byte, 64)...),
		"long":                 append(slices.Clone(good), 0),
		"short":                good[:64],
		"off the curve":        edit(func(b []byte) { b[64] ^= 1 }),
		"x + p":                overP,
		"y + p":                edit(func(b []byte) { copy(b[33:], bytes.Repeat([]byte{0xff}, 32)) }),
		"an Ed25519 point":     Ed25519.encodePoint(Ed25519.baseMult(big.NewInt(5))),
	}
	// A point of P-256, which is another curve over another field.
	gx, gy := elliptic.P256().Params().Gx, elliptic.P256().Params().Gy
	secp["a P-256 point"] = append(append([]byte{4}, gx.FillBytes(make([]byte, 32))...), gy.FillBytes(make([]byte, 32))...)
	for name, b := range secp {
		_, err := Secp256k1.decodePoint(b)
		require.ErrorIs(t, err, errPoint, name)
	}

	ed := Ed25519.encodePoint(Ed25519.baseMult(big.NewInt(5)))
	edwards := map[string][]byte{
		"empty":           nil,
		"short":           ed[:31],
		"long":            append(slices.Clone(ed), 0),
		"a secp256k1 one": good,
		"not a point":     UnHex(t, "0200000000000000000000000000000000000000000000000000000000000000"),
		// Canonical y, but x = 0 with its sign bit set.
		"minus zero":       UnHex(t, "0100000000000000000000000000000000000000000000000000000000000080"),
		"minus zero, -1":   UnHex(t, "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"),
		"y = p, order 4":   UnHex(t, "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
		"y = p + 1":        UnHex(t, "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
		"y = p + 1, sign":  UnHex(t, "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"),
		"y = 2^255 - 1":    bytes.Repeat([]byte{0xff}, 32),
		"y = 2^255 - 1, +": append(bytes.Repeat([]byte{0xff}, 31), 0x7f),
	}
	// Every y from p to 2^255 - 1 is another encoding of y - p: 19 of them, with both signs.
	for y := byte(0xed); y != 0; y++ {
		for _, top := range []byte{0x7f, 0xff} {
			b := append([]byte{y}, append(bytes.Repeat([]byte{0xff}, 30), top)...)
			edwards["y = p + "+big.NewInt(int64(y)-0xed).String()+" "+string('0'+top>>7)] = b
		}
	}
	for i, s := range torsion {
		edwards["torsion "+s] = UnHex(t, s)
		if i == 0 {
			continue
		}
		// A point of the prime-order group plus one of small order.
		mixed := new(edwards25519.Point).Add(edwardsPoint(t, hex.EncodeToString(ed)), edwardsPoint(t, s))
		edwards["mixed "+s] = mixed.Bytes()
	}
	for name, b := range edwards {
		_, err := Ed25519.decodePoint(b)
		require.ErrorIs(t, err, errPoint, name)
	}
}

// The same for points from tss-lib, which accepts each of these.
func TestRow12Points(t *testing.T) {
	for _, c := range Curves() {
		p := c.baseMult(big.NewInt(5))
		mod := c.ec().Params().P
		other := Secp256k1 + Ed25519 - c
		bad := map[string]*tsscrypto.ECPoint{
			"nil":                   nil,
			"zero value":            {},
			"of the other curve":    other.baseMult(big.NewInt(5)),
			"named the other curve": tsscrypto.NewECPointNoCurveCheck(other.ec(), p.X(), p.Y()),
			"of no curve":           tsscrypto.NewECPointNoCurveCheck(nil, p.X(), p.Y()),
			"x - p":                 tsscrypto.NewECPointNoCurveCheck(c.ec(), new(big.Int).Sub(p.X(), mod), p.Y()),
			"y - p":                 tsscrypto.NewECPointNoCurveCheck(c.ec(), p.X(), new(big.Int).Sub(p.Y(), mod)),
			"-y":                    tsscrypto.NewECPointNoCurveCheck(c.ec(), p.X(), new(big.Int).Neg(p.Y())),
			"x + p":                 tsscrypto.NewECPointNoCurveCheck(c.ec(), new(big.Int).Add(p.X(), mod), p.Y()),
			"y + p":                 tsscrypto.NewECPointNoCurveCheck(c.ec(), p.X(), new(big.Int).Add(p.Y(), mod)),
			"off the curve":         tsscrypto.NewECPointNoCurveCheck(c.ec(), p.X(), new(big.Int).Add(p.Y(), big.NewInt(1))),
			"zero":                  tsscrypto.NewECPointNoCurveCheck(c.ec(), new(big.Int), new(big.Int)),
			"neutral":               tsscrypto.NewECPointNoCurveCheck(c.ec(), new(big.Int), big.NewInt(1)),
		}
		if c == Ed25519 {
			bad["order 2"] = tsscrypto.NewECPointNoCurveCheck(c.ec(), new(big.Int), new(big.Int).Sub(mod, big.NewInt(1)))
			mixed, err := p.Add(bad["order 2"])
			require.NoError(t, err)
			bad["mixed"] = mixed
		}
		for name, p := range bad {
			require.ErrorIs(t, c.checkPoint(p), errPoint, "%v: %s", c, name)
		}
	}
}

func TestNames(t *testing.T) {
	require.Equal(t, []string{"SECP256K1", "ED25519"}, []string{Secp256k1.String(), Ed25519.String()})
	require.Equal(t, []string{"CLIENT", "SERVER"}, []string{Client.String(), Server.String()})
	require.Equal(t, []string{"SIGNING", "BACKUP"}, []string{Signing.String(), Backup.String()})
	for _, c := range []Curve{0, 3} {
		require.False(t, c.Valid())
	}
	require.False(t, Party(2).Valid())
	for _, p := range []Purpose{0, 3} {
		require.False(t, p.Valid())
	}
}
