package safeprime

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// readerFunc adapts a function to io.Reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// cycle repeats a block for ever.
func cycle(block []byte) io.Reader {
	i := 0
	return readerFunc(func(b []byte) (int, error) {
		for j := range b {
			b[j] = block[i%len(block)]
			i++
		}
		return len(b), nil
	})
}

func randomBlock(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

var errTest = errors.New("no more")

// failing returns n good bytes, then errTest.
func failing(n int) io.Reader {
	return readerFunc(func(b []byte) (int, error) {
		if len(b) > n {
			return copy(b, randomBlock(n)), errTest
		}
		n -= len(b)
		return rand.Read(b)
	})
}

// shorter returns short reads without an error once start bytes were read.
func shorter(start int, give func(n int) int) io.Reader {
	return readerFunc(func(b []byte) (int, error) {
		if start > 0 {
			start -= len(b)
			return rand.Read(b)
		}
		return rand.Read(b[:give(len(b))])
	})
}

func TestFindRefusesBrokenReaders(t *testing.T) {
	counter := make([]byte, 256)
	for i := range counter {
		counter[i] = byte(i)
	}
	for name, r := range map[string]io.Reader{
		"zeros":             cycle([]byte{0}),
		"ones":              cycle([]byte{0xff}),
		"constant":          cycle([]byte{0x5a}),
		"period 2":          cycle([]byte{0x5a, 0xc3}),
		"period 3":          cycle([]byte{1, 2, 3}),
		"period 16":         cycle(randomBlock(16)),
		"period 100":        cycle(randomBlock(100)),
		"counter":           cycle(counter),
		"period 500":        cycle(randomBlock(500)),
		"period 3000":       cycle(randomBlock(3000)),
		"stuck later":       io.MultiReader(bytes.NewReader(randomBlock(startupBytes)), cycle([]byte{7})),
		"period later":      io.MultiReader(bytes.NewReader(randomBlock(startupBytes)), cycle(randomBlock(777))),
		"empty":             bytes.NewReader(nil),
		"ends":              bytes.NewReader(randomBlock(3000)),
		"fails at once":     failing(0),
		"fails at 1":        failing(1),
		"fails at start-up": failing(startupBytes - 1),
		"fails at 1024":     failing(startupBytes),
		"fails at 1030":     failing(startupBytes + 6),
		"fails at 5000":     failing(5000),
		"one byte short":    shorter(0, func(n int) int { return n - 1 }),
		"nothing, no error": shorter(0, func(int) int { return 0 }),
		"short later":       shorter(startupBytes, func(n int) int { return n / 2 }),
		"nothing later":     shorter(startupBytes, func(int) int { return 0 }),
	} {
		for _, workers := range []int{1, 4} {
			// More primes than any of these readers can provide.
			found, err := Find(t.Context(), Options{Bits: 128, Count: 1 << 30, Workers: workers, Rand: r})
			require.ErrorIs(t, err, ErrRandomSource, name)
			require.Nil(t, found, name)
		}
	}
}

func TestReadErrorIsWrapped(t *testing.T) {
	_, err := newSource(failing(10))
	require.ErrorIs(t, err, errTest)
	require.ErrorIs(t, err, ErrRandomSource)
}

func TestFailedSourceStaysFailed(t *testing.T) {
	s, err := newSource(io.MultiReader(bytes.NewReader(randomBlock(startupBytes)), cycle([]byte{7})))
	require.NoError(t, err)
	b := make([]byte, 100)
	require.ErrorIs(t, s.fill(b), ErrRandomSource)
	require.Equal(t, make([]byte, 100), b, "the buffer is cleared after a failed test")
	s.r = rand.Reader
	require.ErrorIs(t, s.fill(b), ErrRandomSource)
}

// A byte that occurs too often, but never twice in a row and without a period.
func TestProportionTest(t *testing.T) {
	s := &source{}
	var err error
	for i := 0; err == nil && i < proportionWindow; i++ {
		b := byte(i*i>>3) | 1
		if i%16 == 0 {
			b = 0
		}
		err = s.observe(b)
	}
	require.ErrorContains(t, err, "proportion")
	require.Equal(t, proportionCutoff, s.count)
}

func TestRepetitionTest(t *testing.T) {
	s := &source{}
	for range repetitionCutoff - 1 {
		require.NoError(t, s.observe(9))
	}
	require.ErrorContains(t, s.observe(9), "repetition")
}

func TestGoodSourcePasses(t *testing.T) {
	s, err := newSource(rand.Reader)
	require.NoError(t, err)
	b := make([]byte, 1<<16)
	for range 32 {
		require.NoError(t, s.fill(b))
	}
}

// The cut-off is the smallest with a false positive rate of at most 2^-60.
func TestProportionCutoff(t *testing.T) {
	// tail is the probability that a given byte occurs at least c-1 times among 511.
	tail := func(c int) float64 {
		const n, p = proportionWindow - 1, 1.0 / 256
		sum := 0.0
		for i := c - 1; i <= n; i++ {
			a, _ := math.Lgamma(n + 1)
			b, _ := math.Lgamma(float64(i) + 1)
			c, _ := math.Lgamma(float64(n-i) + 1)
			sum += math.Exp(a - b - c + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
		}
		return sum
	}
	require.Less(t, tail(proportionCutoff), math.Exp2(-60))
	require.Greater(t, tail(proportionCutoff-1), math.Exp2(-60))
	require.LessOrEqual(t, math.Exp2(-8*(repetitionCutoff-1)), math.Exp2(-60))
}
