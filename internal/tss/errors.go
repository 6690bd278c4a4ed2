package tss

import (
	"errors"
	"fmt"
)

// The ways in which input is refused before any party is built.
var (
	// ErrShareMalformed: the bytes are no share, or its secrets are not those that its
	// set's record commits to.
	ErrShareMalformed = errors.New("share is malformed")
	// ErrShareMismatch: a well-formed share, but of another wallet, set, purpose or party.
	ErrShareMismatch = errors.New("share does not belong to this share set")
	// ErrRecordMalformed: a stored public record cannot be decoded.
	ErrRecordMalformed = errors.New("share set record is malformed")
	// ErrPreParams: pre-params that fail validation.
	ErrPreParams = errors.New("pre-params are invalid")
	// ErrPayload: a digest or message that cannot be signed.
	ErrPayload = errors.New("payload cannot be signed")
)

// ProtocolError is a run that failed because of what the other side did or sent. The
// side that failed made nothing; its old share is as it was.
type ProtocolError struct {
	Curve   Curve
	Round   int   // of the protocol, from 1; 0 when none was reached
	Culprit Party // who caused it, as this side sees it
	Err     error // holds no secret and no message content
}

// Error implements error.
func (e *ProtocolError) Error() string {
	return fmt.Sprintf("%v protocol, round %d, caused by %v: %v", e.Curve, e.Round, e.Culprit, e.Err)
}

// Unwrap returns the cause.
func (e *ProtocolError) Unwrap() error { return e.Err }
