package safeprime

import (
	"context"
	"crypto/rand"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSmallPrimes(t *testing.T) {
	primes := smallPrimes()
	require.Len(t, primes, 295947-2) // pi(2^22), less 2 and 3
	require.Equal(t, len(primes), cap(primes))
	require.Equal(t, []uint32{5, 7, 11, 13, 17, 19, 23}, primes[:7])
	require.Equal(t, []uint32{5, 7, 11, 13}, smallPrimesTo(13))
	require.Equal(t, []uint32{5, 7, 11, 13}, smallPrimesTo(16))
	require.Len(t, smallPrimesTo(primeBound), len(primes))
	for i := 0; i < len(primes); i += 100 {
		require.True(t, big.NewInt(int64(primes[i])).ProbablyPrime(0))
	}
}

// A candidate is removed if and only if a prime of the table divides its q or p; so a safe prime never is. Below 2^64
// math/big's primality test is exact.
func TestSieveAgainstBruteForce(t *testing.T) {
	const limit = 3000
	for _, u0 := range []uint64{limit, 1_000_003, 1 << 40} {
		s := sieve{primes: smallPrimesTo(limit), hit: make([]bool, 20_000)}
		require.NoError(t, s.run(t.Context(), []uint64{0, u0}))
		safe, left := 0, 0
		for k, hit := range s.hit {
			u := u0 + uint64(k)
			q, p := 6*u-1, 12*u-1
			divided := false
			for _, r := range s.primes {
				divided = divided || q%uint64(r) == 0 || p%uint64(r) == 0
			}
			if divided != hit {
				require.Equal(t, divided, hit, "u = %d", u)
			}
			if hit {
				continue
			}
			left++
			if new(big.Int).SetUint64(q).ProbablyPrime(0) && new(big.Int).SetUint64(p).ProbablyPrime(0) {
				safe++
			}
		}
		require.Positive(t, safe)
		require.Less(t, left, len(s.hit)/10)
	}
}

// All safe primes of a range have the form 12u-1, so the sieve misses none.
func TestEverySafePrimeHasAnIndex(t *testing.T) {
	for q := int64(5); q < 20_000; q++ {
		if big.NewInt(q).ProbablyPrime(0) && big.NewInt(2*q+1).ProbablyPrime(0) {
			require.EqualValues(t, 5, q%6)
		}
	}
}

// The same at real size, where residues are of many words.
func TestSieveOfLargeNumbers(t *testing.T) {
	for _, bits := range []int{128, 131, 132, 1024, 1027} {
		src, err := newSource(rand.Reader)
		require.NoError(t, err)
		s := newSearcherWith(bits, src, 400, 1000)
		require.NoError(t, s.draw())
		require.NoError(t, s.sieve.run(t.Context(), s.words))
		var u, q, r big.Int
		for k, hit := range s.sieve.hit {
			u.Add(&s.u0, big.NewInt(int64(k)))
			q.Sub(q.Mul(&u, six), one)
			divided := false
			for _, prime := range s.sieve.primes {
				m := r.Mod(&q, r.SetUint64(uint64(prime))).Uint64()
				divided = divided || m == 0 || (2*m+1)%uint64(prime) == 0
			}
			require.Equal(t, divided, hit)
		}
	}
}

func TestSieveStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := sieve{primes: smallPrimesTo(100), hit: make([]bool, 100)}
	require.ErrorIs(t, s.run(ctx, []uint64{1 << 40}), context.Canceled)
}
