package tss

import (
	"context"
	"errors"
)

// ErrStopped is what a Link returns when no part comes any more, because the run was ended from
// outside. A side that gets it first checks all that came before, for which it may blame the other
// side, and then returns the Link's error.
var ErrStopped = errors.New("the run was stopped")

// next waits for what ch brings. Where nothing comes any more it says why, but not before it has
// brought what came.
func next[T any](ctx context.Context, c *channel, ch <-chan T) (v T, err error) {
	select {
	case v = <-ch:
		return v, nil
	case <-ctx.Done():
		return v, context.Cause(ctx)
	case <-c.over:
	}
	select {
	case v = <-ch:
		return v, nil
	default:
		return v, c.why
	}
}

// idle returns an error where the run was stopped and nothing of a curve came, so that there is
// nothing to begin its protocol for.
func (c *channel) idle(curve Curve) error {
	select {
	case <-c.over:
		if len(c.parts[curve]) == 0 {
			return c.why
		}
	default:
	}
	return nil
}

// more notes work for a party, or with -1 that some of it is done.
func (s *side) more(t *localParty, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.pending += n
	s.rest()
}

// leave notes that a party makes nothing any more.
func (s *side) leave(t *localParty) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.done = true
	s.rest()
}

// stop makes err the run's, unless what came until now ends it.
func (s *side) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = err
	s.rest()
}

// rest ends the run where no message comes any more, and no party has one left to work on. It must
// be called with mu held.
func (s *side) rest() {
	waits := false
	for _, t := range s.parties {
		if !t.done && t.pending > 0 {
			return
		}
		waits = waits || !t.done
	}
	if waits && s.stopping != nil && s.err == nil {
		s.err = s.stopping
		close(s.failed)
	}
}
