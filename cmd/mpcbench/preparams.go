package main

import (
	"context"
	"crypto/rand"
	"math/big"
	"runtime"
	"slices"
	"time"

	"github.com/bnb-chain/tss-lib/v2/crypto/paillier"
	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"

	"github.com/mpcd/mpcd/internal/safeprime"
	"github.com/mpcd/mpcd/internal/tss"
)

// librarySearchTimeout is tss-lib's own.
const librarySearchTimeout = 5 * time.Minute

// preParamsSets compares whole sets of pre-params, each generated on all cores.
func (b *bench) preParamsSets(ctx context.Context) error {
	c := &contest{
		name: "preparams", title: "one set of pre-params", n: b.plan.samples,
		ours: func(ctx context.Context) error {
			pp, err := tss.GeneratePreParams(ctx, 0)
			if err == nil {
				pp.Wipe()
			}
			return err
		},
		theirs: func(context.Context) error {
			_, err := eckeygen.GeneratePreParams(librarySearchTimeout, runtime.GOMAXPROCS(0))
			return err
		},
	}
	return b.pair(ctx, c)
}

// givenPreParams generates a set in tss-lib's form, for bare tss-lib's parties that are given theirs. Its primes come
// from mpcd's search, since tss-lib's takes too long; the cost of a resharing depends only on the sizes.
func givenPreParams(ctx context.Context) (*eckeygen.LocalPreParams, error) {
	for {
		primes, err := safeprime.Find(ctx, safeprime.Options{Bits: 1024, Count: 4})
		if err != nil {
			return nil, err
		}
		// tss-lib requires Paillier primes that are far apart: the smallest and the largest.
		slices.SortFunc(primes, func(a, b safeprime.SafePrime) int { return a.P.Cmp(b.P) })
		if new(big.Int).Sub(primes[3].P, primes[0].P).BitLen() >= 1021 {
			return fromPrimes(primes)
		}
	}
}

// fromPrimes does what tss-lib does with its primes.
func fromPrimes(primes []safeprime.SafePrime) (*eckeygen.LocalPreParams, error) {
	one := big.NewInt(1)
	p, q := primes[0].P, primes[3].P
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	phi := new(big.Int).Mul(p1, q1)
	sk := &paillier.PrivateKey{
		PublicKey: paillier.PublicKey{N: new(big.Int).Mul(p, q)},
		LambdaN:   new(big.Int).Div(phi, new(big.Int).GCD(nil, nil, p1, q1)),
		PhiN:      phi, P: p, Q: q,
	}
	nTilde := new(big.Int).Mul(primes[1].P, primes[2].P)
	pq := new(big.Int).Mul(primes[1].Q, primes[2].Q)
	for {
		f, err := rand.Int(rand.Reader, nTilde)
		if err != nil {
			return nil, err
		}
		alpha, err := rand.Int(rand.Reader, nTilde)
		if err != nil {
			return nil, err
		}
		beta := new(big.Int).ModInverse(alpha, pq)
		if beta == nil || f.Cmp(one) <= 0 {
			continue
		}
		h1 := new(big.Int).Exp(f, big.NewInt(2), nTilde)
		return &eckeygen.LocalPreParams{
			PaillierSK: sk, NTildei: nTilde, H1i: h1, H2i: new(big.Int).Exp(h1, alpha, nTilde),
			Alpha: alpha, Beta: beta, P: primes[1].Q, Q: primes[2].Q,
		}, nil
	}
}

// givenPair generates one set for each of the two new parties.
func givenPair(ctx context.Context) (pre [parties]*eckeygen.LocalPreParams, err error) {
	for i := range pre {
		if pre[i], err = givenPreParams(ctx); err != nil {
			return pre, err
		}
	}
	return pre, nil
}
