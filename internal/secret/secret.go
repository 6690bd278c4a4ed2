// Package secret holds the one type in which mpcd keeps bytes that nobody may
// see: encoded shares, passwords, pre-params, decrypted results.
//
// A Bytes prints as "[redacted]" whatever asks for it: fmt with any verb, slog,
// encoding/json and every other text marshaller. Code that needs the value says so
// by calling Reveal, which is easy to find in a review.
//
// What it does not promise: Go's runtime may have copied the bytes while a slice
// grew or a stack moved, so Wipe shortens a secret's life in memory and ends it in
// no stronger sense.
package secret

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// Redacted is what every secret prints as.
const Redacted = "[redacted]"

// Bytes is a byte string that does not show itself. The zero value is empty.
//
// The bytes are behind two pointers: fmt calls no method of a value in an unexported
// field, and follows one pointer there, for some verbs, but never two.
type Bytes struct{ far *near }

type near struct{ b *[]byte }

// New takes ownership of b: the caller must not use it afterwards.
func New(b []byte) Bytes { return Bytes{&near{&b}} }

// Reveal returns the bytes themselves, not a copy; they are valid until Wipe.
func (s Bytes) Reveal() []byte {
	if s.far == nil {
		return nil
	}
	return *s.far.b
}

// Len returns the number of bytes, which is not secret.
func (s Bytes) Len() int { return len(s.Reveal()) }

// Equal compares in constant time for equal lengths.
func (s Bytes) Equal(t Bytes) bool { return subtle.ConstantTimeCompare(s.Reveal(), t.Reveal()) == 1 }

// Wipe overwrites the bytes with zeros. Safe to call more than once.
func (s Bytes) Wipe() { clear(s.Reveal()) }

// Format implements fmt.Formatter, so that no verb reaches the bytes.
func (s Bytes) Format(f fmt.State, _ rune) { Format(f) }

// LogValue implements slog.LogValuer.
func (s Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText implements encoding.TextMarshaler, which JSON and YAML use too.
func (s Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// Format writes Redacted to f. Other secret types call it from their own Format.
func Format(f fmt.State) {
	// An error of a fmt.State has nowhere to go.
	_, _ = f.Write([]byte(Redacted))
}
