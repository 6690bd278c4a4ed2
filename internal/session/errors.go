package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mpcd/mpcd/internal/tss"
)

// Error is a sentinel with the reason that callers see (google.rpc.ErrorInfo.reason). Package server maps each to a
// status code and a public message.
type Error struct{ Reason string }

// Error implements error.
func (e *Error) Error() string { return "session: " + e.Reason }

// The ways in which a call can fail. Text that wraps them is for the log, and never reaches the caller.
var (
	ErrInvalidArgument  = &Error{"INVALID_ARGUMENT"}
	ErrShareMalformed   = &Error{"SHARE_MALFORMED"}
	ErrShareSetMismatch = &Error{"SHARE_SET_MISMATCH"}
	ErrRequestIDReused  = &Error{"REQUEST_ID_REUSED"}
	ErrWalletNotFound   = &Error{"WALLET_NOT_FOUND"}
	ErrShareSetNotFound = &Error{"SHARE_SET_NOT_FOUND"}
	ErrSessionNotFound  = &Error{"SESSION_NOT_FOUND"}
	ErrBackupNotFound   = &Error{"BACKUP_NOT_FOUND"}
	ErrShareSetPending  = &Error{"SHARE_SET_PENDING"}
	ErrShareSetRevoked  = &Error{"SHARE_SET_REVOKED"}
	ErrShareSetLocked   = &Error{"SHARE_SET_LOCKED"}
	ErrLastShareSet     = &Error{"LAST_SHARE_SET"}
	ErrSessionExpired   = &Error{"SESSION_EXPIRED"}
	ErrOverloaded       = &Error{"OVERLOADED"}
	ErrTooManyPending   = &Error{"TOO_MANY_PENDING"}
	ErrShareSetBusy     = &Error{"SHARE_SET_BUSY"}
	ErrShareSetLimited  = &Error{"SHARE_SET_LIMITED"}
	ErrShuttingDown     = &Error{"SHUTTING_DOWN"}
	ErrProtocolAborted  = &Error{"PROTOCOL_ABORTED"}
	ErrSessionCancelled = &Error{"SESSION_CANCELLED"}
	ErrInterrupted      = &Error{"INTERRUPTED"}
	ErrPermissionDenied = &Error{"PERMISSION_DENIED"}
	ErrDeviceHeldWallet = &Error{"DEVICE_HELD_WALLET"}
	ErrPolicyDenied     = &Error{"POLICY_DENIED"}
	ErrWebhookFailed    = &Error{"WEBHOOK_FAILED"}
	ErrUnauthenticated  = &Error{"UNAUTHENTICATED"}
	ErrRateLimited      = &Error{"RATE_LIMITED"}
	ErrDataCorrupted    = &Error{"DATA_CORRUPTED"}
	ErrInternal         = &Error{"INTERNAL"}
)

// ErrSuperseded is returned by the store for a session that has ended, or begun another attempt, since it was read. It
// never reaches a caller.
var ErrSuperseded = errors.New("session ended or at another attempt")

// ErrModulusUsed is returned by the store for a modulus that was used before (see Wallets.ReserveModuli). It never
// reaches a caller.
var ErrModulusUsed = errors.New("this modulus was used before")

// LaterError is a temporary error. Later returns when to try again; 0: unknown.
type LaterError interface {
	error
	Later() time.Duration
}

// FieldError is an INVALID_ARGUMENT for one field.
type FieldError struct {
	Field string // as in the API, e.g. "wallet_id"
	Want  string // for the caller, without the value, e.g. "must be a UUID"
}

// Error implements error.
func (e *FieldError) Error() string { return fmt.Sprintf("%s %s", e.Field, e.Want) }

// Is makes a FieldError an ErrInvalidArgument.
func (e *FieldError) Is(target error) bool { return target == ErrInvalidArgument }

// DeniedError is a POLICY_DENIED with the authoriser's reason.
type DeniedError struct {
	Why string // for the caller: printable, bounded; may be empty
}

// Error implements error.
func (e *DeniedError) Error() string { return fmt.Sprintf("%v: %s", ErrPolicyDenied, e.Why) }

// Is makes a DeniedError an ErrPolicyDenied.
func (e *DeniedError) Is(target error) bool { return target == ErrPolicyDenied }

// WebhookError is a WEBHOOK_FAILED that says whether the same call may succeed later.
type WebhookError struct {
	Permanent  bool          // the receiver refused the message: a retry fails until its operator acts
	RetryAfter time.Duration // from the receiver: a retry before is pointless; 0: not given
	Err        error         // for the log
}

// Error implements error.
func (e *WebhookError) Error() string {
	if e.Err == nil {
		return ErrWebhookFailed.Error()
	}
	return fmt.Sprintf("%v: %v", ErrWebhookFailed, e.Err)
}

// Is makes a WebhookError an ErrWebhookFailed.
func (e *WebhookError) Is(target error) bool { return target == ErrWebhookFailed }

// Later implements LaterError.
func (e *WebhookError) Later() time.Duration { return e.RetryAfter }

// Unwrap returns the cause.
func (e *WebhookError) Unwrap() error { return e.Err }

// PendingError is a TOO_MANY_PENDING: the wallet has its maximum of unconfirmed sets.
type PendingError struct {
	Count, Limit int           // unconfirmed sets, including those being made; the maximum per wallet
	RetryAfter   time.Duration // when the first of them is erased
}

// Error implements error.
func (e *PendingError) Error() string {
	return fmt.Sprintf("%v: %d sets are unconfirmed or being made, the limit is %d", ErrTooManyPending, e.Count, e.Limit)
}

// Is makes a PendingError an ErrTooManyPending.
func (e *PendingError) Is(target error) bool { return target == ErrTooManyPending }

// Later implements LaterError.
func (e *PendingError) Later() time.Duration { return e.RetryAfter }

// BusyError is a SHARE_SET_BUSY: the maximum of device-held runs of a set, or of its wallet, is running.
type BusyError struct {
	ShareSetID string
	RetryAfter time.Duration // an estimate of when one of them ends
}

// Error implements error.
func (e *BusyError) Error() string {
	return fmt.Sprintf("%v: set %s, or its wallet, has as many device-held runs as aborts left",
		ErrShareSetBusy, e.ShareSetID)
}

// Is makes a BusyError an ErrShareSetBusy.
func (e *BusyError) Is(target error) bool { return target == ErrShareSetBusy }

// Later implements LaterError.
func (e *BusyError) Later() time.Duration { return e.RetryAfter }

// LimitedError is a RATE_LIMITED of a caller's or an owner's runs.
type LimitedError struct {
	Proofs     bool          // too many hellos without a valid proof
	Waste      bool          // too many runs took pre-params without success; neither: too many new wallets
	RetryAfter time.Duration // when the next one is allowed
}

// Error implements error.
func (e *LimitedError) Error() string {
	what := "new device-held wallets"
	switch {
	case e.Proofs:
		what = "hellos without a valid proof of their share"
	case e.Waste:
		what = "runs of the owner that took pre-params without success"
	}
	return fmt.Sprintf("%v: too many %s, retry after %v", ErrRateLimited, what, e.RetryAfter)
}

// Is makes a LimitedError an ErrRateLimited.
func (e *LimitedError) Is(target error) bool { return target == ErrRateLimited }

// Later implements LaterError.
func (e *LimitedError) Later() time.Duration { return e.RetryAfter }

// BudgetError is a SHARE_SET_LIMITED: the set's soft budget is used up.
type BudgetError struct {
	ShareSetID string
	RetryAfter time.Duration // when a soft abort is refunded
}

// Error implements error.
func (e *BudgetError) Error() string {
	return fmt.Sprintf("%v: too many armed runs of set %s ended without success, retry after %v",
		ErrShareSetLimited, e.ShareSetID, e.RetryAfter)
}

// Is makes a BudgetError an ErrShareSetLimited.
func (e *BudgetError) Is(target error) bool { return target == ErrShareSetLimited }

// Later implements LaterError.
func (e *BudgetError) Later() time.Duration { return e.RetryAfter }

// NoPreParamsError is an OVERLOADED: the pool of pre-params is empty.
type NoPreParamsError struct{ RetryAfter time.Duration } // when the next set may be ready

// Error implements error.
func (e *NoPreParamsError) Error() string {
	return fmt.Sprintf("%v: no pre-params are ready, retry after %v", ErrOverloaded, e.RetryAfter)
}

// Is makes a NoPreParamsError an ErrOverloaded.
func (e *NoPreParamsError) Is(target error) bool { return target == ErrOverloaded }

// Later implements LaterError.
func (e *NoPreParamsError) Later() time.Duration { return e.RetryAfter }

// isTemporary reports whether the same request may start another attempt after a run that ended with err.
func isTemporary(err error) bool {
	if w := new(WebhookError); errors.As(err, &w) {
		return !w.Permanent
	}
	for _, temporary := range []error{
		ErrInterrupted, ErrWebhookFailed, ErrOverloaded, ErrRateLimited, ErrShareSetBusy, ErrShareSetLimited,
	} {
		if errors.Is(err, temporary) {
			return true
		}
	}
	return errors.As(err, new(*PendingError))
}

// AbortedError is a PROTOCOL_ABORTED with the party at fault.
type AbortedError struct {
	Culprit string // CLIENT or SERVER
	Round   int
	Err     error // for the log; nil when the session was read back from the store
}

// Error implements error.
func (e *AbortedError) Error() string {
	return fmt.Sprintf("%v in round %d, caused by %s: %v", ErrProtocolAborted, e.Round, e.Culprit, e.Err)
}

// Is makes an AbortedError an ErrProtocolAborted.
func (e *AbortedError) Is(target error) bool { return target == ErrProtocolAborted }

// Unwrap returns the cause.
func (e *AbortedError) Unwrap() error { return e.Err }

// Reason returns the reason of err, or INTERNAL.
func Reason(err error) string {
	var e *Error
	var f *FieldError
	var a *AbortedError
	var o *OverloadedError
	var d *DeniedError
	var w *WebhookError
	var p *PendingError
	var b *BusyError
	var l *LimitedError
	var soft *BudgetError
	var n *NoPreParamsError
	switch {
	case errors.As(err, &w):
		return ErrWebhookFailed.Reason
	case errors.As(err, &p):
		return ErrTooManyPending.Reason
	case errors.As(err, &b):
		return ErrShareSetBusy.Reason
	case errors.As(err, &l):
		return ErrRateLimited.Reason
	case errors.As(err, &soft):
		return ErrShareSetLimited.Reason
	case errors.As(err, &d):
		return ErrPolicyDenied.Reason
	case errors.As(err, &f):
		return ErrInvalidArgument.Reason
	case errors.As(err, &a):
		return ErrProtocolAborted.Reason
	case errors.As(err, &o), errors.As(err, &n):
		return ErrOverloaded.Reason
	case errors.As(err, &e):
		return e.Reason
	}
	return ErrInternal.Reason
}

// fromTSS wraps an error of package tss in this package's sentinel.
func fromTSS(err error) error {
	var p *tss.ProtocolError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tss.ErrShareMalformed):
		return fmt.Errorf("%w: %w", ErrShareMalformed, err)
	case errors.Is(err, tss.ErrShareMismatch):
		return fmt.Errorf("%w: %w", ErrShareSetMismatch, err)
	case errors.Is(err, tss.ErrRecordMalformed):
		return fmt.Errorf("%w: %w", ErrDataCorrupted, err)
	case errors.As(err, &p):
		return &AbortedError{Culprit: p.Culprit.String(), Round: p.Round, Err: err}
	case errors.Is(err, tss.ErrPayload):
		return fmt.Errorf("%w: %w", ErrInvalidArgument, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	return err
}

// byReason maps a stored reason to its sentinel.
var byReason = func() map[string]*Error {
	m := make(map[string]*Error)
	for _, e := range []*Error{
		ErrInvalidArgument, ErrShareMalformed, ErrShareSetMismatch, ErrRequestIDReused, ErrWalletNotFound,
		ErrShareSetNotFound, ErrSessionNotFound, ErrBackupNotFound, ErrShareSetPending, ErrShareSetRevoked,
		ErrShareSetLocked, ErrLastShareSet, ErrSessionExpired, ErrOverloaded, ErrTooManyPending, ErrShareSetBusy,
		ErrShareSetLimited, ErrShuttingDown, ErrProtocolAborted, ErrSessionCancelled, ErrInterrupted, ErrPermissionDenied,
		ErrDeviceHeldWallet, ErrPolicyDenied, ErrWebhookFailed, ErrUnauthenticated, ErrRateLimited, ErrDataCorrupted,
		ErrInternal,
	} {
		m[e.Reason] = e
	}
	return m
}()

// failure returns what the store keeps of err.
func failure(err error) *Failure {
	f := &Failure{Reason: Reason(err)}
	var a *AbortedError
	if errors.As(err, &a) {
		f.Culprit, f.Round = a.Culprit, a.Round
	}
	return f
}

// err returns the error of a stored failure.
func (f *Failure) err() error {
	if f == nil {
		return ErrInternal
	}
	if f.Reason == ErrProtocolAborted.Reason {
		return &AbortedError{Culprit: f.Culprit, Round: f.Round}
	}
	if e, ok := byReason[f.Reason]; ok {
		return e
	}
	return ErrInternal
}
