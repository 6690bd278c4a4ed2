// Package safeprime searches for safe primes: primes p = 2q+1 with q prime too. The Paillier keys and the NTilde
// moduli of GG18 ECDSA parties are products of two of them (eprint 2019/114), and the search is most of the cost of a
// new party.
//
// A sieve removes every candidate for which q or p has a small factor (Wiener, eprint 2003/186), base-2 Fermat tests
// try the rest, and [big.Int.ProbablyPrime] confirms the survivors. Each prime is searched from its own random start.
//
// The package never returns fewer primes than requested, two primes from one window, or a prime from a random source
// that failed a health test. It never logs, keeps no state but a table of small primes, and leaves no goroutine
// behind.
//
// It trusts math/big, and it trusts the random source to be unpredictable: the health tests detect a broken source,
// not one that an attacker can reproduce. Its running time depends on the secrets it finds; each is found once.
package safeprime

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
)

var (
	// ErrOptions is returned for invalid options.
	ErrOptions = errors.New("safeprime: bad options")
	// ErrRandomSource means that the random source failed, returned too little, or returned bytes that no working
	// source would. Primes found before are not returned.
	ErrRandomSource = errors.New("safeprime: random source failed")
	// ErrNotSafePrime is returned by Check. It names the condition, never the values.
	ErrNotSafePrime = errors.New("safeprime: not a safe prime of the size asked for")
)

// The sizes of p, in bits, that Find and Check accept. Below 128 bits two searches could find the same prime by
// chance; above 4096 one prime takes minutes.
const (
	MinBits = 128
	MaxBits = 4096
)

// rounds of Miller-Rabin, on top of Baillie-PSW: an error rate of 4^-30 for any
// composite, and far less for a random one (Damgard, Landrock, Pomerance 1993).
const rounds = 30

// Options says what to search for.
type Options struct {
	Bits    int // the exact bit length of each p, MinBits to MaxBits
	Count   int // how many safe primes to find, at least 1
	Workers int // how many goroutines search; 0 means GOMAXPROCS

	// Rand is the source of all randomness; nil means crypto/rand.Reader. Each Read must fill its buffer, and must
	// not block for long: Find cannot interrupt it. Find never calls it concurrently.
	Rand io.Reader
}

// SafePrime is p = 2q+1 with both prime; the two top bits of P are set, so that the product of two n-bit ones has
// exactly 2n bits. Both values are secret: printing the struct redacts them, and marshalling it returns an error.
type SafePrime struct{ P, Q *big.Int }

const redacted = "[redacted]"

// Format implements fmt.Formatter for every verb.
func (SafePrime) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (SafePrime) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns an error. Without it encoding/json would write both primes when a struct that contains a
// SafePrime is logged.
func (SafePrime) MarshalText() ([]byte, error) {
	return nil, errors.New("safeprime: a SafePrime is secret and is not marshalled")
}

// Wipe overwrites both values. It cannot reach copies that math/big made.
func (s SafePrime) Wipe() {
	wipe(s.P)
	wipe(s.Q)
}

func wipe(x *big.Int) {
	if x != nil {
		words := x.Bits()
		clear(words[:cap(words)])
		x.SetInt64(0)
	}
}

// Check returns nil if p = 2q+1, both are prime, and p has exactly the given bit length with its two top bits set;
// otherwise an ErrNotSafePrime that says what is wrong. p = 3 mod 4 (a Blum prime) follows. It takes as long as some
// 65 exponentiations modulo p. The bases of its Miller-Rabin rounds are derived from the value, so against an
// adversarial number it relies on Baillie-PSW, for which no counterexample is known.
func Check(p, q *big.Int, bits int) error {
	if err := checkShape(p, q, bits); err != nil {
		return err
	}
	switch {
	case !q.ProbablyPrime(rounds):
		return fmt.Errorf("%w: q is not prime", ErrNotSafePrime)
	case !p.ProbablyPrime(rounds):
		return fmt.Errorf("%w: p is not prime", ErrNotSafePrime)
	}
	return nil
}

// checkShape is the cheap part of Check. It bounds the values before anything is computed with them.
func checkShape(p, q *big.Int, bits int) error {
	switch {
	case bits < MinBits || bits > MaxBits:
		return fmt.Errorf("%w: %d bits asked for, want %d to %d", ErrNotSafePrime, bits, MinBits, MaxBits)
	case p == nil || q == nil:
		return fmt.Errorf("%w: a value is missing", ErrNotSafePrime)
	case p.Sign() <= 0 || q.Sign() <= 0:
		return fmt.Errorf("%w: a value is not positive", ErrNotSafePrime)
	case p.BitLen() != bits:
		return fmt.Errorf("%w: p does not have %d bits", ErrNotSafePrime, bits)
	case p.Bit(bits-2) != 1:
		return fmt.Errorf("%w: the second highest bit of p is not set", ErrNotSafePrime)
	case p.Bit(0) != 1 || q.Cmp(new(big.Int).Rsh(p, 1)) != 0:
		return fmt.Errorf("%w: p is not 2q+1", ErrNotSafePrime)
	}
	return nil
}
