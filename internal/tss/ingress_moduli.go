package tss

import (
	"errors"
	"iter"
	"math/big"
	"sync"
)

// newKeys is a message with the public keys of a new party.
type newKeys interface {
	GetPaillierN() []byte
	GetNTilde() []byte
	GetH1() []byte
	GetH2() []byte
}

// moduli checks the other side's new keys (tss-lib.md, row 18), and keeps the moduli.
// tss-lib's proofs of them can be forged, or say nothing about sizes: a Paillier key
// with planted factors leaks what is encrypted under it.
func (g *ingress) moduli(r *reader, m newKeys) {
	n, nTilde := r.integer("N", m.GetPaillierN(), modulusLen), r.integer("NTilde", m.GetNTilde(), modulusLen)
	h1, h2 := r.integer("h1", m.GetH1(), modulusLen), r.integer("h2", m.GetH2(), modulusLen)
	if r.err != nil {
		return
	}
	for i, x := range []*big.Int{n, nTilde} {
		what := [2]string{"N", "NTilde"}[i]
		if err := checkModulus(x); err != nil {
			r.fail("%s %v", what, err)
			return
		}
		for _, own := range g.own {
			if !coprime(own, x) {
				r.fail("%s has a factor in common with our own", what)
				return
			}
		}
	}
	if !coprime(n, nTilde) {
		r.fail("N and NTilde have a common factor")
	}
	top := new(big.Int).Sub(nTilde, big.NewInt(1))
	for _, h := range []*big.Int{h1, h2} {
		if h.Cmp(big.NewInt(1)) <= 0 || h.Cmp(top) >= 0 || !coprime(h, nTilde) {
			r.fail("h1 or h2 is not a unit mod NTilde, or trivial")
		}
	}
	if h1.Cmp(h2) == 0 {
		r.fail("h1 equals h2")
	}
	if r.err == nil && (smallOrder(h1, nTilde) || smallOrder(h2, nTilde)) {
		r.fail("h1 or h2 has a small order")
	}
	if r.err == nil {
		g.n, g.nTilde = n, nTilde
	}
}

// nonResidue wants Jacobi(W, N) = -1 for the W of a modulus proof: tss-lib refuses only
// 1, and a W that shares a factor with N, for which it is 0, makes the proof forgeable.
func (g *ingress) nonResidue(r *reader, proof [][]byte) {
	if r.err != nil {
		return
	}
	if g.n == nil {
		r.fail("a modulus proof without a modulus")
		return
	}
	w := new(big.Int).SetBytes(proof[0])
	if w.Cmp(g.n) >= 0 || big.Jacobi(w, g.n) != -1 {
		r.fail("the modulus proof's W is no non-residue mod N")
	}
}

// checkModulus wants an odd composite number of exactly 2048 bits that is no power and has
// no small factors. With the modulus proof's W a forger of a Paillier N needs N = 3pq and
// luck of 2^-46; without factors below 2^20 there is no chance left. Of NTilde nothing else
// is proven, and nothing else need be: see docs/adr/0007-hostile-callers.md.
func checkModulus(n *big.Int) error {
	if n.BitLen() != modulusBits || n.Bit(0) == 0 {
		return errors.New("is not odd with 2048 bits")
	}
	if hasSmallFactor(n) {
		return errors.New("has a small factor")
	}
	// Fermat's test, to base 2: a prime passes always, a product of two large primes never.
	one := big.NewInt(1)
	if new(big.Int).Exp(big.NewInt(2), new(big.Int).Sub(n, one), n).Cmp(one) == 0 {
		return errors.New("is not composite")
	}
	if isPower(n) {
		return errors.New("is a power")
	}
	return nil
}

// hasSmallFactor reports whether a prime below smallFactors divides n, which is odd and not 1.
func hasSmallFactor(n *big.Int) bool {
	product := big.NewInt(1)
	for _, p := range smallPrimes() {
		product.Mod(product.Mul(product, p), n)
	}
	return !coprime(product, n)
}

// smallPrimes returns the primes below smallFactors, multiplied together in portions of
// about a modulus' length, which are the cheapest to divide by one.
var smallPrimes = sync.OnceValue(func() (portions []*big.Int) {
	portion := big.NewInt(1)
	for p := range primesBelow(smallFactors) {
		if portion.Mul(portion, big.NewInt(p)); portion.BitLen() >= modulusBits {
			portions = append(portions, portion)
			portion = big.NewInt(1)
		}
	}
	return append(portions, portion)
})

// primesBelow yields the primes below limit (the sieve of Eratosthenes).
func primesBelow(limit int64) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		composite := make([]bool, limit)
		for p := int64(2); p < limit; p++ {
			if composite[p] {
				continue
			}
			if !yield(p) {
				return
			}
			for k := p * p; k < limit; k += p {
				composite[k] = true
			}
		}
	}
}

// isPower reports whether n is x^k with k > 1, for an n without factors below smallFactors,
// so that k is at most 102. It is enough to try the prime k.
func isPower(n *big.Int) bool {
	for k := range primesBelow(modulusBits/smallFactorBits + 1) {
		x := root(n, k)
		if x.Exp(x, big.NewInt(k), nil).Cmp(n) == 0 {
			return true
		}
	}
	return false
}

// root returns the k-th root of n, rounded down, by Newton's method from above it.
func root(n *big.Int, k int64) *big.Int {
	less, all := big.NewInt(k-1), big.NewInt(k)
	x := new(big.Int).Lsh(big.NewInt(1), uint(n.BitLen())/uint(k)+1) //nolint:gosec // G115: k is a small prime
	for {
		y := new(big.Int).Exp(x, less, nil)
		y.Div(n, y)
		y.Add(y, new(big.Int).Mul(x, less)).Div(y, all)
		if y.Cmp(x) >= 0 {
			return x
		}
		x = y
	}
}

// smallOrder reports whether h, modulo n or a factor of n, has an order that divides
// smallOrders: every order below maxSmallOrder does. Modulo safe primes only 1 and -1 have one.
func smallOrder(h, n *big.Int) bool {
	x := new(big.Int).Exp(h, smallOrders(), n)
	return !coprime(x.Sub(x, big.NewInt(1)), n)
}

// smallOrders returns the least common multiple of the numbers below maxSmallOrder.
var smallOrders = sync.OnceValue(func() *big.Int {
	lcm := big.NewInt(1)
	for p := range primesBelow(maxSmallOrder) {
		for q := p; q < maxSmallOrder; q *= p {
			lcm.Mul(lcm, big.NewInt(p))
		}
	}
	return lcm
})
