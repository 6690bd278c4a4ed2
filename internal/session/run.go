package session

import (
	"context"
	"crypto/hmac"
	"sync"
	"time"
)

// Run is one session as its callers see it: an ordered log of progress, and at its end
// an outcome or an error. Any number of callers may follow it, from any place.
type Run struct {
	key runKey

	// ready is closed when id and the error of starting are known.
	ready       chan struct{}
	fingerprint []byte // set before the run is shared, never changed
	created     time.Time
	attempt     uint32

	entitled bool // the device has shown that it has its share, and the policy has agreed; of the run's own goroutine

	// Guarded by Service.mu:
	walletID  string   // of the set that it makes, where the wallet is there already, and its client has shown its share
	uses      string   // the set that a device-held run computes with
	ofWallet  string   // the wallet of that set
	draft     *Session // as it will be recorded; nil: it is, or never will be
	successor *Run     // of another instance of the device, which is live when this one is over; nil: there is none

	// released is closed when the run is over and another attempt may begin.
	released chan struct{}

	mu      sync.Mutex // guards what follows
	id      string
	device  *device                 // the other end of a device-held run; nil: there is none
	first   uint32                  // the last sequence of earlier attempts
	stop    context.CancelCauseFunc // ends the attempt; nil before it runs
	log     []Progress              // ordered by sequence; bounded, since every run has some dozens of steps
	outcome *Outcome
	err     error
	ended   bool
	changed chan struct{} // closed and replaced whenever log or ended changes
}

// runKey is what makes a request the same request.
type runKey struct{ caller, requestID string }

func newRun(key runKey, fingerprint []byte) *Run {
	return &Run{key: key, fingerprint: fingerprint, ready: make(chan struct{}), released: make(chan struct{}), changed: make(chan struct{}), attempt: 1}
}

// SessionID returns the session's id.
func (r *Run) SessionID() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.id
}

// sameRequest tells a repeated call from another one with the same id.
func (r *Run) sameRequest(fingerprint []byte) error {
	if !hmac.Equal(r.fingerprint, fingerprint) {
		return ErrRequestIDReused
	}
	return nil
}

// report adds p to the log.
func (r *Run) report(p Progress) { r.append(r.stamp(p)) }

func (r *Run) queued(position uint32) {
	r.report(Progress{Status: StatusQueued, QueuePosition: position})
}

// stamp gives p its sequence, attempt and elapsed time, and keeps the promise that
// percent never falls. Only one goroutine at a time stamps and appends.
func (r *Run) stamp(p Progress) Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.Sequence, p.Attempt, p.Elapsed = r.first+1, r.attempt, time.Since(r.created).Truncate(time.Microsecond) // as the store keeps it
	if n := len(r.log); n > 0 {
		p.Sequence = max(r.first, r.log[n-1].Sequence) + 1
		p.Percent = max(p.Percent, r.log[n-1].Percent)
	}
	return p
}

func (r *Run) append(p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.log); n > 0 && p.Status == StatusQueued && r.log[n-1].Status == StatusQueued {
		r.log[n-1] = p // where it stood before is of no use to anybody
	} else {
		r.log = append(r.log, p)
	}
	r.wake()
}

// last returns the latest progress, or a zero one.
func (r *Run) last() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.log) == 0 {
		return Progress{}
	}
	return r.log[len(r.log)-1]
}

// end closes the log with an outcome or an error. Only the first call counts.
func (r *Run) end(out *Outcome, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.outcome, r.err, r.ended = out, err, true
	r.wake()
}

// failed reports whether the run has ended without an outcome.
func (r *Run) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended && r.err != nil
}

// wake must be called with mu held.
func (r *Run) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// stopWith says what ends the attempt. Where it was cancelled already, that is done at once.
func (r *Run) stopWith(stop context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop = stop
	if r.ended {
		stop(r.err)
	}
}

// cancel ends the run for everybody attached, with the given error.
func (r *Run) cancel(err error) {
	r.end(nil, err)
	r.mu.Lock()
	stop := r.stop
	r.mu.Unlock()
	if stop != nil {
		stop(err)
	}
}

// heartbeat is how long a stream is silent at most: the last progress is sent again, with
// the same sequence, so that proxies keep the connection.
const heartbeat = 20 * time.Second

// Follow sends every progress after the given sequence number, and a device the parts of
// the protocol after ack, then the outcome, and returns nil; or it returns the run's error. It returns ctx's error once ctx is done,
// and send's error as it is; neither touches the run.
func (r *Run) Follow(ctx context.Context, after, ack uint32, send func(Event) error) error {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		news, out, ended, changed, err := r.since(after)
		parts := r.parts(ack) // after changed was read: what comes later wakes this loop
		switch {
		case ended && err != nil:
			parts = nil // a device that calls for the next attempt has no use for what this one said
		case len(parts) > 0: // what was reported before a part comes before it
			news, _, _, _, _ = r.since(after)
		}
		for _, p := range news {
			if err := send(Event{Progress: &p}); err != nil {
				return err
			}
			after = p.Sequence
			beat.Reset(heartbeat)
		}
		for _, p := range parts {
			if err := send(Event{Part: &p}); err != nil {
				return err
			}
			ack = p.Sequence
			beat.Reset(heartbeat)
		}
		switch {
		case ended && err != nil:
			return err
		case ended:
			if out.Last != nil && out.Last.Sequence > ack {
				if err := send(Event{Part: out.Last}); err != nil {
					return err
				}
			}
			return send(Event{Outcome: out})
		}
		select {
		case <-changed:
		case <-beat.C:
			// What is newer than the last that was sent comes in its turn, with changed.
			if p := r.last(); p.Sequence > 0 && p.Sequence <= after {
				if err := send(Event{Progress: &p}); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *Run) since(after uint32) (news []Progress, out *Outcome, ended bool, changed <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, p := range r.log {
		if p.Sequence > after {
			news = append(news, r.log[i:]...)
			break
		}
	}
	return news, r.outcome, r.ended, r.changed, r.err
}

// parts returns what a device has not got yet.
func (r *Run) parts(ack uint32) []Numbered {
	r.mu.Lock()
	d := r.device
	r.mu.Unlock()
	if d == nil {
		return nil
	}
	return d.after(ack)
}

// join gives the run a device at its other end, and room for what that sends; nil: without a
// bound.
func (r *Run) join(d *Device, silence time.Duration, room *buffer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.device = newDevice(d.Instance, r.attempt, silence, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.wake()
	})
	r.device.room = room
}
