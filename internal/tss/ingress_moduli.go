package tss

import (
	"errors"
	"iter"
	"math/big"
	"sync"
)

// newKeys is a message with a new party's Paillier and ring-Pedersen parameters.
type newKeys interface {
	GetPaillierN() []byte
	GetNTilde() []byte
	GetH1() []byte
	GetH2() []byte
}

// checkNewKeys checks the other side's new keys (tss-lib.md, row 18), and keeps the moduli. tss-lib's proofs can be
// forged and do not cover sizes, and a Paillier key with planted factors leaks what is encrypted under it.
func (g *ingress) checkNewKeys(r *reader, m newKeys) {
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

// checkNonResidue checks that Jacobi(W, N) = -1 for the W of a modulus proof. tss-lib only rejects 1: a W that shares a
// factor with N has the symbol 0, and with it the proof can be forged.
func (g *ingress) checkNonResidue(r *reader, proof [][]byte) {
	if r.err != nil {
		return
	}
	if g.n == nil {
		r.fail("a modulus proof without a modulus")
		return
	}
	w := new(big.Int).SetBytes(proof[0])
	if w.Cmp(g.n) >= 0 || big.Jacobi(w, g.n) != -1 {
		r.fail("the modulus proof's W does not have Jacobi symbol -1 mod N")
	}
}

// checkModulus checks that n is an odd composite number of exactly 2048 bits, not a power, and without small factors.
// With the check of W, a forged proof for a Paillier N needs N = 3pq and succeeds with probability 2^-46; without
// factors below 2^20 it is negligible. For NTilde nothing more needs to be proven: see
// docs/adr/0007-hostile-callers.md.
func checkModulus(n *big.Int) error {
	if n.BitLen() != modulusBits || n.Bit(0) == 0 {
		return errors.New("is not odd with 2048 bits")
	}
	if hasSmallFactor(n) {
		return errors.New("has a small factor")
	}
	// Fermat's test to base 2, which every prime passes, and the product of two large random primes does not.
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

// smallPrimes returns products of the primes below smallFactors. Each is about as long as a modulus, which makes the
// reduction in hasSmallFactor cheapest.
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

// root returns the k-th root of n, rounded down, by Newton's method from above.
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

// smallOrder reports whether h has, modulo n or a factor of n, an order that divides smallOrders, as every order below
// maxSmallOrder does. Modulo safe primes only 1 and -1 have such an order.
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
