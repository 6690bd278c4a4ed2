package tss

import (
	"errors"
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

// checkModulus wants an odd composite number of exactly 2048 bits without small factors.
// With the modulus proof's W a forger needs N = 3pq and luck of 2^-46; without factors
// below 2^16 there is no chance left.
func checkModulus(n *big.Int) error {
	if n.BitLen() != modulusBits || n.Bit(0) == 0 {
		return errors.New("is not odd with 2048 bits")
	}
	if !coprime(primorial(), n) {
		return errors.New("has a small factor")
	}
	// Fermat's test, to base 2: a prime passes always, a product of two large primes never.
	one := big.NewInt(1)
	if new(big.Int).Exp(big.NewInt(2), new(big.Int).Sub(n, one), n).Cmp(one) == 0 {
		return errors.New("is not composite")
	}
	return nil
}

// primorial returns the product of the odd primes below 2^16, in 92,000 bits.
var primorial = sync.OnceValue(func() *big.Int {
	var composite [smallFactors]bool
	product := big.NewInt(1)
	for p := 3; p < smallFactors; p += 2 {
		if composite[p] {
			continue
		}
		product.Mul(product, big.NewInt(int64(p)))
		for k := p * p; k < smallFactors; k += 2 * p {
			composite[k] = true
		}
	}
	return product
})
