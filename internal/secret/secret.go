// Package secret has the type in which mpcd keeps secret bytes: encoded shares, passwords, pre-params, decrypted
// results.
//
// A Bytes prints as "[redacted]" with every fmt verb, slog, encoding/json and every other text marshaller. Code that
// needs the value calls Reveal, which is easy to find in a review.
//
// Wipe is best effort: Go's runtime may have copied the bytes when a slice grew or a stack moved. It shortens the
// time a secret spends in memory, and promises no more.
package secret

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// Redacted is what every secret prints as.
const Redacted = "[redacted]"

// Bytes is a byte string that prints as [redacted]. The zero value is empty.
//
// The bytes are behind two pointers: fmt calls no methods on values in unexported fields, and for some verbs it
// follows one pointer there, but never two.
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

// Equal compares in constant time if the lengths are equal.
func (s Bytes) Equal(t Bytes) bool { return subtle.ConstantTimeCompare(s.Reveal(), t.Reveal()) == 1 }

// Wipe overwrites the bytes with zeros. Safe to call more than once.
func (s Bytes) Wipe() { clear(s.Reveal()) }

// Format implements fmt.Formatter, so that no verb reaches the bytes.
func (s Bytes) Format(f fmt.State, _ rune) { Format(f) }

// LogValue implements slog.LogValuer.
func (s Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText implements encoding.TextMarshaler, which JSON and YAML encoders use as well.
func (s Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// Format writes Redacted to f. Other secret types call it from their own Format.
func Format(f fmt.State) {
	// There is no one to report the error to.
	_, _ = f.Write([]byte(Redacted))
}
