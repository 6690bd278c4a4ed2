package safeprime

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/big"
	"runtime"
	"sync"
)

// Find returns opts.Count different safe primes, or an error and none: the context's own error if it ends first,
// ErrOptions, or ErrRandomSource. When it returns, every goroutine that it started has ended.
func Find(ctx context.Context, opts Options) ([]SafePrime, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	src, err := newSource(opts.Rand)
	if err != nil {
		return nil, err
	}

	searching, stop := context.WithCancel(ctx)
	results := make(chan result)
	var workers sync.WaitGroup
	for range opts.Workers {
		// Ends when searching does, or when the source fails.
		workers.Go(func() { newSearcher(opts.Bits, src).serve(searching, results) })
	}
	defer workers.Wait()
	defer stop()
	return collect(ctx, opts, results)
}

// complete sets defaults and rejects invalid options.
func (o *Options) complete() error {
	switch {
	case o.Bits < MinBits || o.Bits > MaxBits:
		return fmt.Errorf("%w: Bits is %d, want %d to %d", ErrOptions, o.Bits, MinBits, MaxBits)
	case o.Count < 1:
		return fmt.Errorf("%w: Count is %d, want at least 1", ErrOptions, o.Count)
	case o.Workers < 0:
		return fmt.Errorf("%w: Workers is %d, want 0 or more", ErrOptions, o.Workers)
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return nil
}

// result is a searcher's prime or error.
type result struct {
	prime SafePrime
	err   error
}

// collect collects results until there are enough. On an error it wipes those it has and returns none.
func collect(ctx context.Context, opts Options, results <-chan result) (found []SafePrime, err error) {
	defer func() {
		if err != nil {
			for _, s := range found {
				s.Wipe()
			}
			found = nil
		}
	}()
	for len(found) < opts.Count {
		var r result
		select {
		case <-ctx.Done():
			return found, ctx.Err()
		case r = <-results:
		}
		if r.err != nil {
			return found, r.err
		}
		if err := checkShape(r.prime.P, r.prime.Q, opts.Bits); err != nil {
			return found, err // cannot happen; a wrong size must not leave this package
		}
		for _, s := range found {
			if s.P.Cmp(r.prime.P) == 0 {
				return found, fmt.Errorf("%w: the same prime came twice", ErrRandomSource)
			}
		}
		found = append(found, r.prime)
	}
	return found, nil
}

// The searcher's constants.
var (
	one   = big.NewInt(1)
	two   = big.NewInt(2)
	three = big.NewInt(3)
	six   = big.NewInt(6)
)

// searcher is one worker's window and scratch space. It belongs to one goroutine.
type searcher struct {
	src   *source
	sieve sieve

	first *big.Int // the lowest start
	span  *big.Int // the number of starts
	mask  *big.Int // as many one bits as span has bits

	buf    []byte   // the current start, big-endian, as read from src
	words  []uint64 // the same, most significant word first, for the sieve
	u0     big.Int  // the same, for the candidates
	p, q   big.Int  // the current candidate
	e, pow big.Int  // scratch of isFermat
}

// newSearcher sizes the window and the sieve; ADR 0002 has the measurements. A window of bits^2/8 candidates contains
// two safe primes on average, for any size.
func newSearcher(bits int, src *source) *searcher {
	window := min(bits*bits/8, 1<<19)
	limit := min(4*bits*bits, primeBound)
	return newSearcherWith(bits, src, window, uint32(limit)) //nolint:gosec // G115: the sieve bound is 2^22
}

func newSearcherWith(bits int, src *source, window int, limit uint32) *searcher {
	// p = 12u-1 has its two top bits set if u > 2^(bits-4), for 12*2^(bits-4) is
	// 3*2^(bits-2); and it has no more than bits bits if u <= 2^bits/12, which is
	// 2^(bits-4) and a third. The last window ends there.
	base := new(big.Int).Lsh(one, uint(bits-4))
	span := new(big.Int).Div(base, three)
	span.Sub(span, big.NewInt(int64(window-1)))
	mask := new(big.Int).Lsh(one, uint(span.BitLen()))
	words := (bits - 3 + 63) / 64
	return &searcher{
		src:   src,
		sieve: sieve{primes: smallPrimesTo(limit), hit: make([]bool, window)},
		first: base.Add(base, one),
		span:  span,
		mask:  mask.Sub(mask, one),
		buf:   make([]byte, 8*words),
		words: make([]uint64, words),
	}
}

// serve sends safe primes until ctx ends or the source fails.
func (s *searcher) serve(ctx context.Context, results chan<- result) {
	defer s.wipe()
	for {
		prime, err := s.next(ctx)
		select {
		case <-ctx.Done():
			prime.Wipe()
			return
		case results <- result{prime, err}:
		}
		if err != nil {
			return
		}
	}
}

// next finds one safe prime. Every window has a fresh random start, and at most one prime is taken from a window: two
// from one window would share all but some 20 low bits. That also bounds the bias of searching upwards from a start:
// a prime can only result from the starts less than a window below it, so none is more than 2.4 times as likely as
// the average, however long the gap before it (ADR 0002).
func (s *searcher) next(ctx context.Context) (SafePrime, error) {
	for {
		if err := s.draw(); err != nil {
			return SafePrime{}, err
		}
		if err := s.sieve.run(ctx, s.words); err != nil {
			return SafePrime{}, err
		}
		for k, hit := range s.sieve.hit {
			if hit {
				continue
			}
			if ok, err := s.try(ctx, k); err != nil {
				return SafePrime{}, err
			} else if ok {
				return SafePrime{P: new(big.Int).Set(&s.p), Q: new(big.Int).Set(&s.q)}, nil
			}
		}
	}
}

// draw sets the start, uniformly among all starts.
func (s *searcher) draw() error {
	const tries = 64 // a third of the draws fall outside; 64 in a row once in 2^101
	for range tries {
		if err := s.src.fill(s.buf); err != nil {
			return err
		}
		s.u0.SetBytes(s.buf)
		s.u0.And(&s.u0, s.mask)
		if s.u0.Cmp(s.span) >= 0 {
			continue
		}
		s.u0.Add(&s.u0, s.first)
		s.u0.FillBytes(s.buf)
		for i := range s.words {
			s.words[i] = binary.BigEndian.Uint64(s.buf[8*i:])
		}
		return nil
	}
	return fmt.Errorf("%w: no number in range in %d draws", ErrRandomSource, tries)
}

// try sets p and q to candidate k of the window and reports whether they are a safe prime. The Fermat tests reject
// almost all; q goes first because, one bit shorter, it takes a tenth less time (ADR 0002). With q prime, the Fermat
// test of p already proves that p is prime (Pocklington: 2^(p-1) = 1 mod p, q divides p-1, q > sqrt(p)-1, gcd(2^2-1,
// p) = 1), so only the primality of q is probabilistic. Both get the full test nonetheless. No test can be
// interrupted; the longest takes some 32 exponentiations.
func (s *searcher) try(ctx context.Context, k int) (bool, error) {
	s.q.SetInt64(int64(k))
	s.q.Add(&s.q, &s.u0)
	s.q.Mul(&s.q, six)
	s.q.Sub(&s.q, one)
	s.p.Lsh(&s.q, 1)
	s.p.Add(&s.p, one)

	for _, test := range []func() bool{
		func() bool { return s.isFermat(&s.q) },
		func() bool { return s.isFermat(&s.p) },
		func() bool { return s.q.ProbablyPrime(rounds) },
		func() bool { return s.p.ProbablyPrime(rounds) },
	} {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if !test() {
			return false, nil
		}
	}
	return true, nil
}

// isFermat reports whether 2^(n-1) = 1 mod n.
func (s *searcher) isFermat(n *big.Int) bool {
	s.e.Sub(n, one)
	return s.pow.Exp(two, &s.e, n).Cmp(one) == 0
}

// wipe overwrites the last window and candidate.
func (s *searcher) wipe() {
	clear(s.buf)
	clear(s.words)
	clear(s.sieve.hit)
	for _, x := range []*big.Int{&s.u0, &s.p, &s.q, &s.e, &s.pow} {
		wipe(x)
	}
}
