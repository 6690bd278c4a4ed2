package client_test

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mpcd/mpcd/client"
	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// unreliable is a connection to a fake. ProvisionWallet attaches by request id, as with the real service, and calls
// fail as the test specifies.
type unreliable struct {
	grpc.ClientConnInterface
	t *testing.T

	// fault returns the error with which the nth stream (from 1) fails before its message i (from 0), or nil. For a unary
	// call, i is 0.
	fault func(method string, n, i int) error

	mu       sync.Mutex // guards what follows
	attached map[string]int
	at       []time.Time // of the attaches to streams
	requests []*mpcdv1.ProvisionWalletRequest
	events   map[string][]*mpcdv1.ProvisionWalletResponse // by request id
}

func (u *unreliable) count(method string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.attached[method]++
	return u.attached[method]
}

// Invoke implements grpc.ClientConnInterface.
func (u *unreliable) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	n := u.count(method)
	if err := u.fault(method, n, 0); err != nil {
		return err
	}
	return u.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
}

const provisionMethod = mpcdv1.WalletService_ProvisionWallet_FullMethodName

// NewStream implements grpc.ClientConnInterface.
func (u *unreliable) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if method != provisionMethod {
		return u.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	}
	n := u.count(method)
	u.mu.Lock()
	u.at = append(u.at, time.Now())
	u.mu.Unlock()
	return &attachment{u: u, ctx: ctx, desc: desc, opts: opts, n: n}, nil
}

// attachment is one stream of a run.
type attachment struct {
	grpc.ClientStream
	u    *unreliable
	ctx  context.Context
	desc *grpc.StreamDesc
	opts []grpc.CallOption
	n, i int
	todo []*mpcdv1.ProvisionWalletResponse
}

// SendMsg starts a run if the request id is new, and attaches to its run otherwise.
func (a *attachment) SendMsg(m any) error {
	req, ok := m.(*mpcdv1.ProvisionWalletRequest)
	require.True(a.u.t, ok)
	a.u.mu.Lock()
	defer a.u.mu.Unlock()
	a.u.requests = append(a.u.requests, proto.CloneOf(req))
	if err := a.u.fault(provisionMethod, a.n, -1); err != nil {
		return nil // RecvMsg returns the error
	}
	all, there := a.u.events[req.GetRequestId()]
	if !there {
		stream, err := mpcdv1.NewWalletServiceClient(a.u.ClientConnInterface).ProvisionWallet(a.ctx, req)
		require.NoError(a.u.t, err)
		for msg, err := stream.Recv(); err == nil; msg, err = stream.Recv() {
			all = append(all, msg)
		}
		a.u.events[req.GetRequestId()] = all
	}
	for _, e := range all {
		if p := e.GetProgress(); p == nil || p.GetSequence() > req.GetAfterSequence() {
			a.todo = append(a.todo, e)
		}
	}
	return nil
}

func (a *attachment) CloseSend() error { return nil }

func (a *attachment) RecvMsg(m any) error {
	if err := a.ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	if err := a.u.fault(provisionMethod, a.n, -1); err != nil {
		return err
	}
	if err := a.u.fault(provisionMethod, a.n, a.i); err != nil {
		return err
	}
	if len(a.todo) == 0 {
		return io.EOF
	}
	resp, ok := m.(*mpcdv1.ProvisionWalletResponse)
	require.True(a.u.t, ok)
	proto.Merge(resp, a.todo[0])
	a.todo, a.i = a.todo[1:], a.i+1
	return nil
}

// provisionFunc provisions a test's wallet.
type provisionFunc func(context.Context, client.ProgressFunc) (*client.Share, error)

// withUnreliable runs a test in a synctest bubble, with a function that provisions a wallet over an unreliable
// connection.
func withUnreliable(
	t *testing.T, fault func(method string, n, i int) error,
	test func(t *testing.T, u *unreliable, provision provisionFunc),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f, conn := newFake(t)
		_, backup := backedUp(t, newClient(t, f, conn))
		u := &unreliable{
			ClientConnInterface: conn, t: t, fault: fault,
			attached: map[string]int{}, events: map[string][]*mpcdv1.ProvisionWalletResponse{},
		}
		c := newClient(t, f, u)
		test(t, u, func(ctx context.Context, onProgress client.ProgressFunc) (*client.Share, error) {
			return c.ProvisionWallet(ctx, backup.CipherText, client.MethodPassword, onProgress)
		})
	})
}

// oneRun requires that all streams were opened with the same request, and returns the after_sequence of each.
func oneRun(t *testing.T, u *unreliable) (after []uint32) {
	t.Helper()
	for _, req := range u.requests {
		after = append(after, req.GetAfterSequence())
		same := proto.CloneOf(req)
		same.AfterSequence = u.requests[0].GetAfterSequence()
		require.True(t, proto.Equal(u.requests[0], same), "only after_sequence may differ")
	}
	require.LessOrEqual(t, len(u.events), 1)
	return after
}

var errDropped = status.Error(codes.Unavailable, "connection reset by peer")

// The stream is lost before every event in turn: there is still one run, and the app sees each step once.
func TestDropAtEveryEvent(t *testing.T) {
	var whole []client.Progress
	noFault := func(string, int, int) error { return nil }
	withUnreliable(t, noFault, func(t *testing.T, u *unreliable, provision provisionFunc) {
		onProgress, all := gather()
		_, err := provision(t.Context(), onProgress)
		require.NoError(t, err)
		require.Len(t, u.requests, 1)
		whole = *all
	})
	for name, err := range map[string]error{
		"reset": errDropped, "no status": status.Error(codes.Unknown, "EOF"), "by a proxy": status.Error(codes.Internal, "stream terminated by RST_STREAM"),
	} {
		t.Run(name, func(t *testing.T) {
			fault := func(method string, n, i int) error {
				if method == provisionMethod && i == 1 {
					return err
				}
				return nil
			}
			withUnreliable(t, fault, func(t *testing.T, u *unreliable, provision provisionFunc) {
				onProgress, all := gather()
				share, err := provision(t.Context(), onProgress)
				require.NoError(t, err)
				require.Equal(t, []uint32{0, 1, 2, 3, 4, 5, 6, 7}, oneRun(t, u))
				require.Len(t, u.events, 1, "one run")
				require.NotNil(t, share)
				require.Equal(t, steps(whole), steps(*all))
				require.Len(t, *all, len(whole), "each step once")
				requireProgress(t, *all, client.OperationProvision)
			})
		})
	}
}

// The service cannot be reached from the start, for a short or a long time.
func TestUnavailable(t *testing.T) {
	for name, c := range map[string]struct {
		calls int
		ok    bool
	}{"twice": {2, true}, "for ever": {1 << 30, false}} {
		t.Run(name, func(t *testing.T) {
			fault := func(method string, n, i int) error {
				if method == provisionMethod && i == -1 && n <= c.calls {
					return errDropped
				}
				return nil
			}
			withUnreliable(t, fault, func(t *testing.T, u *unreliable, provision provisionFunc) {
				begun := time.Now()
				_, err := provision(t.Context(), nil)
				oneRun(t, u)
				if c.ok {
					require.NoError(t, err)
					require.Len(t, u.requests, 3)
					return
				}
				require.Equal(t, codes.Unavailable, status.Code(err))
				took := time.Since(begun)
				require.True(t, took > 4*time.Second && took < 15*time.Second, "gave up after %v", took)
				require.Less(t, len(u.requests), 10)
				for i := 2; i < len(u.at); i++ { // waits double, and jitter is at most half of a wait
					require.GreaterOrEqual(t, u.at[i].Sub(u.at[i-1]), (u.at[i-1].Sub(u.at[i-2])).Truncate(time.Millisecond))
				}
			})
		})
	}
}

// If the service is lost during a run, the call waits minutes for it, but not forever.
func TestServiceLostDuringRun(t *testing.T) {
	for name, c := range map[string]struct {
		back time.Duration
		ok   bool
	}{"a restart": {2 * time.Minute, true}, "for ever": {24 * time.Hour, false}} {
		t.Run(name, func(t *testing.T) {
			var gone time.Time
			fault := func(method string, n, i int) error {
				switch {
				case method != provisionMethod:
				case n == 1 && i == 3:
					gone = time.Now()
					return errDropped
				case n > 1 && time.Since(gone) < c.back:
					return errDropped
				}
				return nil
			}
			withUnreliable(t, fault, func(t *testing.T, u *unreliable, provision provisionFunc) {
				_, err := provision(t.Context(), nil)
				after := oneRun(t, u)
				require.Equal(t, []uint32{0, 3}, slices.Compact(after))
				if c.ok {
					require.NoError(t, err)
				} else {
					require.Equal(t, codes.Unavailable, status.Code(err))
					require.Less(t, time.Since(gone), 4*time.Minute)
				}
				require.Less(t, len(after), 60, "too many calls")
			})
		})
	}
}

func refusalAfter(code codes.Code, reason string, retry time.Duration) error {
	st, err := status.New(code, reason).WithDetails(&errdetails.ErrorInfo{Domain: "mpcd", Reason: reason}, &errdetails.RetryInfo{RetryDelay: durationpb.New(retry)})
	if err != nil {
		return err
	}
	return st.Err()
}

// The service's RetryInfo is honoured, even beyond the short patience for a wrong address.
func TestOverloadedIsHonoured(t *testing.T) {
	fault := func(method string, n, i int) error {
		if method == provisionMethod && i == -1 && n <= 3 {
			return refusalAfter(codes.ResourceExhausted, "OVERLOADED", 30*time.Second)
		}
		return nil
	}
	withUnreliable(t, fault, func(t *testing.T, u *unreliable, provision provisionFunc) {
		_, err := provision(t.Context(), nil)
		require.NoError(t, err)
		oneRun(t, u)
		require.Len(t, u.at, 4)
		for i := range 3 {
			waited := u.at[i+1].Sub(u.at[i])
			require.True(t, waited >= 30*time.Second && waited <= 38*time.Second, "%v", waited)
		}
	})
}

// A run that the service interrupted continues with the same request id.
func TestInterruptedGoesOn(t *testing.T) {
	for _, reason := range []string{"INTERRUPTED", "SHUTTING_DOWN"} {
		code := map[string]codes.Code{"INTERRUPTED": codes.Aborted, "SHUTTING_DOWN": codes.Unavailable}[reason]
		fault := func(method string, n, i int) error {
			if method == provisionMethod && n == 1 && i == 4 {
				return refusalAfter(code, reason, 0)
			}
			return nil
		}
		withUnreliable(t, fault, func(t *testing.T, u *unreliable, provision provisionFunc) {
			_, err := provision(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, []uint32{0, 4}, oneRun(t, u))
		})
	}
}

// If the service interrupts every attempt, the call gives up.
func TestInterruptedForEver(t *testing.T) {
	fault := func(method string, n, i int) error {
		if method == provisionMethod && i == 0 {
			return refusalAfter(codes.Aborted, "INTERRUPTED", 0)
		}
		return nil
	}
	withUnreliable(t, fault, func(t *testing.T, u *unreliable, provision provisionFunc) {
		_, err := provision(t.Context(), nil)
		require.Equal(t, "INTERRUPTED", client.Reason(err))
		require.Len(t, u.at, 10)
	})
}

// Errors that a retry cannot help are returned at once.
func TestNotRetried(t *testing.T) {
	for _, want := range []error{
		refusal(codes.InvalidArgument, "SHARE_MALFORMED", "no"), refusal(codes.FailedPrecondition, "SESSION_EXPIRED", "no"),
		refusal(codes.Canceled, "SESSION_CANCELLED", "no"), refusal(codes.Aborted, "PROTOCOL_ABORTED", "no"), refusal(codes.Internal, "INTERNAL", "no"),
		refusal(codes.DataLoss, "DATA_CORRUPTED", "no"), refusal(codes.Unavailable, "WEBHOOK_FAILED", "the custodian refused"), status.Error(codes.Unauthenticated, "who?"), status.Error(codes.Unimplemented, "what?"),
	} {
		for _, at := range []int{-1, 3} {
			fault := func(method string, n, i int) error {
				if method == provisionMethod && i == at {
					return want
				}
				return nil
			}
			withUnreliable(t, fault, func(t *testing.T, u *unreliable, provision provisionFunc) {
				begun := time.Now()
				_, err := provision(t.Context(), nil)
				require.Equal(t, status.Code(want), status.Code(err))
				require.Len(t, u.requests, 1)
				require.Zero(t, time.Since(begun))
			})
		}
	}
}

// RetryInfo alone decides whether an error of the service is retried, even with a reason that the SDK does not know. If
// the wait is too long, the error is returned at once, with the time.
func TestRetryInfoDecides(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		ok   bool
		wait time.Duration
	}{
		"of a later service":        {refusalAfter(codes.FailedPrecondition, "OF_A_LATER_SERVICE", time.Second), true, 0},
		"no waiting":                {refusalAfter(codes.Aborted, "INTERRUPTED", 0), true, 0},
		"INTERRUPTED, not to pass":  {refusal(codes.Aborted, "INTERRUPTED", "no"), false, 0},
		"UNAVAILABLE, not to pass":  {refusal(codes.Unavailable, "OF_A_LATER_SERVICE", "no"), false, 0},
		"longer than it has to try": {refusalAfter(codes.ResourceExhausted, "TOO_MANY_PENDING", 14*time.Minute), false, 14 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			fault := func(method string, n, i int) error {
				if method == provisionMethod && i == -1 && n == 1 {
					return c.err
				}
				return nil
			}
			withUnreliable(t, fault, func(t *testing.T, u *unreliable, provision provisionFunc) {
				begun := time.Now()
				_, err := provision(t.Context(), nil)
				if c.ok {
					require.NoError(t, err)
					require.Len(t, u.requests, 2)
					return
				}
				var e *client.Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, c.wait, e.RetryAfter)
				require.Len(t, u.requests, 1)
				require.Zero(t, time.Since(begun))
			})
		})
	}
}

// A set that is busy with abandoned device-held runs is free again within two minutes: the call waits that long.
func TestSignWaitsForBusySet(t *testing.T) {
	var begun time.Time
	fault := func(method string, n, i int) error {
		if method != provisionMethod || i != -1 {
			return nil
		}
		if n == 1 {
			begun = time.Now()
		}
		if left := 2*time.Minute - time.Since(begun); left > 0 {
			return refusalAfter(codes.ResourceExhausted, "SHARE_SET_BUSY", min(30*time.Second, left))
		}
		return nil
	}
	withUnreliable(t, fault, func(t *testing.T, u *unreliable, provision provisionFunc) {
		_, err := provision(t.Context(), nil)
		require.NoError(t, err)
		require.Less(t, len(u.requests), 8)
		require.Less(t, time.Since(begun), 160*time.Second)
	})
}

// bothWays runs a test with a hosted and with a device-held client. The service's nth stream (from 1) has the events
// that events returns.
func bothWays(
	t *testing.T, events func(n uint32, evs []sent) []sent, test func(t *testing.T, c *client.Client, streams *uint32),
) {
	t.Helper()
	for name, opts := range map[string][]client.Option{"hosted": nil, "device-held": {client.WithDeviceHeldShares()}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, conn := newFake(t)
				n := uint32(0)
				f.lieEvents = func(evs []sent) []sent {
					n++
					return events(n, evs)
				}
				test(t, newClient(t, f, acknowledging{conn}, opts...), &n)
			})
		})
	}
}

// begins returns the first event of an attempt.
func begins(evs []sent, attempt uint32) sent {
	evs[0].progress.Attempt, evs[0].progress.Sequence = attempt, 1000*attempt
	return evs[0]
}

// Hosted and device-held calls retry by the same rule: an attempt counts however it ended, the waits between attempts
// grow, RetryInfo decides whether to retry, and the last error is returned.
func TestOneRuleForHostedAndDeviceHeld(t *testing.T) {
	interrupted := refusalAfter(codes.Aborted, "INTERRUPTED", 0)
	failed := refusalAfter(codes.Unavailable, "WEBHOOK_FAILED", 2*time.Second)
	limited := refusalAfter(codes.ResourceExhausted, "RATE_LIMITED", time.Second)
	busy := refusalAfter(codes.ResourceExhausted, "SHARE_SET_BUSY", time.Second)
	later := refusalAfter(codes.Aborted, "OF_A_LATER_SERVICE", 0)
	tooLate := refusalAfter(codes.ResourceExhausted, "TOO_MANY_PENDING", 14*time.Minute)
	for name, c := range map[string]struct {
		ends     []error // of the attempts, in turn
		attempts uint32
	}{
		"INTERRUPTED":         {[]error{interrupted}, client.MaxAttempts},
		"WEBHOOK_FAILED":      {[]error{failed}, client.MaxAttempts},
		"RATE_LIMITED":        {[]error{limited}, client.MaxAttempts},
		"each in turn":        {[]error{interrupted, failed, busy, limited, later}, client.MaxAttempts},
		"for good":            {[]error{refusal(codes.Unavailable, "WEBHOOK_FAILED", "the custodian refused")}, 1},
		"for good, at last":   {[]error{interrupted, failed, refusal(codes.Aborted, "INTERRUPTED", "no")}, 3},
		"longer than it has":  {[]error{failed, tooLate}, 2},
		"by the client":       {[]error{interrupted, refusal(codes.Aborted, "PROTOCOL_ABORTED", "no")}, 2},
		"by another, at last": {[]error{failed, failed, refusal(codes.Canceled, "SESSION_CANCELLED", "no")}, 3},
	} {
		end := func(n uint32) error { return c.ends[(n-1)%uint32(len(c.ends))] }
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(n uint32, evs []sent) []sent {
				return []sent{begins(evs, n), {err: end(n)}}
			}, func(t *testing.T, cl *client.Client, streams *uint32) {
				var rests []time.Duration
				cl.SetRest(func(_ context.Context, d time.Duration) error {
					rests = append(rests, d)
					time.Sleep(d)
					return nil
				})
				_, err := cl.CreateWallet(t.Context(), nil)
				require.Equal(t, c.attempts, *streams)
				require.Equal(t, status.Convert(end(c.attempts)).Proto().String(), status.Convert(err).Proto().String())
				require.Len(t, rests, int(c.attempts-1))
				for i, d := range rests {
					require.GreaterOrEqual(t, d, min(200*time.Millisecond<<i, 10*time.Second)/2)
				}
			})
		})
	}
}

// An attempt counts once, even if after it the connection is lost before the next one begins.
func TestEachAttemptCountsOnce(t *testing.T) {
	bothWays(t, func(n uint32, evs []sent) []sent {
		if n%2 == 0 {
			return []sent{{err: errDropped}}
		}
		return []sent{begins(evs, n/2+1), {err: refusalAfter(codes.Aborted, "INTERRUPTED", 0)}}
	}, func(t *testing.T, c *client.Client, streams *uint32) {
		_, err := c.CreateWallet(t.Context(), nil)
		require.Equal(t, "INTERRUPTED", client.Reason(err))
		require.Equal(t, uint32(2*client.MaxAttempts-1), *streams)
	})
}

// If the service crashes in every attempt, it reports no error for them; they count all the same.
func TestCrashingServiceEndsTheCall(t *testing.T) {
	bothWays(t, func(n uint32, evs []sent) []sent {
		for i := range evs[:3] {
			evs[i].progress.Attempt, evs[i].progress.Sequence = n, 1000*n+uint32(i)
		}
		return append(evs[:3:3], sent{err: errDropped})
	}, func(t *testing.T, c *client.Client, streams *uint32) {
		begun := time.Now()
		_, err := c.CreateWallet(t.Context(), nil)
		require.Equal(t, codes.Unavailable, status.Code(err))
		require.Equal(t, uint32(client.MaxAttempts+1), *streams, "the call gives up when the eleventh attempt begins")
		require.Greater(t, time.Since(begun), 20*time.Second, "the waits did not grow")
	})
}

// If each stream makes a little progress and is lost, the call gives up in the end and does not flood the service, but
// it tolerates as many lost streams as a run may have.
func TestLostStreamsHaveABound(t *testing.T) {
	for name, c := range map[string]struct {
		end     error // nil: without a status
		attempt uint32
		good    int // the stream that goes through; 0: none
		held    bool
	}{
		"EOF":                      {nil, 1, 0, false},
		"unavailable":              {errDropped, 1, 0, false},
		"no attempt":               {errDropped, 0, 0, false},
		"device-held":              {errDropped, 1, 0, true},
		"device-held, EOF":         {nil, 1, 0, true},
		"the last one brings it":   {errDropped, 1, client.MaxLost, false},
		"the last one, no attempt": {nil, 0, client.MaxLost, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, conn := newFake(t)
				n := 0
				f.lieEvents = func(evs []sent) []sent {
					n++
					if n == c.good {
						return evs
					}
					evs[1].progress.Attempt, evs[1].progress.Sequence = c.attempt, 10*uint32(n)
					if c.end == nil {
						return evs[1:2]
					}
					return []sent{evs[1], {err: c.end}}
				}
				var opts []client.Option
				if c.held {
					opts = append(opts, client.WithDeviceHeldShares())
				}
				cl := newClient(t, f, acknowledging{conn}, opts...)
				var rests int
				cl.SetRest(func(ctx context.Context, d time.Duration) error {
					if rests++; rests > 10 {
						require.GreaterOrEqual(t, d, time.Second)
					}
					require.Less(t, rests, 200, "the call does not end")
					return nil
				})
				_, err := cl.CreateWallet(t.Context(), nil)
				if c.good > 0 {
					require.NoError(t, err)
					return
				}
				require.Error(t, err)
				require.Equal(t, client.MaxLost, n)
			})
		})
	}
}

// acknowledging is a connection to a service that acknowledges every message of a device.
type acknowledging struct{ grpc.ClientConnInterface }

// Invoke implements grpc.ClientConnInterface.
func (c acknowledging) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	req, ok := args.(*mpcdv1.SendMessagesRequest)
	if resp, is := reply.(*mpcdv1.SendMessagesResponse); ok && is {
		resp.Ack = req.GetMessages()[len(req.GetMessages())-1].GetSequence()
		return nil
	}
	return c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
}

// unresponsive is a service that begins device-held runs and always acknowledges ack.
type unresponsive struct {
	grpc.ClientConnInterface
	ack   uint32
	calls atomic.Int32 // of SendMessages
}

// Invoke implements grpc.ClientConnInterface.
func (d *unresponsive) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	if resp, ok := reply.(*mpcdv1.SendMessagesResponse); ok {
		d.calls.Add(1)
		resp.Ack = d.ack
	}
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (d *unresponsive) NewStream(
	ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return &begun{ctx: ctx}, nil
}

// begun is a stream that reports that a run has begun, and then blocks.
type begun struct {
	grpc.ClientStream
	ctx  context.Context
	said bool
}

func (b *begun) SendMsg(any) error { return nil }
func (b *begun) CloseSend() error  { return nil }

func (b *begun) RecvMsg(m any) error {
	if b.said {
		<-b.ctx.Done()
		return status.FromContextError(b.ctx.Err()).Err()
	}
	b.said = true
	if resp, ok := m.(*mpcdv1.CreateWalletResponse); ok {
		resp.Event = &mpcdv1.CreateWalletResponse_Progress{Progress: &mpcdv1.Progress{SessionId: "session", Attempt: 1, Sequence: 1}}
	}
	return nil
}

// If SendMessages calls succeed but acknowledge no message, the call gives up. An acknowledgement of messages that were
// never sent is ignored.
func TestMessagesThatAreNotTaken(t *testing.T) {
	for _, ack := range []uint32{0, 1000} {
		synctest.Test(t, func(t *testing.T) {
			d := &unresponsive{ack: ack}
			c, err := client.New(d, client.WithDeviceHeldShares(), client.WithCurves(client.CurveEd25519),
				client.WithStore(func(context.Context, *client.Share) error { return nil }))
			require.NoError(t, err)
			_, err = c.CreateWallet(t.Context(), nil)
			require.ErrorIs(t, err, client.ErrBadAnswer)
			require.ErrorContains(t, err, "acknowledges no message")
			require.Less(t, d.calls.Load(), int32(60))
		})
	}
}

// late is a service that acknowledges the device's hello late, and its next message late again.
type late struct {
	grpc.ClientConnInterface
	start time.Time
	hello chan struct{} // closed when it has acknowledged the hello
	taken func()        // called when it has acknowledged the next message
}

// Invoke implements grpc.ClientConnInterface.
func (l *late) Invoke(_ context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	req, ok := args.(*mpcdv1.SendMessagesRequest)
	if resp, is := reply.(*mpcdv1.SendMessagesResponse); ok && is {
		switch n, at := req.GetMessages()[0].GetSequence(), time.Since(l.start); {
		case n == 1 && at > 2*time.Minute:
			resp.Ack = 1
			close(l.hello)
		case n == 2 && at > 4*time.Minute:
			resp.Ack = 2
			l.taken()
		default:
			resp.Ack = n - 1
		}
	}
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (l *late) NewStream(
	ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return &helloStream{begun: begun{ctx: ctx}, hello: l.hello}, nil
}

// helloStream reports that a run has begun, and then has the service's hello.
type helloStream struct {
	begun
	hello <-chan struct{}
}

func (g *helloStream) RecvMsg(m any) error {
	resp, ok := m.(*mpcdv1.CreateWalletResponse)
	if !ok || !g.said || g.hello == nil {
		return g.begun.RecvMsg(m)
	}
	select {
	case <-g.hello:
	case <-g.ctx.Done():
		return status.FromContextError(g.ctx.Err()).Err()
	}
	g.hello = nil
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	resp.Event = &mpcdv1.CreateWalletResponse_Message{Message: &mpcdv1.ProtocolMessage{Sequence: 1, Hello: &mpcdv1.Hello{
		Nonce: make([]byte, 32), SessionKey: key.PublicKey().Bytes(), PartyKeys: append(make([]byte, 31), 7), WalletId: uuid.NewString(), ShareSetId: uuid.NewString(),
	}}}
	return err
}

// The time limit applies to each message: a busy service may acknowledge the first one late, and the next one late
// again.
func TestMessagesThatAreTakenLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		l := &late{start: time.Now(), hello: make(chan struct{}), taken: func() { cancel(enough) }}
		c, err := client.New(l, client.WithDeviceHeldShares(), client.WithCurves(client.CurveEd25519),
			client.WithStore(func(context.Context, *client.Share) error { return nil }))
		require.NoError(t, err)
		_, err = c.CreateWallet(ctx, nil)
		require.Error(t, err)
		require.Equal(t, enough, context.Cause(ctx), "%v", err)
	})
}

// A cancelled call does not wait for its next try.
func TestCancelledWhileItRetries(t *testing.T) {
	fault := func(method string, n, i int) error {
		if method == provisionMethod && i == 1 {
			return errDropped
		}
		return nil
	}
	withUnreliable(t, fault, func(t *testing.T, u *unreliable, provision provisionFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := provision(ctx, nil)
		require.ErrorIs(t, err, context.Canceled)
		require.LessOrEqual(t, len(u.requests), 1)

		ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond) // in the middle of the first wait
		defer cancel()
		_, err = provision(ctx, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// A confirmation and a signature survive a lost connection, too.
func TestUnaryCallsAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, conn := newFake(t)
		share, _ := backedUp(t, newClient(t, f, conn))
		u := &unreliable{ClientConnInterface: conn, t: t, attached: map[string]int{}}
		u.fault = func(_ string, n, _ int) error {
			if n%2 == 1 {
				return errDropped
			}
			return nil
		}
		c := newClient(t, f, u)
		_, err := c.Confirm(t.Context(), share)
		require.NoError(t, err)
		u.fault = func(method string, n, _ int) error {
			if method == mpcdv1.WalletService_Sign_FullMethodName && n < 3 {
				return errDropped
			}
			return nil
		}
		_, err = c.Sign(t.Context(), share, client.CurveEd25519, []byte("message"))
		require.NoError(t, err)
		require.Equal(t, 3, u.attached[mpcdv1.WalletService_Sign_FullMethodName])

		// And so do all others, since they are idempotent.
		for method, call := range map[string]func() error{
			mpcdv1.WalletService_GetWallet_FullMethodName: func() error {
				_, err := c.GetWallet(t.Context(), share.WalletID())
				return err
			},
			mpcdv1.WalletService_ListWallets_FullMethodName: func() error {
				for _, err := range c.ListWallets(t.Context()) {
					return err
				}
				return nil
			},
			mpcdv1.WalletService_ReleaseShareSet_FullMethodName: func() error {
				_, err := c.Release(t.Context(), share.WalletID(), share.ShareSetID())
				return err
			},
			mpcdv1.WalletService_RevokeShareSet_FullMethodName: func() error {
				_, err := c.Revoke(t.Context(), share.WalletID(), share.ShareSetID())
				return err
			},
		} {
			u.attached[method] = 0
			u.fault = func(_ string, n, _ int) error {
				switch n {
				case 1:
					return errDropped
				case 2:
					return refusalAfter(codes.ResourceExhausted, "RATE_LIMITED", 20*time.Second)
				case 3:
					return refusalAfter(codes.Aborted, "INTERRUPTED", time.Second)
				}
				return nil
			}
			require.NoError(t, call(), method)
			require.Equal(t, 4, u.attached[method])
			u.attached[method] = 0
			u.fault = func(string, int, int) error { return refusalAfter(codes.Unavailable, "WEBHOOK_FAILED", 2*time.Second) }
			require.Equal(t, "WEBHOOK_FAILED", client.Reason(call()))
			require.Equal(t, client.MaxAttempts, u.attached[method])
		}
	})
}

// After a crash between storing and confirming, ResumePending confirms the shares that can be confirmed, and returns
// those whose sets are gone.
func TestResumePending(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	f.fail["ConfirmShareSet"] = refusal(codes.Internal, "INTERNAL", "the app crashes here")
	pending, err := c.CreateWallet(t.Context(), nil)
	require.ErrorIs(t, err, client.ErrNotConfirmed)
	delete(f.fail, "ConfirmShareSet")
	active, _ := backedUp(t, c)

	gone, err := newClient(t, f, conn).ResumePending(t.Context(), active, pending)
	require.NoError(t, err)
	require.Empty(t, gone)
	w, err := c.GetWallet(t.Context(), pending.WalletID())
	require.NoError(t, err)
	require.Equal(t, client.StateActive, w.ShareSets[0].State)
	gone, err = c.ResumePending(t.Context())
	require.NoError(t, err)
	require.Empty(t, gone)

	for _, reason := range []string{"SESSION_EXPIRED", "SHARE_SET_REVOKED"} {
		f.fail["ConfirmShareSet"] = refusal(codes.FailedPrecondition, reason, "too late")
		gone, err = c.ResumePending(t.Context(), active, pending)
		require.NoError(t, err)
		require.Equal(t, []*client.Share{active, pending}, gone)
	}
	f.fail["ConfirmShareSet"] = refusal(codes.PermissionDenied, "PERMISSION_DENIED", "no")
	gone, err = c.ResumePending(t.Context(), active)
	require.Equal(t, "PERMISSION_DENIED", client.Reason(err))
	require.Empty(t, gone, "other errors do not prove that a share is useless")
}
