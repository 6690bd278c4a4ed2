//go:build unix

package safeprime

import (
	"crypto/rand"
	"math/big"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cpuTime returns the CPU time this process has used so far, including the garbage collector's.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFind1024 reports CPU seconds per prime, and as a number of exponentiations of math/big with random
// 1024-bit base, exponent and modulus. The time to a prime has a geometric distribution: a mean over n has an error
// of 1/sqrt(n), so run it as `go test -run - -bench Find1024 -benchtime 200x`.
func BenchmarkFind1024(b *testing.B) {
	smallPrimes()
	start := cpuTime(b)
	_, err := Find(b.Context(), Options{Bits: 1024, Count: b.N, Workers: 1})
	require.NoError(b, err)
	perPrime := (cpuTime(b) - start).Seconds() / float64(b.N)

	const exps = 400
	random := func() *big.Int {
		x, err := rand.Int(rand.Reader, new(big.Int).Lsh(one, 1024))
		require.NoError(b, err)
		return x.SetBit(x, 1023, 1).SetBit(x, 0, 1)
	}
	base, exponent, modulus := random(), random(), random()
	start = cpuTime(b)
	for range exps {
		new(big.Int).Exp(base, exponent, modulus)
	}
	perExp := (cpuTime(b) - start).Seconds() / exps

	b.ReportMetric(perPrime, "cpu-s/prime")
	b.ReportMetric(perPrime/perExp, "exps/prime")
}
