package tss

import (
	"fmt"
	"math/big"
	"slices"

	tsscrypto "github.com/bnb-chain/tss-lib/v2/crypto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The maximum lengths of honest values, in bytes, and of lists (tss-lib.md, row 20). Unbounded integers would cost
// tss-lib seconds to minutes.
const (
	hashLen    = 32 // of commitments, their randomness, and session ids
	fourNLen   = 2 * modulusLen
	bitsLen    = 11 // of a modulus proof's A and B: 80 bits and a leading one
	rangeS1Len = 96 // q^3
	rangeT1Len = 224
	blindedLen = 353 // q^3 * NTilde, and a carry
	dlnParts   = 128
	modProofXs = 80
	vssPoints  = 2 // coefficients of a polynomial of degree 1
)

// The bounds of the searches in checkNewKeys, which take some milliseconds.
const (
	smallFactorBits = 20
	smallFactors    = 1 << smallFactorBits // a modulus must have no factor below this
	maxSmallOrder   = 1 << 11              // h1 and h2 must have no order below this
)

var (
	// A DLN proof is a list of alphas and a list of ts, each preceded by its length.
	dlnLimits = slices.Concat([]int{1}, repeat(modulusLen, dlnParts), []int{1}, repeat(modulusLen, dlnParts))
	// W, X, A, B, Z.
	modLimits = slices.Concat(repeat(modulusLen, 1+modProofXs), []int{bitsLen, bitsLen}, repeat(modulusLen, modProofXs))
	// P, Q, A, B, T, Sigma, Z1, Z2, W1, W2, V.
	facLimits = append(repeat(modulusLen, 5), 544, 224, 224, blindedLen, blindedLen, 609)
	// The proof of GG18 that N and phi(N) are coprime.
	paillierLimits = repeat(modulusLen, 13)
	// Z, U, W, S, S1, S2.
	aliceLimits = []int{modulusLen, fourNLen, modulusLen, modulusLen, rangeS1Len, blindedLen}
	// Z, ZPrm, T, V, W, S, S1, S2, T1, T2; with check also U's coordinates.
	bobLimits = []int{
		modulusLen, modulusLen, modulusLen, fourNLen, modulusLen, modulusLen, rangeS1Len, blindedLen, rangeT1Len, blindedLen,
	}
	bobWCLimits = append(slices.Clone(bobLimits), scalarLen, scalarLen)
)

// bobS1 is the index of S1 in Bob's proofs.
const bobS1 = 6

func repeat(limit, n int) []int { return slices.Repeat([]int{limit}, n) }

// reader checks the values of one message. It keeps the first error; values that it returns after one are meaningless.
type reader struct {
	curve   Curve
	message protoreflect.Name
	err     error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %s", r.message, fmt.Sprintf(format, args...))
	}
}

// bytes checks a positive integer as tss-lib encodes it: at most limit bytes, no leading zero. An honest run has a
// value of zero, which is rejected, with probability 2^-250.
func (r *reader) bytes(what string, b []byte, limit int) {
	switch {
	case len(b) == 0 || len(b) > limit:
		r.fail("%s has %d bytes, want 1 to %d", what, len(b), limit)
	case b[0] == 0:
		r.fail("%s has a leading zero", what)
	}
}

func (r *reader) integer(what string, b []byte, limit int) *big.Int {
	if r.bytes(what, b, limit); r.err != nil {
		return new(big.Int)
	}
	return new(big.Int).SetBytes(b)
}

// list checks a list of integers, with exactly one part for each limit.
func (r *reader) list(what string, parts [][]byte, limits []int) {
	if len(parts) != len(limits) {
		r.fail("%s has %d parts, want %d", what, len(parts), len(limits))
		return
	}
	for i, p := range parts {
		if r.bytes(what, p, limits[i]); r.err != nil {
			return
		}
	}
}

// scalar checks that 0 < x < q: tss-lib panics on multiples of q, and accepts any length.
func (r *reader) scalar(what string, b []byte) *big.Int {
	x := r.integer(what, b, scalarLen)
	if r.err == nil && !r.curve.isScalar(x) {
		r.fail("%s is not in (0, q)", what)
	}
	return x
}

// point checks for a point of the prime-order group in canonical coordinates: tss-lib accepts others (tss-lib.md, row
// 12), and dereferences nil for an R that is not on the curve.
func (r *reader) point(what string, x, y []byte) {
	px, py := r.integer(what, x, scalarLen), r.integer(what, y, scalarLen)
	if r.err != nil {
		return
	}
	if r.curve.checkPoint(tsscrypto.NewECPointNoCurveCheck(r.curve.ec(), px, py)) != nil {
		r.fail("%s is not a point of the group", what)
	}
}

// decommitment checks for the randomness and exactly n points: tss-lib indexes the opened list without checking its
// length.
func (r *reader) decommitment(parts [][]byte, n int) {
	const what = "decommitment"
	if r.list(what, parts, repeat(scalarLen, 1+2*n)); r.err != nil {
		return
	}
	for xy := range slices.Chunk(parts[1:], 2) {
		r.point(what, xy[0], xy[1])
	}
}

// schnorr checks the form of a proof of knowledge: tss-lib panics on a response of zero.
func (r *reader) schnorr(alphaX, alphaY, t []byte) {
	r.point("alpha", alphaX, alphaY)
	r.scalar("t", t)
}

// dln checks the form of a DLN proof: tss-lib slices by the lengths in it, and panics on a negative one.
func (r *reader) dln(what string, parts [][]byte) {
	if r.list(what, parts, dlnLimits); r.err != nil {
		return
	}
	if parts[0][0] != dlnParts || parts[1+dlnParts][0] != dlnParts {
		r.fail("%s has lists of the wrong length", what)
	}
}

// ciphertext checks for a unit mod N^2: tss-lib inverts it, and computes with the nil result for others.
func (r *reader) ciphertext(what string, b []byte, n *big.Int) {
	c := r.integer(what, b, fourNLen)
	if r.err == nil && (c.Cmp(new(big.Int).Mul(n, n)) >= 0 || !coprime(c, n)) {
		r.fail("%s is not a unit mod N^2", what)
	}
}

func coprime(x, n *big.Int) bool {
	return new(big.Int).GCD(nil, nil, new(big.Int).Mod(x, n), n).Cmp(big.NewInt(1)) == 0
}
