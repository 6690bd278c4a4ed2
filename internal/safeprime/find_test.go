package safeprime

import (
	"context"
	"crypto/rand"
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// requireSafe checks every guarantee of Find one by one, without Check.
func requireSafe(t *testing.T, found []SafePrime, bits int) {
	t.Helper()
	seen := map[string]bool{}
	for _, s := range found {
		require.Equal(t, bits, s.P.BitLen())
		require.EqualValues(t, 1, s.P.Bit(bits-2))
		require.EqualValues(t, 3, new(big.Int).Mod(s.P, big.NewInt(4)).Int64())
		twice := new(big.Int).Lsh(s.Q, 1)
		require.Zero(t, twice.Add(twice, one).Cmp(s.P))
		require.True(t, s.Q.ProbablyPrime(0))
		require.True(t, s.P.ProbablyPrime(0))
		require.NoError(t, Check(s.P, s.Q, bits))
		require.False(t, seen[s.P.String()])
		seen[s.P.String()] = true
	}
	for i := 1; i < len(found); i++ {
		require.Equal(t, 2*bits, new(big.Int).Mul(found[i-1].P, found[i].P).BitLen())
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct{ bits, count, workers int }{
		{128, 1, 1}, {128, 50, 4}, {129, 10, 1}, {130, 10, 4}, {131, 10, 1}, {132, 10, 4},
		{191, 10, 1}, {192, 10, 0}, {193, 10, 1}, {256, 20, 1}, {256, 20, 4}, {512, 3, 4},
		{1024, 2, 2},
	} {
		requireSafe(t, find(t, Options{Bits: c.bits, Count: c.count, Workers: c.workers}), c.bits)
	}
}

func TestFindRefusesOptions(t *testing.T) {
	for _, o := range []Options{
		{}, {Bits: MinBits - 1, Count: 1}, {Bits: MaxBits + 1, Count: 1}, {Bits: -1, Count: 1},
		{Bits: 128}, {Bits: 128, Count: -1}, {Bits: 128, Count: 1, Workers: -1},
	} {
		found, err := Find(t.Context(), o)
		require.ErrorIs(t, err, ErrOptions)
		require.Nil(t, found)
	}
}

// The lowest start gives the lowest p with both top bits set, and the last window ends at the highest p of the size:
// windows cover the range exactly.
func TestStartsCoverTheRange(t *testing.T) {
	for bits := MinBits; bits <= 300; bits++ {
		s := newSearcher(bits, nil)
		p := func(u *big.Int) *big.Int { return new(big.Int).Sub(new(big.Int).Mul(u, big.NewInt(12)), one) }
		last := new(big.Int).Add(s.first, s.span)
		last.Add(last, big.NewInt(int64(len(s.sieve.hit)-2)))
		bottom := new(big.Int).Lsh(three, uint(bits-2))
		top := new(big.Int).Lsh(one, uint(bits))

		require.GreaterOrEqual(t, p(s.first).Cmp(bottom), 0)
		require.Negative(t, p(new(big.Int).Sub(s.first, one)).Cmp(bottom))
		require.Negative(t, p(last).Cmp(top))
		require.GreaterOrEqual(t, p(last.Add(last, one)).Cmp(top), 0)
	}
}

// Bytes and bits of many primes look uniform, and no two primes share a window. The thresholds are ten standard
// deviations: a chance of some 10^-20 for each.
func TestPrimesLookUniform(t *testing.T) {
	const bits, count = 128, 1000
	found := find(t, Options{Bits: bits, Count: count})
	values := make([]*big.Int, count)
	var bytes [256]float64
	var top [64]float64
	var ones [bits]float64
	for i, s := range found {
		values[i] = s.P
		b := s.P.FillBytes(make([]byte, bits/8))
		top[b[0]&63]++ // below the two fixed bits
		for _, x := range b[1 : len(b)-1] {
			bytes[x]++
		}
		for j := range ones {
			ones[j] += float64(s.P.Bit(j))
		}
	}
	require.Less(t, chiSquare(bytes[:]), 255+14*math.Sqrt(2*255))
	require.Less(t, chiSquare(top[:]), 63+18*math.Sqrt(2*63))
	for j := 2; j < bits-2; j++ { // p = 3 mod 4, and the top two bits are set
		require.InDelta(t, count/2, ones[j], 10*math.Sqrt(count)/2, "bit %d", j)
	}

	window := big.NewInt(int64(12 * len(newSearcher(bits, nil).sieve.hit)))
	slices.SortFunc(values, (*big.Int).Cmp)
	for i := 1; i < count; i++ {
		require.Positive(t, new(big.Int).Sub(values[i], values[i-1]).Cmp(window))
	}
}

func chiSquare(bins []float64) float64 {
	total := 0.0
	for _, n := range bins {
		total += n
	}
	want, sum := total/float64(len(bins)), 0.0
	for _, n := range bins {
		sum += (n - want) * (n - want) / want
	}
	return sum
}

func TestRepeatedPrimeIsAnError(t *testing.T) {
	s := find(t, Options{Bits: 128, Count: 2})
	results := make(chan result, 3)
	again := SafePrime{P: new(big.Int).Set(s[0].P), Q: new(big.Int).Set(s[0].Q)}
	for _, x := range []SafePrime{s[0], s[1], again} {
		results <- result{prime: x}
	}
	found, err := collect(t.Context(), Options{Bits: 128, Count: 3}, results)
	require.ErrorIs(t, err, ErrRandomSource)
	require.Nil(t, found)
	require.Zero(t, s[1].P.Sign(), "primes that are not returned are wiped")
}

func TestWrongSizeIsAnError(t *testing.T) {
	results := make(chan result, 1)
	results <- result{prime: find(t, Options{Bits: 128, Count: 1})[0]}
	_, err := collect(t.Context(), Options{Bits: 129, Count: 1}, results)
	require.ErrorIs(t, err, ErrNotSafePrime)
}

// A 4096-bit search would take minutes: returning at all shows that it stops.
func TestFindStopsWithItsContext(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		found, err := Find(ctx, Options{Bits: MaxBits, Count: 1 << 20, Rand: failing(0)})
		require.Equal(t, context.Canceled, err, "the reader is not used")
		require.Nil(t, found)
	})
	t.Run("at the deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		found, err := Find(ctx, Options{Bits: MaxBits, Count: 1 << 20, Workers: 4})
		require.Equal(t, context.DeadlineExceeded, err)
		require.Nil(t, found)
		goleak.VerifyNone(t)
	})
	t.Run("while searching", func(t *testing.T) {
		for _, workers := range []int{1, 4} {
			ctx, cancel := context.WithCancel(t.Context())
			reads := 0
			r := readerFunc(func(b []byte) (int, error) {
				if reads++; reads == 200 { // some primes are found by then
					cancel()
				}
				return rand.Read(b)
			})
			found, err := Find(ctx, Options{Bits: 128, Count: 1 << 20, Workers: workers, Rand: r})
			require.Equal(t, context.Canceled, err)
			require.Nil(t, found)
			goleak.VerifyNone(t)
		}
	})
}

// The context is checked before each test of a candidate.
func TestTryStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	src, err := newSource(rand.Reader)
	require.NoError(t, err)
	s := newSearcher(128, src)
	require.NoError(t, s.draw())
	_, err = s.try(ctx, 0)
	require.Equal(t, context.Canceled, err)
}

// Concurrent calls do not share sources, and all workers of a call share one.
func TestConcurrentFinds(t *testing.T) {
	done := make(chan []SafePrime, 4) // each goroutine ends with its Find
	for range cap(done) {
		go func() {
			found, _ := Find(t.Context(), Options{Bits: 128, Count: 5, Workers: 2})
			done <- found
		}()
	}
	var all []SafePrime
	for range cap(done) {
		all = append(all, <-done...)
	}
	require.Len(t, all, 20)
	requireSafe(t, all, 128)
}
