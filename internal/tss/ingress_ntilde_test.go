package tss

import (
	"crypto/rand"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bnb-chain/tss-lib/v2/crypto/dlnproof"
	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
)

// weak are ring-Pedersen parameters for which both DLN proofs can be made, although NTilde is not a product of two safe
// primes, or h1 and h2 do not generate its squares. order is a multiple of the order of h1.
type weak struct{ nTilde, h1, h2, order *big.Int }

// generated returns parameters with h2 = h1^alpha, for an alpha with an inverse.
func generated(nTilde, h1, order *big.Int) weak {
	for alpha := big.NewInt(3); ; alpha.Add(alpha, big.NewInt(2)) {
		if coprime(alpha, order) {
			return weak{nTilde, h1, new(big.Int).Exp(h1, alpha, nTilde), order}
		}
	}
}

func randomPrime(t testing.TB, bits int) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, bits)
	require.NoError(t, err)
	return p
}

// randomBits returns a number of exactly the given number of bits, of which the two highest are 1.
func randomBits(t testing.TB, bits int) *big.Int {
	t.Helper()
	x, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
	require.NoError(t, err)
	return x.SetBit(x.SetBit(x, bits-1, 1), bits-2, 1)
}

func product(xs ...*big.Int) *big.Int {
	n := big.NewInt(1)
	for _, x := range xs {
		n.Mul(n, x)
	}
	return n
}

func minus1(x *big.Int) *big.Int { return new(big.Int).Sub(x, big.NewInt(1)) }

// powerOf returns p^k with exactly 2048 bits, for the largest such prime p, and its phi.
func powerOf(t testing.TB, k int64) (n, phi *big.Int) {
	t.Helper()
	p := root(minus1(new(big.Int).Lsh(big.NewInt(1), modulusBits)), k)
	for !p.ProbablyPrime(1) {
		p.Sub(p, big.NewInt(1))
	}
	less := new(big.Int).Exp(p, big.NewInt(k-1), nil)
	n = product(p, less)
	require.Equal(t, modulusBits, n.BitLen())
	return n, product(minus1(p), less)
}

// smooth returns a product, of exactly 2048 bits, of primes of the given number of bits, and its phi.
func smooth(t testing.TB, bits int) (n, phi *big.Int) {
	t.Helper()
	for {
		n, phi = big.NewInt(1), big.NewInt(1)
		for n.BitLen()+bits <= modulusBits+1 {
			if p := randomPrime(t, bits); coprime(p, n) {
				n.Mul(n, p)
				phi.Mul(phi, minus1(p))
			}
		}
		if rest := modulusBits - n.BitLen(); rest > 1 {
			p := randomPrime(t, rest+1)
			n.Mul(n, p)
			phi.Mul(phi, minus1(p))
		}
		if n.BitLen() == modulusBits {
			return n, phi
		}
	}
}

// withOrder returns a modulus of two primes, and an h of the given prime order modulo each.
func withOrder(t testing.TB, order int64) (n, h *big.Int) {
	t.Helper()
	r := big.NewInt(order)
	step := new(big.Int).Lsh(r, 1)
	prime := func() (p, g *big.Int) {
		for {
			p = randomBits(t, 1024)
			p.Sub(p, new(big.Int).Mod(p, step)).Add(p, big.NewInt(1)) // 1 mod r
			if !p.ProbablyPrime(1) {
				continue
			}
			for base := big.NewInt(2); ; base.Add(base, big.NewInt(1)) {
				if g = new(big.Int).Exp(base, new(big.Int).Div(minus1(p), r), p); g.Cmp(big.NewInt(1)) != 0 {
					return p, g
				}
			}
		}
	}
	p, g := prime()
	q, f := prime()
	n = new(big.Int).Mul(p, q)
	// h is g mod p, and f mod q (the Chinese remainder theorem).
	u := new(big.Int).Mul(new(big.Int).ModInverse(q, p), q)
	v := new(big.Int).Mul(new(big.Int).ModInverse(p, q), p)
	h = u.Mul(u, g).Add(u, v.Mul(v, f))
	return n, h.Mod(h, n)
}

// NTildes that are not a product of two safe primes, but for which both DLN proofs can be made. Those that are cheap to
// detect are rejected; the others harm only their sender (docs/adr/0007-hostile-callers.md).
func TestRow18WeakNTilde(t *testing.T) {
	t.Parallel()
	n := semiprime(t)
	check := func(w weak) error {
		m := &eckeygen.KGRound1Message{PaillierN: n.Bytes(), NTilde: w.nTilde.Bytes(), H1: w.h1.Bytes(), H2: w.h2.Bytes()}
		g, r := &ingress{curve: Secp256k1, proto: keygens[Secp256k1]}, &reader{curve: Secp256k1}
		g.checkNewKeys(r, m)
		return r.err
	}
	require.NoError(t, check(generated(semiprime(t), big.NewInt(4), big.NewInt(1))))
	for _, k := range []int64{2, 3, 5, 64, 101} {
		nTilde, phi := powerOf(t, k)
		require.ErrorContains(t, check(generated(nTilde, big.NewInt(4), phi)), "NTilde is a power", "%d", k)
	}
	for _, bits := range []int{17, 20} {
		nTilde, phi := smooth(t, bits)
		require.ErrorContains(t, check(generated(nTilde, big.NewInt(4), phi)), "NTilde has a small factor", "%d bits", bits)
	}
	for _, order := range []int64{3, 2039} {
		nTilde, h := withOrder(t, order)
		require.ErrorContains(t, check(generated(nTilde, h, big.NewInt(order))), "a small order", "h1 of order %d", order)
		// One of the two alone, with a large order of the other one.
		require.ErrorContains(t, check(weak{nTilde, h, big.NewInt(4), nil}), "a small order", "h1 of order %d", order)
		require.ErrorContains(t, check(weak{nTilde, big.NewInt(4), h, nil}), "a small order", "h2 of order %d", order)
	}
	// Modulo one of the factors.
	p, q := randomPrime(t, 1024), randomPrime(t, 1024) // their two highest bits are 1, so that the product has 2048 bits
	require.ErrorContains(t, check(weak{product(p, q), p, big.NewInt(4), nil}), "not a unit")
	require.ErrorContains(t, check(weak{product(p, q), big.NewInt(4), q, nil}), "not a unit")
	one := new(big.Int).Mul(p, big.NewInt(3)) // 1 mod p, but not mod q
	one.Add(one, big.NewInt(1))
	require.ErrorContains(t, check(generated(product(p, q), one, product(minus1(p), minus1(q)))), "a small order")
}

// The bounds of the searches: the largest primes below them, and the smallest above.
func TestRow18SmallFactors(t *testing.T) {
	t.Parallel()
	cofactor := semiprime(t)
	for p, small := range map[int64]bool{3: true, 65537: true, 1<<20 - 3: true, 1<<20 + 7: false} {
		require.True(t, big.NewInt(p).ProbablyPrime(20))
		require.Equal(t, small, hasSmallFactor(product(cofactor, big.NewInt(p))), "%d", p)
	}
	require.False(t, hasSmallFactor(cofactor))
	require.True(t, hasSmallFactor(big.NewInt(3*5*7)), "only small factors")
	require.False(t, isPower(cofactor))
	require.Zero(t, root(big.NewInt(7*7*7*7*7), 5).Cmp(big.NewInt(7)))
	require.Zero(t, root(big.NewInt(7*7*7*7*7-1), 5).Cmp(big.NewInt(6)))
	require.Zero(t, root(big.NewInt(8*8*8*8*8-1), 5).Cmp(big.NewInt(7)))
	for _, order := range []int64{1 << 10, 3 * 5 * 7, 1999, 2039, 2047} { // below the bound, the last prime included
		require.Zero(t, new(big.Int).Mod(smallOrders(), big.NewInt(order)).Sign(), "%d", order)
	}
	require.NotZero(t, new(big.Int).Mod(smallOrders(), big.NewInt(2053)).Sign(), "the next prime")
}

// tss-lib accepts both proofs for such parameters, since they only show that h1 and h2 are powers of each other; real
// parties finish a resharing with them.
func TestRow18BareWeakNTilde(t *testing.T) {
	t.Parallel()
	p := randomPrime(t, 128)
	square := new(big.Int).Mul(p, p)
	order := new(big.Int).Mul(p, minus1(p))
	w := generated(square, big.NewInt(4), order)
	alpha := big.NewInt(3)
	for !coprime(alpha, order) {
		alpha.Add(alpha, big.NewInt(2))
	}
	beta := new(big.Int).ModInverse(alpha, order)
	require.True(t, dlnproof.NewDLNProof(w.h1, w.h2, alpha, p, minus1(p), square, rand.Reader).Verify(w.h1, w.h2, square))
	require.True(t, dlnproof.NewDLNProof(w.h2, w.h1, beta, p, minus1(p), square, rand.Reader).Verify(w.h2, w.h1, square))

	pre := small(t)
	pre[hostile].NTildei, pre[hostile].H1i, pre[hostile].H2i = square, w.h1, w.h2
	pre[hostile].P, pre[hostile].Q, pre[hostile].Alpha, pre[hostile].Beta = p, minus1(p), alpha, beta
	b, ends := bareResharing(t, pre)
	stack, err := b.run(t)
	require.NoError(t, err)
	require.Empty(t, stack)
	got := <-ends[victim]
	require.NotNil(t, got.Xi)
	require.Equal(t, square, got.NTildej[0])
}
