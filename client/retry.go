package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// How long a call retries while the service cannot be reached. A phone's network is often gone for seconds, a service
// restarts in less than a minute, and the service keeps a run's result for fifteen minutes.
const (
	firstWait = 200 * time.Millisecond
	longWait  = 10 * time.Second
	patience  = 3 * time.Minute // since the last progress

	shortPatience = 5 * time.Second // before any progress: the address may simply be wrong

	// maxAttempts is how many attempts of one run a call begins, no matter why they end or how far they get: each costs
	// the service a run of the protocol.
	maxAttempts = 10

	// maxLost is how many streams of one attempt, or of a call without attempts, a call loses before it gives up, even
	// if each made progress. An attempt has a few dozen events, so this allows for a connection lost at every event.
	maxLost = 64
	// fewLost is the number of lost streams after which progress resets the wait to steadyWait, not firstWait.
	fewLost    = 8
	steadyWait = 2 * time.Second // with jitter at least a second
)

// pace decides how long to wait before the next try, and when to give up. Waits after a failed attempt and waits after
// a lost connection, while its attempt goes on, are counted separately. Each is twice as long as the one before, with
// jitter, so that clients do not all return to a restarted service at once. Progress resets the wait after a lost
// connection, but lost connections and failed attempts are bounded regardless of progress.
type pace struct {
	rest    func(context.Context, time.Duration) error
	until   time.Time     // when to give up, unless there is progress
	lost    time.Duration // the wait after the next lost connection
	failed  time.Duration // the wait after the next failed attempt
	losses  int           // connections that were lost since the attempt began
	tries   int           // attempts that failed
	attempt uint32        // the service's number of the last attempt that was seen
	ended   bool          // the service has reported the end of that attempt
	reached bool          // the service has answered, so it exists: it is busy, or about to restart
}

// newPace returns the pace of one call, which gives up after initial if it never reaches the service.
func newPace(rest func(context.Context, time.Duration) error, initial time.Duration) *pace {
	return &pace{rest: rest, until: time.Now().Add(initial), lost: firstWait, failed: firstWait}
}

// wait waits before the next try and returns nil, or returns err if a retry cannot help or the limits are reached.
// progressed reports whether there was progress since the last try. attempt is the attempt of that try; 0 for a call
// without attempts.
func (p *pace) wait(ctx context.Context, err error, attempt uint32, progressed bool) error {
	if cause := context.Cause(ctx); cause != nil {
		return withCause(cause, err)
	}
	answered, isNew := Reason(err) != "", p.attempt != 0 && attempt > p.attempt
	if isNew && !p.ended {
		p.tries++ // the previous attempt ended when the service's process died
	}
	if answered {
		p.tries++
	}
	if p.losses++; answered || isNew {
		p.losses = 0
	}
	if progressed && !isNew {
		p.lost = firstWait
		if p.losses > fewLost {
			p.lost = steadyWait
		}
	}
	if progressed || answered && !p.reached {
		p.until = time.Now().Add(patience)
	}
	p.attempt, p.ended, p.reached = max(p.attempt, attempt), answered || p.ended && !isNew, p.reached || answered
	left := time.Until(p.until)
	if !retryable(err) || p.tries >= maxAttempts || p.losses >= maxLost || left < 0 {
		return err
	}
	next := &p.lost
	if answered {
		next = &p.failed
	}
	wait := *next/2 + rand.N(*next/2+1) //nolint:gosec // G404: jitter is no secret
	*next = min(2**next, longWait)
	if e := new(Error); errors.As(err, &e) && e.RetryAfter > wait {
		if e.RetryAfter > left {
			return err // the wait would exceed the time left: let the app report it now
		}
		wait = e.RetryAfter + rand.N(e.RetryAfter/4+1) //nolint:gosec // G404: see above
	}
	if cause := p.rest(ctx, wait); cause != nil {
		return withCause(cause, err)
	}
	return nil
}

// withCause adds to err the cause for which its call was cancelled.
func withCause(cause, err error) error {
	if errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("client: %w: %w", cause, err)
}

// rest waits for d. If ctx ends first, it returns ctx's cause.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retryable reports whether an idempotent call that failed with err may succeed when it is repeated. For its own errors
// the service says so with google.rpc.RetryInfo.
func retryable(err error) bool {
	if errors.Is(err, ErrNoOutcome) || errors.Is(err, errNotAccepted) {
		return true // the run may still be going on
	}
	e := new(Error)
	if !errors.As(err, &e) {
		return false
	}
	if e.Reason != "" {
		return e.retry
	}
	// Errors of the transport.
	return e.Code == codes.Unavailable || e.Code == codes.Unknown || e.Code == codes.Internal
}

// errNotAccepted: a SendMessages call succeeded, but the service acknowledged none of its messages.
var errNotAccepted = errors.New("it answers SendMessages, but acknowledges no message")

// call makes a unary call that is idempotent, and repeats it as callWithRetry does.
func call[Req, Resp any](
	ctx context.Context, c *Client, req *Req, rpc func(context.Context, *Req, ...grpc.CallOption) (*Resp, error),
) (*Resp, error) {
	return callWithRetry(ctx, newPace(c.rest, shortPatience), func() (*Resp, error) { return rpc(ctx, req) })
}

// callWithRetry repeats an idempotent call until it succeeds or p gives up.
func callWithRetry[Resp any](ctx context.Context, p *pace, try func() (Resp, error)) (Resp, error) {
	for {
		resp, err := try()
		if err == nil {
			return resp, nil
		}
		if err := p.wait(ctx, serviceError(err), 0, false); err != nil {
			return resp, err
		}
	}
}
