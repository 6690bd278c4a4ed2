package session

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// A failure that is stored and read back looks the same to a caller.
func TestFailuresSurviveTheStore(t *testing.T) {
	t.Parallel()
	for reason, e := range byReason {
		require.Equal(t, reason, e.Reason)
		back := failure(fmt.Errorf("with a cause: %w", e)).err()
		require.ErrorIs(t, back, e)
		require.Equal(t, reason, Reason(back))
	}
	aborted := &AbortedError{Culprit: "CLIENT", Round: 3, Err: errors.New("a cause that is not stored")}
	var back *AbortedError
	require.ErrorAs(t, failure(fmt.Errorf("run: %w", aborted)).err(), &back)
	require.Equal(t, &AbortedError{Culprit: "CLIENT", Round: 3}, back)
	require.ErrorIs(t, back, ErrProtocolAborted)
	require.ErrorIs(t, failure(errors.New("unknown")).err(), ErrInternal)
	require.ErrorIs(t, failure(&FieldError{"curve", "must be one"}).err(), ErrInvalidArgument)
	require.ErrorIs(t, (*Failure)(nil).err(), ErrInternal)
	require.ErrorIs(t, (&Failure{Reason: "OF_A_LATER_RELEASE"}).err(), ErrInternal)
	require.NoError(t, (&Session{}).Err())
	require.ErrorIs(t, (&Session{Failure: &Failure{Reason: "INTERRUPTED"}}).Err(), ErrInterrupted)
}

// A run that a webhook receiver refused permanently is final, also after reading it back; other webhook errors leave
// the next attempt possible.
func TestWebhookErrorsSurviveTheStore(t *testing.T) {
	t.Parallel()
	for _, w := range []*WebhookError{{}, {Permanent: true, Err: errors.New("answered 403")}, {RetryAfter: time.Hour, Err: context.DeadlineExceeded}} {
		err := fromTSS(fmt.Errorf("deposit: %w", w))
		rec := &Session{State: Failed, Failure: failure(err)}
		if isTemporary(err) {
			rec.State = Interrupted
		}
		require.ErrorIs(t, rec.Err(), ErrWebhookFailed)
		require.Equal(t, "WEBHOOK_FAILED", Reason(rec.Err()))
		require.Equal(t, w.Permanent, !isTemporary(rec.Err()))
		require.NotContains(t, w.Error(), "nil")
	}
	require.True(t, isTemporary(ErrWebhookFailed))
	require.True(t, isTemporary(&BusyError{}))
	require.True(t, isTemporary(&BudgetError{}))
	require.False(t, isTemporary(&AbortedError{}))
	require.False(t, isTemporary(ErrTooManyPending), "it ends no run")
}

// Sets that can no longer be confirmed are not counted as pending, whether already swept or not.
func TestExpiredSetsAreNotPending(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w := &Wallet{Sets: []ShareSet{
		{State: SetActive}, {State: SetRevoked}, {State: SetPending, ExpireTime: now.Add(-time.Second)},
		{State: SetPending, ExpireTime: now.Add(2 * time.Minute)}, {State: SetPending, ExpireTime: now.Add(time.Minute)},
	}}
	n, first := w.pending(now)
	require.Equal(t, 2, n)
	require.Equal(t, now.Add(time.Minute), first)
	n, first = new(Wallet).pending(now)
	require.Zero(t, n)
	require.True(t, first.IsZero())
}

// A busy set is retried when the first silent run must have ended, or soon if a device is active.
func TestEstimateFree(t *testing.T) {
	t.Parallel()
	run := func(quiet time.Duration) *Run {
		r := newRun(runKey{}, nil)
		r.device = newDevice("", 1, 2*time.Minute, func() {})
		if quiet > 0 {
			r.device.waitingSince = time.Now().Add(-quiet)
		}
		return r
	}
	silent, ending, dead, answers, computes := run(time.Minute), run(110*time.Second), run(time.Hour), run(time.Second), run(0)
	require.Equal(t, maxBusyRetry, estimateFree([]*Run{silent, silent}))
	require.InDelta(t, 10*time.Second, estimateFree([]*Run{silent, ending}), float64(5*time.Second))
	require.Equal(t, time.Second, estimateFree([]*Run{dead, silent}))
	require.Equal(t, minBusyRetry, estimateFree([]*Run{silent, answers}))
	require.Equal(t, minBusyRetry, estimateFree([]*Run{silent, computes}))
	require.Equal(t, maxBusyRetry, estimateFree(nil))
}

// Every declared sentinel can be read back.
func TestByReasonIsComplete(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	require.NoError(t, err)
	declared := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.CompositeLit); ok && len(lit.Elts) == 1 {
			if name, ok := lit.Type.(*ast.Ident); ok && name.Name == "Error" {
				declared++
			}
		}
		return true
	})
	require.Greater(t, declared, 15)
	require.Len(t, byReason, declared)
}

func TestFromTSS(t *testing.T) {
	t.Parallel()
	require.NoError(t, fromTSS(nil))
	other := errors.New("other")
	for from, to := range map[error]error{
		tss.ErrShareMalformed: ErrShareMalformed, tss.ErrShareMismatch: ErrShareSetMismatch, tss.ErrRecordMalformed: ErrDataCorrupted,
		tss.ErrPayload: ErrInvalidArgument, context.Canceled: ErrInterrupted, context.DeadlineExceeded: ErrInterrupted, other: other,
	} {
		err := fromTSS(fmt.Errorf("wrapped: %w", from))
		require.ErrorIs(t, err, to)
		require.ErrorIs(t, err, from, "the cause is kept for the log")
	}
	var a *AbortedError
	require.ErrorAs(t, fromTSS(&tss.ProtocolError{Curve: Ed25519, Round: 2, Culprit: tss.Server, Err: other}), &a)
	require.Equal(t, "SERVER", a.Culprit)
	require.Equal(t, 2, a.Round)
	require.ErrorIs(t, a, other)
}

func TestReason(t *testing.T) {
	t.Parallel()
	require.Equal(t, "INTERNAL", Reason(errors.New("x")))
	require.Equal(t, "INTERNAL", Reason(ErrSuperseded))
	require.Equal(t, "INVALID_ARGUMENT", Reason(fmt.Errorf("x: %w", &FieldError{"a", "b"})))
	require.Equal(t, "PROTOCOL_ABORTED", Reason(fmt.Errorf("x: %w", &AbortedError{})))
	require.Equal(t, "BACKUP_NOT_FOUND", Reason(fmt.Errorf("x: %w", ErrBackupNotFound)))
	require.ErrorIs(t, &FieldError{}, ErrInvalidArgument)
}
