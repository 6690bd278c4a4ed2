package client

import (
	"context"
	"time"

	"github.com/mpcd/mpcd/internal/tss"
)

// SetWorkFactor makes password backups cheap: with the default work factor each takes a second.
func (c *Client) SetWorkFactor(logN int) { c.workFactor = logN }

// SetPreParamsSource replaces the generator of pre-params, which is slow.
func (c *Client) SetPreParamsSource(source func(context.Context) (*tss.PreParams, error)) {
	c.newPreParams = source
}

// SetRest replaces the function that waits between two tries.
func (c *Client) SetRest(rest func(context.Context, time.Duration) error) { c.rest = rest }

// MaxAttempts is how many attempts a call makes before it gives up.
const MaxAttempts = maxAttempts

// MaxLost is how many streams of one attempt a call loses before it gives up.
const MaxLost = maxLost

// TakePreParams takes a prewarmed set as an operation does. It returns nil if there is none.
func (c *Client) TakePreParams(ctx context.Context) *tss.PreParams { return c.takePrewarmed(ctx) }

// The limits on ciphertexts.
const (
	DefaultWorkFactor = defaultWorkFactor
	MaxWorkFactor     = maxWorkFactor
	MaxCipherText     = maxCipherText
)

// AgeFile decodes a backup's ciphertext into a binary age file.
func AgeFile(text string) ([]byte, error) { return ageFile(text) }

// NormalizePassword normalizes a password.
func NormalizePassword(password []byte) ([]byte, error) {
	s, err := normalizePassword(password)
	return s.Reveal(), err
}

// DecodeText decodes a password file.
func DecodeText(b []byte) ([]byte, error) { return decodeText(b) }
