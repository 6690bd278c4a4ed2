package safeprime

import (
	"context"
	"math/bits"
	"slices"
	"sync"
)

// A safe prime above 7 has q odd and q = 2 mod 3, because otherwise 2 or 3 divides q or 2q+1. So q = 6u-1 and p =
// 12u-1 for some u, and the sieve runs over u: it removes u if a small prime r divides q (u = 1/6 mod r) or p (u =
// 1/12 mod r). This is the combined sieve of Wiener, "Safe prime generation with a combined sieve", eprint 2003/186,
// on a window of consecutive u.

// primeBound is the upper end of the table of small primes: 295,945 of them, 1.2 MB. ADR 0002 has the measurements.
const primeBound = 1 << 22

// smallPrimes returns the primes from 5 up to primeBound. They are computed on the first call and never change.
var smallPrimes = sync.OnceValue(func() []uint32 {
	primes := make([]uint32, 0, 295945)
	composite := make([]bool, primeBound/2) // index i stands for 2i+1
	for i := 1; i < len(composite); i++ {
		if composite[i] {
			continue
		}
		r := uint64(2*i + 1) // 64 bits for its square, on phones too
		for j := r * r / 2; j < primeBound/2; j += r {
			composite[j] = true
		}
		if r > 3 {
			primes = append(primes, uint32(r))
		}
	}
	return primes
})

// smallPrimesTo returns the primes from 5 up to limit.
func smallPrimesTo(limit uint32) []uint32 {
	primes := smallPrimes()
	i, _ := slices.BinarySearch(primes, limit+1)
	return primes[:i]
}

// sieve is one worker's window. It belongs to one goroutine and is reused for one window after another.
type sieve struct {
	primes []uint32
	// hit[k] reports that q or p of candidate u0+k has a factor in primes. Bytes, not bits: 128 kB at 1024 bits, and
	// most of the time goes into the residues anyway.
	hit []bool
}

// chunk is how many words' worth of primes run processes between two checks of the context: some 0.1 ms for 1024-bit
// candidates.
const chunk = 1024

// run sieves the window that begins at u0, given as 64-bit words, most significant first. A window of small u0 would
// also remove the primes of the table themselves; sizes from MinBits on are far above them.
func (s *sieve) run(ctx context.Context, u0 []uint64) error {
	clear(s.hit)
	for i, n := 0, 0; i < len(s.primes); n++ {
		if n%chunk == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		// As many primes as fit into a word share one long division.
		product, end := uint64(s.primes[i]), i+1
		for ; end < len(s.primes); end++ {
			hi, lo := bits.Mul64(product, uint64(s.primes[end]))
			if hi != 0 {
				break
			}
			product = lo
		}
		residue := mod(u0, product)
		for _, r := range s.primes[i:end] {
			s.strike(r, uint32(residue%uint64(r))) //nolint:gosec // G115: below r
		}
		i = end
	}
	return nil
}

// mod returns x mod m, for x in words, most significant first.
func mod(x []uint64, m uint64) uint64 {
	var rem uint64
	for _, w := range x {
		_, rem = bits.Div64(rem, w, m)
	}
	return rem
}

// strike marks the candidates u0+k for which r divides q or p, given u0 mod r.
func (s *sieve) strike(r, u0 uint32) {
	// j*r = -1 mod 12 for j = 12 - r mod 12, as every square of a unit is 1 mod 12; so
	// (j*r+1)/12 is an integer and is 1/12 mod r. No overflow: r < 2^28.
	twelfth := ((12-r%12)*r + 1) / 12
	sixth := 2 * twelfth
	if sixth >= r {
		sixth -= r
	}
	for _, u := range [2]uint32{sixth, twelfth} {
		k := u - u0 // u-u0 mod r
		if u < u0 {
			k += r
		}
		for ; k < uint32(len(s.hit)); k += r { //nolint:gosec // G115: a window has some 10^5 places
			s.hit[k] = true
		}
	}
}
