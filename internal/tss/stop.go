package tss

import (
	"context"
	"errors"
)

// ErrStopped is returned by a Link when the run was ended from outside and no more parts will arrive. A side that gets
// it checks everything that arrived before, for which it may blame the other side, and then returns the Link's error.
var ErrStopped = errors.New("the run was stopped")

// next returns the next value from ch. When the link is stopped, it returns what is still in ch, then the link's error.
func next[T any](ctx context.Context, c *channel, ch <-chan T) (v T, err error) {
	select {
	case v = <-ch:
		return v, nil
	case <-ctx.Done():
		return v, context.Cause(ctx)
	case <-c.stopped:
	}
	select {
	case v = <-ch:
		return v, nil
	default:
		return v, c.stopErr
	}
}

// checkStopped returns the link's error if it is stopped and no message for curve arrived: then there is no reason to
// start the curve's protocol.
func (c *channel) checkStopped(curve Curve) error {
	select {
	case <-c.stopped:
		if len(c.parts[curve]) == 0 {
			return c.stopErr
		}
	default:
	}
	return nil
}

// addPending adds n, which may be negative, to the inputs that a party has not finished with.
func (s *side) addPending(t *localParty, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.pending += n
	s.failIfStopped()
}

// setDone notes that a party will send nothing more.
func (s *side) setDone(t *localParty) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.done = true
	s.failIfStopped()
}

// stop fails the run with err once the messages that arrived before are processed, unless the run ends with them.
func (s *side) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = err
	s.failIfStopped()
}

// failIfStopped fails the run if no more messages will arrive, no party has one left to process, and a party still
// waits for one. mu must be held.
func (s *side) failIfStopped() {
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
