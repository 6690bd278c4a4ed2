package safeprime

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// Every test also checks that no goroutine outlives Find.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// find is Find for tests that expect it to succeed.
func find(t *testing.T, opts Options) []SafePrime {
	t.Helper()
	found, err := Find(t.Context(), opts)
	require.NoError(t, err)
	require.Len(t, found, opts.Count)
	return found
}

// halfSafe returns p = 2q+1 of 128 bits, two top bits set, of which exactly one is prime.
func halfSafe(t *testing.T, qPrime bool) (p, q *big.Int) {
	t.Helper()
	for {
		q, err := rand.Int(rand.Reader, new(big.Int).Lsh(one, 125))
		require.NoError(t, err)
		q.SetBit(q, 125, 1).SetBit(q, 126, 1)
		p := new(big.Int).Lsh(q, 1)
		p.Add(p, one)
		if q.ProbablyPrime(0) == qPrime && p.ProbablyPrime(0) != qPrime {
			return p, q
		}
	}
}

func TestCheckAcceptsWhatFindFinds(t *testing.T) {
	s := find(t, Options{Bits: 128, Count: 1})[0]
	require.NoError(t, Check(s.P, s.Q, 128))
}

func TestCheckRefuses(t *testing.T) {
	s := find(t, Options{Bits: 128, Count: 1})[0]
	other := find(t, Options{Bits: 128, Count: 1})[0]
	p1, q1 := halfSafe(t, true)
	p2, q2 := halfSafe(t, false)
	low := new(big.Int).SetBit(s.P, 126, 0) // 10... in place of 11...
	even := new(big.Int).Sub(s.P, one)
	neg := func(x *big.Int) *big.Int { return new(big.Int).Neg(x) }

	for name, c := range map[string]struct {
		p, q *big.Int
		bits int
	}{
		"p missing":            {nil, s.Q, 128},
		"q missing":            {s.P, nil, 128},
		"p zero":               {new(big.Int), s.Q, 128},
		"both negative":        {neg(s.P), neg(s.Q), 128},
		"too short":            {s.P, s.Q, 129},
		"too long":             {s.P, s.Q, 127},
		"size below the least": {big.NewInt(23), big.NewInt(11), 5},
		"size above the most":  {s.P, s.Q, MaxBits + 1},
		"second bit clear":     {low, new(big.Int).Rsh(low, 1), 128},
		"p even":               {even, s.Q, 128},
		"another's q":          {s.P, other.Q, 128},
		"p composite":          {p1, q1, 128},
		"q composite":          {p2, q2, 128},
		"swapped":              {s.Q, s.P, 128},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, Check(c.p, c.q, c.bits), ErrNotSafePrime)
		})
	}
}

func TestSafePrimeIsRedacted(t *testing.T) {
	s := find(t, Options{Bits: 128, Count: 1})[0]
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		require.Equal(t, redacted, fmt.Sprintf(verb, s), verb)
		require.Equal(t, redacted, fmt.Sprintf(verb, &s), verb)
		require.Equal(t, "["+redacted+"]", fmt.Sprintf("%v", []SafePrime{s}))
	}

	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("made", "prime", s, "pointer", &s, "inside", struct{ S SafePrime }{s})
	}
	require.Contains(t, log.String(), redacted)
	for _, secret := range []*big.Int{s.P, s.Q} {
		require.NotContains(t, log.String(), secret.String())
		require.NotContains(t, log.String(), secret.Text(16))
	}

	_, err := json.Marshal(s)
	require.Error(t, err)
}

func TestWipe(t *testing.T) {
	s := find(t, Options{Bits: 128, Count: 1})[0]
	words := s.P.Bits()
	s.Wipe()
	require.Zero(t, s.P.Sign())
	require.Zero(t, s.Q.Sign())
	for _, w := range words {
		require.Zero(t, w)
	}
	SafePrime{}.Wipe()
}
