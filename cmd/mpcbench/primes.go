package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"math/big"

	"github.com/bnb-chain/tss-lib/v2/common"

	"github.com/mpcd/mpcd/internal/safeprime"
)

// expBatch is how many exponentiations are timed together: some 20 ms at 1024 bits.
const expBatch = 64

// Primes is the cost of one safe prime, in exponentiations of its size: a measure that does not depend on the
// machine.
type Primes struct {
	Bits            int      `json:"bits"`
	Primes          []Sample `json:"primes"`          // one prime each
	Exponentiations []Sample `json:"exponentiations"` // Batch exponentiations each
	Batch           int      `json:"batch"`

	PrimeCPU Summary `json:"primeCpu"` // seconds for one
	ExpCPU   Summary `json:"expCpu"`   // seconds for one
	Ratio    float64 `json:"ratio"`    // of the means
}

func (p *Primes) compare() {
	p.PrimeCPU = summarize(values(p.Primes, func(s Sample) float64 { return s.CPU }))
	p.ExpCPU = summarize(values(p.Exponentiations, func(s Sample) float64 { return s.CPU / float64(p.Batch) }))
	p.Ratio = p.PrimeCPU.Mean / p.ExpCPU.Mean
}

// safePrimes searches for one prime at a time on one core. Exponentiations are timed after each, and tss-lib's search
// runs after every few, so that all are measured under the same conditions.
func (b *bench) safePrimes(ctx context.Context) error {
	p := &Primes{Bits: b.plan.bits, Batch: expBatch}
	pair := &Pair{Name: "prime", Title: fmt.Sprintf("one %d-bit safe prime, one core", p.Bits)}
	every := max(1, b.plan.primes/b.plan.samples)
	for i := range b.plan.primes {
		ours, err := sample(ctx, nil, func(ctx context.Context) error { return findOurs(ctx, p.Bits) })
		if err != nil {
			return fmt.Errorf("safe prime: %w", err)
		}
		p.Primes = append(p.Primes, ours)
		exps, err := timeExponentiations(p.Bits)
		if err != nil {
			return fmt.Errorf("exponentiations: %w", err)
		}
		p.Exponentiations = append(p.Exponentiations, exps)
		if i%every != 0 || len(pair.Ours) == b.plan.samples {
			continue
		}
		theirs, err := sample(ctx, nil, func(ctx context.Context) error { return findTheirs(ctx, p.Bits) })
		if err != nil {
			return fmt.Errorf("tss-lib's safe prime: %w", err)
		}
		pair.Ours, pair.Theirs = append(pair.Ours, ours), append(pair.Theirs, theirs)
		b.log.step("prime %d/%d: mpcd %s s, tss-lib %s s", i+1, b.plan.primes, number(ours.Wall), number(theirs.Wall))
	}
	p.compare()
	pair.compare()
	b.report.Primes, b.report.Pairs = p, append(b.report.Pairs, pair)
	return nil
}

func findOurs(ctx context.Context, bits int) error {
	_, err := safeprime.Find(ctx, safeprime.Options{Bits: bits, Count: 1, Workers: 1})
	return err
}

func findTheirs(ctx context.Context, bits int) error {
	_, err := common.GetRandomSafePrimesConcurrent(ctx, bits, 1, 1, rand.Reader)
	return err
}

// timeExponentiations times x^y mod m with x, y and m random, y and m of exactly that many bits, and m odd.
func timeExponentiations(bits int) (Sample, error) {
	var in [expBatch][3]*big.Int
	limit := new(big.Int).Lsh(big.NewInt(1), uint(bits))
	for i := range in {
		for j := range in[i] {
			x, err := rand.Int(rand.Reader, limit)
			if err != nil {
				return Sample{}, err
			}
			in[i][j] = x.SetBit(x, bits-1, 1)
		}
		in[i][2].SetBit(in[i][2], 0, 1)
	}
	out := new(big.Int)
	return measure(func() error {
		for _, x := range in {
			out.Exp(x[0], x[1], x[2])
		}
		return nil
	})
}
