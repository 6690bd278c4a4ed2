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

	// maxAttempts is how many attempts of one run a call begins, whatever ends them and
	// however far each of them got: each costs the service a run of the protocol.
	maxAttempts = 10

	// maxLost is how many streams of one attempt, or of a call without attempts, a call loses,
	// whatever each of them showed. An attempt has a few dozen events, so that this is enough
	// for a connection that is lost at every one of them.
	maxLost = 64
	// fewLost is after how many of them progress does not bring short waits back.
	fewLost    = 8
	steadyWait = 2 * time.Second // in place of firstWait then; with jitter at least a second
)

// pace says how long to wait before the next try. An attempt that failed and a connection
// that was lost while its attempt goes on have waits of their own, each twice as long as the
// one before, with jitter, so that a service that comes back is not met by all of its clients
// at once. Progress makes the wait after a lost connection short again, and the number of lost
// connections and failed attempts has a bound whatever the progress.
type pace struct {
	rest    func(context.Context, time.Duration) error
	until   time.Time     // when to give up, unless something moves
	lost    time.Duration // the wait after the next lost connection
	failed  time.Duration // the wait after the next failed attempt
	losses  int           // connections that were lost since the attempt began
	tries   int           // attempts that failed
	attempt uint32        // the service's number of the last attempt that was seen
	ended   bool          // the service has said how it ended
	spoke   bool          // the service did, so it is there: it is busy, or about to restart
}

// newPace is for one call; usual is its patience before it has heard from the service.
func newPace(rest func(context.Context, time.Duration) error, usual time.Duration) *pace {
	return &pace{rest: rest, until: time.Now().Add(usual), lost: firstWait, failed: firstWait}
}

// wait waits until the next try makes sense, and returns nil; or it returns err, where
// trying again cannot help or was tried enough. moved says that there was progress since the
// last try, and attempt of which attempt; 0 is for a call that has none.
func (p *pace) wait(ctx context.Context, err error, attempt uint32, moved bool) error {
	if cause := context.Cause(ctx); cause != nil {
		return because(cause, err)
	}
	said, another := Reason(err) != "", p.attempt != 0 && attempt > p.attempt
	if another && !p.ended {
		p.tries++ // the one before ended with the service's process
	}
	if said {
		p.tries++
	}
	if p.losses++; said || another {
		p.losses = 0
	}
	if moved && !another {
		p.lost = firstWait
		if p.losses > fewLost {
			p.lost = steadyWait
		}
	}
	if moved || said && !p.spoke {
		p.until = time.Now().Add(patience)
	}
	p.attempt, p.ended, p.spoke = max(p.attempt, attempt), said || p.ended && !another, p.spoke || said
	left := time.Until(p.until)
	if !worthRetrying(err) || p.tries >= maxAttempts || p.losses >= maxLost || left < 0 {
		return err
	}
	next := &p.lost
	if said {
		next = &p.failed
	}
	wait := *next/2 + rand.N(*next/2+1) //nolint:gosec // G404: jitter is no secret
	*next = min(2**next, longWait)
	if e := new(Error); errors.As(err, &e) && e.RetryAfter > wait {
		if e.RetryAfter > left {
			return err // the app can say so sooner
		}
		wait = e.RetryAfter + rand.N(e.RetryAfter/4+1) //nolint:gosec // G404: see above
	}
	if cause := p.rest(ctx, wait); cause != nil {
		return because(cause, err)
	}
	return nil
}

// because is err, and that its call goes on no more for a cause.
func because(cause, err error) error {
	if errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("client: %w: %w", cause, err)
}

// rest waits, and returns ctx's cause where that ends first.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// worthRetrying tells what may pass by itself, for a call that can be repeated safely, from
// what will not. Of its own errors the service says which they are, by google.rpc.RetryInfo.
func worthRetrying(err error) bool {
	if errors.Is(err, ErrNoOutcome) || errors.Is(err, errNotTaken) {
		return true // the stream ended, the run did not
	}
	e := new(Error)
	if !errors.As(err, &e) {
		return false
	}
	if e.Reason != "" {
		return e.retry
	}
	// Nobody but the transport spoke.
	return e.Code == codes.Unavailable || e.Code == codes.Unknown || e.Code == codes.Internal
}

// errNotTaken is an answer to SendMessages from a service that has not taken the first of them.
var errNotTaken = errors.New("it answers SendMessages, and takes no message")

// again makes a call that can be repeated safely until it is answered, or until there is no
// more hope.
func again[Resp any](ctx context.Context, p *pace, call func() (Resp, error)) (Resp, error) {
	for {
		resp, err := call()
		if err == nil {
			return resp, nil
		}
		if err := p.wait(ctx, serviceError(err), 0, false); err != nil {
			return resp, err
		}
	}
}
