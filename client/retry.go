package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
)

// How patient a call is with a service that cannot be reached. A phone's network is often
// gone for seconds, a service restarts in less than a minute, and a run's result waits for
// fifteen minutes.
const (
	firstWait = 200 * time.Millisecond
	longWait  = 10 * time.Second
	patience  = 3 * time.Minute // since the last progress
	shortly   = 5 * time.Second // before there was any: the address may simply be wrong

	// maxAttempts is how many attempts of one run a call begins: a service that interrupts
	// more than that is broken, however far each of them got.
	maxAttempts = 10
)

// pace says how long to wait before the next try: twice as long each time, with jitter, so
// that a service that comes back is not met by all of its clients at once.
type pace struct {
	wait  time.Duration
	until time.Time
}

func newPace(patience time.Duration) *pace {
	return &pace{wait: firstWait, until: time.Now().Add(patience)}
}

// next reports whether err is worth another try, and when.
func (p *pace) next(err error) (wait time.Duration, ok bool) {
	if !worthRetrying(err) || time.Now().After(p.until) {
		return 0, false
	}
	wait = p.wait/2 + rand.N(p.wait/2+1) //nolint:gosec // G404: jitter is no secret
	p.wait = min(2*p.wait, longWait)
	if e := new(Error); errors.As(err, &e) && e.RetryAfter > wait {
		wait = e.RetryAfter + rand.N(e.RetryAfter/4+1) //nolint:gosec // G404: see above
	}
	return wait, true
}

// worthRetrying tells what may pass by itself, for a call that can be repeated safely,
// from what will not.
func worthRetrying(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if errors.Is(err, ErrNoOutcome) {
		return true // the stream ended, the run did not
	}
	e := new(Error)
	if !errors.As(err, &e) {
		return false
	}
	switch e.Reason {
	case "INTERRUPTED", "SHUTTING_DOWN", "OVERLOADED", "RATE_LIMITED":
		return true
	case "": // nobody but the transport spoke
		return e.Code == codes.Unavailable || e.Code == codes.Unknown || e.Code == codes.Internal
	}
	return e.Code == codes.Unavailable
}

// again makes a call that can be repeated safely until it is answered, or until there is no
// more hope.
func again[Resp any](ctx context.Context, call func() (Resp, error)) (Resp, error) {
	pace := newPace(shortly)
	for {
		resp, err := call()
		if err == nil {
			return resp, nil
		}
		err = serviceError(err)
		wait, ok := pace.next(err)
		if !ok {
			return resp, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return resp, fmt.Errorf("client: %w: %w", context.Cause(ctx), err)
		}
	}
}
