package tss

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
	tsscrypto "github.com/bnb-chain/tss-lib/v2/crypto"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// Curve is a key's curve, which determines the signature scheme. The numbers are those of the API's enum and of the
// share format: they never change.
type Curve uint8

// The curves of a wallet.
const (
	Secp256k1 Curve = 1 // ECDSA, GG18 with the CGGMP proofs of tss-lib
	Ed25519   Curve = 2 // EdDSA as in RFC 8032
)

// Curves returns all curves, in the order in which a run processes them.
func Curves() []Curve { return []Curve{Secp256k1, Ed25519} }

// Valid reports whether c is one of the curves above.
func (c Curve) Valid() bool { return c == Secp256k1 || c == Ed25519 }

// String returns the name that the API, the command line and the docs use.
func (c Curve) String() string {
	switch c {
	case Secp256k1:
		return "SECP256K1"
	case Ed25519:
		return "ED25519"
	}
	return fmt.Sprintf("Curve(%d)", uint8(c))
}

// Party is one of the two owners of shares in a share set.
type Party uint8

// The two parties of every share set.
const (
	Client Party = 0
	Server Party = 1
)

// Other returns the other party.
func (p Party) Other() Party { return 1 - p }

// Valid reports whether p is one of the two parties.
func (p Party) Valid() bool { return p <= Server }

// String returns the name that docs and logs use.
func (p Party) String() string {
	switch p {
	case Client:
		return "CLIENT"
	case Server:
		return "SERVER"
	}
	return fmt.Sprintf("Party(%d)", uint8(p))
}

// Purpose is what a share set is for. The numbers are those of the API's enum.
type Purpose uint8

// The purposes of a share set.
const (
	Signing Purpose = 1
	Backup  Purpose = 2
)

// Valid reports whether p is one of the purposes above.
func (p Purpose) Valid() bool { return p == Signing || p == Backup }

// String returns the name that docs and logs use.
func (p Purpose) String() string {
	switch p {
	case Signing:
		return "SIGNING"
	case Backup:
		return "BACKUP"
	}
	return fmt.Sprintf("Purpose(%d)", uint8(p))
}

// ec returns tss-lib's group for c. c must be valid.
func (c Curve) ec() elliptic.Curve {
	if c == Secp256k1 {
		return lib.S256()
	}
	return edwards()
}

// edwards caches the curve: tss-lib builds a new one on each call, which costs more than most computations with it.
var edwards = sync.OnceValue(lib.Edwards)

// order returns the prime order of the group, q.
func (c Curve) order() *big.Int { return c.ec().Params().N }

// scalarLen is the length of an encoded scalar, in bytes, for both curves.
const scalarLen = 32

// isScalar reports whether 0 < x < q.
func (c Curve) isScalar(x *big.Int) bool {
	return x != nil && x.Sign() > 0 && x.Cmp(c.order()) < 0
}

// baseMult returns x*G. x must satisfy isScalar: tss-lib panics on a multiple of q. For Ed25519 it does not use
// tss-lib, which takes 15 ms, and a time that depends on the secret.
func (c Curve) baseMult(x *big.Int) *tsscrypto.ECPoint {
	if c == Secp256k1 {
		return tsscrypto.ScalarBaseMult(c.ec(), x)
	}
	s := edwardsScalar(x)
	p := fromEdwards(c.ec(), new(edwards25519.Point).ScalarBaseMult(s))
	s.Set(edwards25519.NewScalar()) // it may have been a secret
	return p
}

// combine returns x*p + y*q. The scalars must satisfy isScalar. They are public: the time depends on them.
func (c Curve) combine(x *big.Int, p *tsscrypto.ECPoint, y *big.Int, q *tsscrypto.ECPoint) (*tsscrypto.ECPoint, error) {
	if c == Secp256k1 {
		return p.ScalarMult(x).Add(q.ScalarMult(y))
	}
	var points [2]*edwards25519.Point
	for i, e := range []*tsscrypto.ECPoint{p, q} {
		var err error
		if points[i], err = new(edwards25519.Point).SetBytes(c.encodePoint(e)); err != nil {
			return nil, errPoint
		}
	}
	scalars := []*edwards25519.Scalar{edwardsScalar(x), edwardsScalar(y)}
	return fromEdwards(c.ec(), new(edwards25519.Point).VarTimeMultiScalarMult(scalars, points[:])), nil
}

// mult returns x*p. x must satisfy isScalar.
func (c Curve) mult(x *big.Int, p *tsscrypto.ECPoint) (*tsscrypto.ECPoint, error) {
	if c == Secp256k1 {
		return p.ScalarMult(x), nil
	}
	q, err := new(edwards25519.Point).SetBytes(c.encodePoint(p))
	if err != nil {
		return nil, errPoint
	}
	s := edwardsScalar(x)
	q.ScalarMult(s, q)
	s.Set(edwards25519.NewScalar()) // it may have been a secret
	return fromEdwards(c.ec(), q), nil
}

// newPartyKey returns a uniform scalar in [1, q). The party's share is the value of the sharing polynomial at it.
func newPartyKey(c Curve) (*big.Int, error) {
	k, err := rand.Int(rand.Reader, new(big.Int).Sub(c.order(), big.NewInt(1)))
	if err != nil {
		return nil, fmt.Errorf("party key: %w", err)
	}
	return k.Add(k, big.NewInt(1)), nil
}

var errPoint = errors.New("not a point of the curve's prime-order group in canonical form")

// encodePoint returns p as records and the API have it: SEC1 uncompressed, 65 bytes, or RFC 8032, 32 bytes. p must have
// passed checkPoint.
func (c Curve) encodePoint(p *tsscrypto.ECPoint) []byte {
	if c == Secp256k1 {
		out := make([]byte, 65)
		out[0] = 4
		p.X().FillBytes(out[1:33])
		p.Y().FillBytes(out[33:])
		return out
	}
	out := make([]byte, 32)
	p.Y().FillBytes(out)
	slices.Reverse(out)
	out[31] |= byte(p.X().Bit(0)) << 7 //nolint:gosec // G115: one bit
	return out
}

// decodePoint accepts only the canonical encoding of a point of the prime-order group other than the neutral element.
// tss-lib also accepts negative coordinates, coordinates of p or more, and Edwards points of small order (tss-lib.md,
// row 12).
func (c Curve) decodePoint(b []byte) (*tsscrypto.ECPoint, error) {
	if c == Secp256k1 {
		if len(b) != 65 || b[0] != 4 {
			return nil, errPoint
		}
		k, err := secp256k1.ParsePubKey(b)
		if err != nil {
			return nil, errPoint
		}
		return tsscrypto.NewECPointNoCurveCheck(c.ec(), k.X(), k.Y()), nil
	}
	return decodeEdwards(c.ec(), b)
}

func decodeEdwards(ec elliptic.Curve, b []byte) (*tsscrypto.ECPoint, error) {
	p, err := new(edwards25519.Point).SetBytes(b)
	if err != nil || !bytes.Equal(p.Bytes(), b) {
		return nil, errPoint
	}
	if p.Equal(edwards25519.NewIdentityPoint()) == 1 || !primeOrder(p) {
		return nil, errPoint
	}
	return fromEdwards(ec, p), nil
}

// edwardsScalar converts a scalar that satisfies isScalar.
func edwardsScalar(x *big.Int) *edwards25519.Scalar {
	var b [scalarLen]byte
	x.FillBytes(b[:])
	slices.Reverse(b[:])
	s := must(edwards25519.NewScalar().SetCanonicalBytes(b[:]))
	clear(b[:])
	return s
}

// fromEdwards converts a point to tss-lib's type.
func fromEdwards(ec elliptic.Curve, p *edwards25519.Point) *tsscrypto.ECPoint {
	px, py, pz, _ := p.ExtendedCoordinates()
	inv := new(field.Element).Invert(pz)
	x := new(field.Element).Multiply(px, inv).Bytes()
	y := new(field.Element).Multiply(py, inv).Bytes()
	slices.Reverse(x)
	slices.Reverse(y)
	return tsscrypto.NewECPointNoCurveCheck(ec, new(big.Int).SetBytes(x), new(big.Int).SetBytes(y))
}

// primeOrder reports whether l*p is the neutral element. It computes (l-1)*p + p, since l itself is not a Scalar.
func primeOrder(p *edwards25519.Point) bool {
	minusOne := edwards25519.NewScalar().Negate(edwardsOne)
	q := new(edwards25519.Point).ScalarMult(minusOne, p)
	return q.Add(q, p).Equal(edwards25519.NewIdentityPoint()) == 1
}

var edwardsOne = func() *edwards25519.Scalar {
	b := [32]byte{1}
	s, err := edwards25519.NewScalar().SetCanonicalBytes(b[:])
	if err != nil {
		panic(err) // 1 is a canonical scalar
	}
	return s
}()

// checkPoint checks a point from tss-lib by the rules of decodePoint.
func (c Curve) checkPoint(p *tsscrypto.ECPoint) error {
	if p == nil || !lib.SameCurve(p.Curve(), c.ec()) || !p.ValidateBasic() {
		return errPoint
	}
	top := c.ec().Params().P
	for _, v := range []*big.Int{p.X(), p.Y()} {
		if v.Sign() < 0 || v.Cmp(top) >= 0 {
			return errPoint
		}
	}
	q, err := c.decodePoint(c.encodePoint(p))
	if err != nil || !q.Equals(p) {
		return errPoint
	}
	return nil
}
