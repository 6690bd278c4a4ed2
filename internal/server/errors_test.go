package server

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpcd/mpcd/internal/session"
)

// reasons reads package session's reasons from its source, so that none is missing from the table.
func reasons(t *testing.T) (all []string) {
	t.Helper()
	file, err := goparser.ParseFile(token.NewFileSet(), "../session/errors.go", nil, 0)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok || len(lit.Elts) != 1 {
			return true
		}
		name, isName := lit.Type.(*ast.Ident)
		text, isText := lit.Elts[0].(*ast.BasicLit)
		if isName && isText && name.Name == "Error" {
			reason, err := strconv.Unquote(text.Value)
			require.NoError(t, err)
			all = append(all, reason)
		}
		return true
	})
	return all
}

// The table of docs/HTTP.md.
var productCodes = map[codes.Code][]string{
	codes.InvalidArgument:    {"INVALID_ARGUMENT", "SHARE_MALFORMED", "SHARE_SET_MISMATCH", "REQUEST_ID_REUSED"},
	codes.NotFound:           {"WALLET_NOT_FOUND", "SHARE_SET_NOT_FOUND", "SESSION_NOT_FOUND"},
	codes.FailedPrecondition: {"BACKUP_NOT_FOUND", "SHARE_SET_PENDING", "SHARE_SET_REVOKED", "SHARE_SET_LOCKED", "LAST_SHARE_SET", "DEVICE_HELD_WALLET", "SESSION_EXPIRED"},
	codes.ResourceExhausted:  {"OVERLOADED", "RATE_LIMITED", "TOO_MANY_PENDING", "SHARE_SET_BUSY", "SHARE_SET_LIMITED"},
	codes.Unavailable:        {"WEBHOOK_FAILED", "SHUTTING_DOWN"},
	codes.Aborted:            {"PROTOCOL_ABORTED", "INTERRUPTED"},
	codes.Canceled:           {"SESSION_CANCELLED"},
	codes.PermissionDenied:   {"PERMISSION_DENIED", "POLICY_DENIED"},
	codes.Unauthenticated:    {"UNAUTHENTICATED"},
	codes.DataLoss:           {"DATA_CORRUPTED"},
	codes.Internal:           {"INTERNAL"},
}

func TestEveryReasonHasItsCodeAndSentence(t *testing.T) {
	t.Parallel()
	all := reasons(t)
	require.Greater(t, len(all), 15)
	require.Len(t, publicErrors, len(all))
	sentences := map[string]string{}
	for _, reason := range all {
		p, ok := publicErrors[reason]
		require.True(t, ok, reason)
		require.Contains(t, productCodes[p.code], reason)
		require.True(t, strings.HasSuffix(p.sentence, "."), p.sentence)
		require.Empty(t, sentences[p.sentence], "%s and %s have one sentence", reason, sentences[p.sentence])
		sentences[p.sentence] = reason
	}
}

func TestToStatus(t *testing.T) {
	t.Parallel()
	cause := errors.New("the cause, for the log alone")
	for name, c := range map[string]struct {
		err    error
		code   codes.Code
		reason string
	}{
		"a sentinel":                    {session.ErrWalletNotFound, codes.NotFound, "WALLET_NOT_FOUND"},
		"a sentinel around a cause":     {fmt.Errorf("%w: %w", session.ErrShareMalformed, cause), codes.InvalidArgument, "SHARE_MALFORMED"},
		"a sentinel in others":          {fmt.Errorf("a: %w", fmt.Errorf("b: %w", session.ErrDataCorrupted)), codes.DataLoss, "DATA_CORRUPTED"},
		"an unknown error":              {cause, codes.Internal, "INTERNAL"},
		"a reason that is not a reason": {&session.Error{Reason: "NEW"}, codes.Internal, "INTERNAL"},
		"superseded":                    {session.ErrSuperseded, codes.Internal, "INTERNAL"},
		"a run that was interrupted":    {fmt.Errorf("%w: %w", session.ErrInterrupted, context.Canceled), codes.Aborted, "INTERRUPTED"},
		"a call that ended":             {fmt.Errorf("follow: %w", context.Canceled), codes.Canceled, ""},
		"a call whose time is up":       {context.DeadlineExceeded, codes.DeadlineExceeded, ""},
		"a status":                      {status.Error(codes.Unimplemented, "not built"), codes.Unimplemented, ""},
		"a status in an error":          {fmt.Errorf("x: %w", status.Error(codes.Unauthenticated, "who")), codes.Unauthenticated, ""},
		"an abort":                      {&session.AbortedError{Culprit: "CLIENT", Round: 3, Err: cause}, codes.Aborted, "PROTOCOL_ABORTED"},
		"an abort as it was stored":     {fmt.Errorf("x: %w", &session.AbortedError{Culprit: "SERVER"}), codes.Aborted, "PROTOCOL_ABORTED"},
		"a field":                       {&session.FieldError{Field: "curve", Want: "must be one"}, codes.InvalidArgument, "INVALID_ARGUMENT"},
		"a bare INVALID_ARGUMENT":       {session.ErrInvalidArgument, codes.InvalidArgument, "INVALID_ARGUMENT"},
		"fields":                        {requestError{{Field: "a", Want: "x"}, {Field: "b", Want: "y"}}, codes.InvalidArgument, "INVALID_ARGUMENT"},
	} {
		st := toStatus(c.err)
		require.Equal(t, c.code, st.Code(), name)
		require.Equal(t, c.reason, reason(st), name)
		require.NotContains(t, st.String(), cause.Error(), name)
		require.True(t, same(st, toStatus(st.Err())), "%s: it stays as it is", name)
	}
	st := toStatus(requestError{{Field: "a", Want: "must be x"}, {Field: "b[0]", Want: "must be y"}})
	require.Equal(t, "The request is not valid: a must be x; b[0] must be y.", st.Message())
	st = toStatus(&session.AbortedError{Culprit: "CLIENT", Round: 3, Err: cause})
	info, ok := st.Details()[0].(*errdetails.ErrorInfo)
	require.True(t, ok)
	require.Equal(t, map[string]string{"culprit": "CLIENT", "round": "3"}, info.GetMetadata())
	require.ErrorIs(t, requestError{{Field: "a"}}, session.ErrInvalidArgument)
	require.NotErrorIs(t, requestError{}, session.ErrShareMalformed)
}

func same(a, b *status.Status) bool {
	return a.String() == b.String() && len(a.Details()) == len(b.Details())
}

func retryInfo(st *status.Status) (time.Duration, bool) {
	for _, d := range st.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			return r.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// An error has RetryInfo, with a time over zero, if and only if retrying can help, for every reason.
func TestRetryInfoOnTemporaryErrors(t *testing.T) {
	t.Parallel()
	passes := []string{"INTERRUPTED", "SHUTTING_DOWN", "OVERLOADED", "RATE_LIMITED", "WEBHOOK_FAILED", "TOO_MANY_PENDING", "SHARE_SET_BUSY", "SHARE_SET_LIMITED"}
	for _, reason := range reasons(t) {
		d, ok := retryInfo(toStatus(fmt.Errorf("with a cause: %w", &session.Error{Reason: reason})))
		require.Equal(t, slices.Contains(passes, reason), ok, reason)
		require.Equal(t, ok, d > 0, reason)
	}
	_, ok := retryInfo(toStatus(errors.New("unknown")))
	require.False(t, ok)
	for name, c := range map[string]struct {
		err  error
		want time.Duration
	}{
		"a webhook's":      {&session.WebhookError{RetryAfter: time.Minute}, time.Minute},
		"a webhook's own":  {&session.WebhookError{}, retryDelays["WEBHOOK_FAILED"]},
		"pending sets":     {&session.PendingError{Count: 16, Limit: 16, RetryAfter: 14 * time.Minute}, 14 * time.Minute},
		"a busy set":       {&session.BusyError{RetryAfter: 30 * time.Second}, 30 * time.Second},
		"a limited set":    {&session.BudgetError{RetryAfter: 23 * time.Hour}, 23 * time.Hour},
		"a full queue":     {&session.OverloadedError{RetryAfter: 9 * time.Second}, 9 * time.Second},
		"a caller's share": {&session.OverloadedError{RetryAfter: 4 * time.Second, Own: true}, 4 * time.Second},
		"bad proofs":       {&session.LimitedError{RetryAfter: 5 * time.Second, Proofs: true}, 5 * time.Second},
		"a rate":           {&limitedError{retryAfter: 3 * time.Second}, 3 * time.Second},
		"canceled by us":   {&session.WebhookError{Err: context.DeadlineExceeded}, retryDelays["WEBHOOK_FAILED"]},
	} {
		d, ok := retryInfo(toStatus(fmt.Errorf("deposit: %w", c.err)))
		require.True(t, ok, name)
		require.Equal(t, c.want, d, name)
	}
	refused := toStatus(fmt.Errorf("deposit: %w", &session.WebhookError{Permanent: true, RetryAfter: time.Minute, Err: errors.New("answered 403")}))
	_, ok = retryInfo(refused)
	require.False(t, ok)
	require.Equal(t, "WEBHOOK_FAILED", reason(refused))
	require.Equal(t, codes.Unavailable, refused.Code())
	require.NotContains(t, refused.Message(), "epeat")
	require.NotContains(t, refused.Message(), "403")
}

// A sentence is the same over gRPC and HTTP, which spell field names differently: it contains none.
func TestSentencesNameNoFields(t *testing.T) {
	t.Parallel()
	all := []string{webhookRefused}
	for _, p := range publicErrors {
		all = append(all, p.sentence)
	}
	for _, err := range []error{session.ErrHashOfSealed, session.ErrHashOfText, session.ErrHashMismatch} {
		all = append(all, hashSentence(err))
	}
	for _, err := range []error{&session.OverloadedError{Own: true}, &session.LimitedError{}, &session.LimitedError{Proofs: true}} {
		all = append(all, sentenceOf(err))
	}
	for _, sentence := range all {
		require.Empty(t, protoName.FindString(sentence), sentence)
	}
}
