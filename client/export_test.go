package client

import (
	"context"
	"time"

	"github.com/mpcd/mpcd/internal/tss"
)

// SetWorkFactor makes password backups cheap, so that tests do not spend a second on each.
func (c *Client) SetWorkFactor(logN int) { c.workFactor = logN }

// SetPreParamsSource says where new pre-params come from, so that tests search no primes.
func (c *Client) SetPreParamsSource(source func(context.Context) (*tss.PreParams, error)) {
	c.newPreParams = source
}

// SetRest says how long a wait between two tries takes.
func (c *Client) SetRest(rest func(context.Context, time.Duration) error) { c.rest = rest }

// MaxAttempts is how many attempts a call begins.
const MaxAttempts = maxAttempts

// MaxLost is how many streams of one attempt a call loses.
const MaxLost = maxLost

// TakePreParams is what an operation does when it needs a set. It returns nil when none was
// made ahead.
func (c *Client) TakePreParams(ctx context.Context) *tss.PreParams { return c.madeAhead(ctx) }

// The bounds on ciphertexts, for tests to cross.
const (
	DefaultWorkFactor = defaultWorkFactor
	MaxWorkFactor     = maxWorkFactor
	MaxCipherText     = maxCipherText
)

// AgeFile is the decoder of what an app takes for a backup.
func AgeFile(text string) ([]byte, error) { return ageFile(text) }

// NormalizePassword is the rule for passwords.
func NormalizePassword(password []byte) ([]byte, error) {
	s, err := normalizePassword(password)
	return s.Reveal(), err
}

// DecodeText is what is read of a password file.
func DecodeText(b []byte) ([]byte, error) { return decodeText(b) }
