package e2e_test

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// retryIn returns when to retry according to an answer; over HTTP its header must agree.
func retryIn(t *testing.T, a answer) (time.Duration, bool) {
	t.Helper()
	for _, d := range a.status.Details() {
		r, ok := d.(*errdetails.RetryInfo)
		if !ok {
			continue
		}
		wait := r.GetRetryDelay().AsDuration()
		if a.header != nil && len(a.messages) == 0 { // after the first message it is too late for a header
			seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
			require.NoError(t, err)
			require.GreaterOrEqual(t, time.Duration(seconds)*time.Second, wait)
			require.Less(t, time.Duration(seconds)*time.Second, wait+time.Second+time.Millisecond)
		}
		return wait, true
	}
	require.Empty(t, a.header.Get("Retry-After"))
	return 0, false
}

// A wallet's unconfirmed sets are limited. The error of a further one says how many there are and when the first of
// them expires.
func TestTooManyPending(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Sessions: session.Config{PendingSets: 3, ResultTTL: 10 * time.Minute}})
	there := 0
	for _, s := range wallet(t, f.Service, f.backup.wallet).GetShareSets() {
		if s.GetState() == pb.ShareSetState_SHARE_SET_STATE_PENDING {
			there++
		}
	}
	for ; there < 3; there++ {
		made(t, overGRPC(t, f.Service, alice, provisionReq(f.backup)), f.backup.wallet)
	}
	for _, req := range []proto.Message{provisionReq(f.backup), backupReq(f.first), deviceReq(f.backup, uuid.NewString()), deviceBackupReq(f.first)} {
		for _, do := range transports {
			a := do(t, f.Service, alice, req)
			refused(t, a, codes.ResourceExhausted, "TOO_MANY_PENDING")
			require.Empty(t, a.messages)
			i, _ := info(t, a.status)
			require.Equal(t, map[string]string{"count": "3", "limit": "3"}, i.GetMetadata())
			wait, ok := retryIn(t, a)
			require.True(t, ok)
			require.Greater(t, wait, time.Minute)
			require.LessOrEqual(t, wait, 15*time.Minute)
		}
	}
	signs(t, f.Service, wallet(t, f.Service, f.second.wallet), f.second)
}

// A set with the permitted number of device-held runs says so, and when a further one may be possible.
func TestShareSetBusy(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Sessions: session.Config{Aborts: 2, DeviceSilence: time.Minute}})
	for range 2 {
		defer silent(t, f.Service, deviceSignReq(f.first), f.first)()
	}
	for _, do := range transports {
		req := deviceSignReq(f.first)
		a := deviceSays(t, f.Service, do, req, f.first, hello(t, req))
		refused(t, a, codes.ResourceExhausted, "SHARE_SET_BUSY")
		wait, ok := retryIn(t, a)
		require.True(t, ok)
		require.LessOrEqual(t, wait, 30*time.Second)
		rec, err := f.Store.ByRequest(t.Context(), "alice", req.GetRequestId())
		require.NoError(t, err)
		s := getSession(t, f.Service, rec.ID)
		require.Equal(t, pb.SessionState_SESSION_STATE_INTERRUPTED, s.GetState(),
			"the same request proceeds when another run has ended")
		require.Equal(t, "SHARE_SET_BUSY", s.GetError().GetReason())
	}
}

// A refusal by the customer's service ends a session permanently: callers that attach get the same error, and the
// custodian is not asked again. A failure allows the next attempt.
func TestWebhookErrorsSurvive(t *testing.T) {
	t.Parallel()
	var fault atomic.Pointer[session.WebhookError]
	var asked atomic.Int32
	fails := func(context.Context) error {
		asked.Add(1)
		if w := fault.Load(); w != nil {
			return w
		}
		return nil
	}
	f := start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: fails, BeforeDeposit: fails}
	}})
	for _, do := range transports {
		for _, req := range []startsARun{provisionReq(f.backup), backupReq(f.first)} {
			fault.Store(&session.WebhookError{RetryAfter: 7 * time.Second, Err: errors.New("answered 503")})
			a := do(t, f.Service, alice, req)
			refused(t, a, codes.Unavailable, "WEBHOOK_FAILED")
			wait, ok := retryIn(t, a)
			require.True(t, ok)
			require.Equal(t, 7*time.Second, wait)
			rec, err := f.Store.ByRequest(t.Context(), alice.Name, req.GetRequestId())
			require.NoError(t, err)
			require.Equal(t, session.Interrupted, rec.State)
			require.Equal(t, a.status.Message(), getSession(t, f.Service, rec.ID).GetError().GetMessage())

			fault.Store(&session.WebhookError{Permanent: true, Err: errors.New("answered 403")})
			before := asked.Load()
			for range 3 {
				a = do(t, f.Service, alice, req)
				refused(t, a, codes.Unavailable, "WEBHOOK_FAILED")
				_, ok = retryIn(t, a)
				require.False(t, ok)
				require.NotContains(t, a.status.Message(), "epeat")
			}
			require.Equal(t, before+1, asked.Load())
			s := getSession(t, f.Service, rec.ID)
			require.Equal(t, pb.SessionState_SESSION_STATE_FAILED, s.GetState())
			require.Equal(t, uint32(2), s.GetAttempt())
			require.Equal(t, a.status.Message(), s.GetError().GetMessage())
		}
	}
}

// If a policy does not answer, retrying asks it again; if it refuses permanently, it does not.
func TestPolicyFaultsSayWhetherTheyPass(t *testing.T) {
	t.Parallel()
	var fault atomic.Pointer[session.WebhookError]
	f := start(t, servertest.Config{Wrap: func(p *session.Ports) { p.Policy = policyFunc(func() error { return fault.Load() }) }})
	signing := signReq(f.second)
	for _, req := range []proto.Message{backupReq(f.first), provisionReq(f.backup), signing, deviceSignReq(f.second), revokeReq(f.second)} {
		for _, do := range transports {
			call := func() answer {
				if d, ok := req.(deviceRun); ok && d.GetDevice() != nil { // it is asked when the device has shown its share
					d = remade(d)
					return deviceSays(t, f.Service, do, d, f.second, hello(t, d))
				}
				return do(t, f.Service, alice, req)
			}
			fault.Store(&session.WebhookError{RetryAfter: 90 * time.Second})
			a := call()
			refused(t, a, codes.Unavailable, "WEBHOOK_FAILED")
			wait, ok := retryIn(t, a)
			require.True(t, ok)
			require.Equal(t, 90*time.Second, wait)
			fault.Store(&session.WebhookError{Permanent: true})
			a = call()
			refused(t, a, codes.Unavailable, "WEBHOOK_FAILED")
			_, ok = retryIn(t, a)
			require.False(t, ok)
		}
	}
}

// policyFunc is a Policy.
type policyFunc func() error

// Allow implements session.Policy.
func (f policyFunc) Allow(context.Context, session.Question) error { return f() }
