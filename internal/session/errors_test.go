package session

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// What is stored of a failure and read back is the same to a caller.
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

// Every sentinel that is declared can be read back.
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
