package tss

import (
	"errors"
	"fmt"
)

// Errors for input that is rejected before tss-lib sees it.
var (
	// ErrShareMalformed: the bytes are not a share, or its secrets do not match its set's record.
	ErrShareMalformed = errors.New("share is malformed")
	// ErrShareMismatch: a well-formed share of another wallet, set, purpose or party.
	ErrShareMismatch = errors.New("share does not belong to this share set")
	// ErrRecordMalformed: a stored public record cannot be decoded.
	ErrRecordMalformed = errors.New("share set record is malformed")
	// ErrPreParams: the pre-params fail validation, or were used before.
	ErrPreParams = errors.New("pre-params are invalid")
	// ErrPayload: the digest or message cannot be signed.
	ErrPayload = errors.New("payload cannot be signed")
)

// ProtocolError is returned when a run failed because of what the other side did or sent. No new share was made, and
// the old one is unchanged.
type ProtocolError struct {
	Curve   Curve
	Round   int   // of the protocol, from 1; 0 if no round was reached
	Culprit Party // the party at fault, as this side sees it
	Err     error // contains no secret and no message content
}

// Error implements error.
func (e *ProtocolError) Error() string {
	return fmt.Sprintf("%v protocol, round %d, caused by %v: %v", e.Curve, e.Round, e.Culprit, e.Err)
}

// Unwrap returns the cause.
func (e *ProtocolError) Unwrap() error { return e.Err }
