package session

import (
	"context"
	"crypto/hmac"
	"sync"
	"time"
)

// Run is one session as its callers see it: an ordered log of progress, followed by an outcome or an error. Any number
// of callers may follow it, each from any position in the log.
type Run struct {
	key runKey

	// ready is closed when id and the error of the start are known.
	ready       chan struct{}
	fingerprint []byte // set before the run is shared, never changed
	created     time.Time
	attempt     uint32

	authorised bool // the device has proved its share and the policy has agreed; used only by the run's goroutine

	// Guarded by Service.mu:
	walletID  string   // the wallet that it makes a set for, once countMaking may count it
	uses      string   // the set that a device-held run computes with
	ofWallet  string   // that set's wallet
	draft     *Session // the session before it is recorded; nil: it is recorded, or was discarded
	successor *Run     // the run of another instance of the device, which becomes live when this one is over; nil: none

	// released is closed when the run is over and another attempt may begin.
	released chan struct{}

	mu      sync.Mutex // guards what follows
	id      string
	device  *device                 // the other end of a device-held run; nil: hosted
	first   uint32                  // the last sequence number of earlier attempts
	stop    context.CancelCauseFunc // ends the attempt; nil before it runs
	log     []Progress              // by sequence number; some dozens of entries
	outcome *Outcome
	err     error
	ended   bool
	changed chan struct{} // closed and replaced when log, ended or the parts to send change
}

// runKey identifies a request.
type runKey struct{ caller, requestID string }

func newRun(key runKey, fingerprint []byte) *Run {
	return &Run{
		key: key, fingerprint: fingerprint, attempt: 1,
		ready: make(chan struct{}), released: make(chan struct{}), changed: make(chan struct{}),
	}
}

// SessionID returns the session's id.
func (r *Run) SessionID() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.id
}

// checkFingerprint returns ErrRequestIDReused if another request has the same id.
func (r *Run) checkFingerprint(fingerprint []byte) error {
	if !hmac.Equal(r.fingerprint, fingerprint) {
		return ErrRequestIDReused
	}
	return nil
}

// report adds p to the log.
func (r *Run) report(p Progress) { r.append(r.stamp(p)) }

func (r *Run) reportQueued(position uint32) {
	r.report(Progress{Status: StatusQueued, QueuePosition: position})
}

// stamp sets the sequence number, attempt and elapsed time of p, and keeps its percentage from decreasing. Only one
// goroutine at a time calls stamp and append.
func (r *Run) stamp(p Progress) Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.Sequence, p.Attempt = r.first+1, r.attempt
	p.Elapsed = time.Since(r.created).Truncate(time.Microsecond) // the store's precision
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
		r.log[n-1] = p // only the latest position is kept
	} else {
		r.log = append(r.log, p)
	}
	r.wake()
}

// lastProgress returns the latest progress, or a zero one.
func (r *Run) lastProgress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.log) == 0 {
		return Progress{}
	}
	return r.log[len(r.log)-1]
}

// end closes the log with an outcome or an error. Later calls do nothing.
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

// wake tells all followers to look again. It must be called with mu held.
func (r *Run) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// setStop sets the function that ends the attempt, and calls it if the run was already cancelled.
func (r *Run) setStop(stop context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop = stop
	if r.ended {
		stop(r.err)
	}
}

// cancel ends the run with err, for all of its callers.
func (r *Run) cancel(err error) {
	r.end(nil, err)
	r.mu.Lock()
	stop := r.stop
	r.mu.Unlock()
	if stop != nil {
		stop(err)
	}
}

// heartbeat is the maximum silence of a stream: the last progress is then repeated, with the same sequence number, so
// that proxies keep the connection.
const heartbeat = 20 * time.Second

// Follow sends every progress after a sequence number, for a device also the parts after ack, and then the outcome,
// and returns nil; or it returns the run's error. It returns ctx's cause once ctx is done, and an error of send as it
// is; neither affects the run.
func (r *Run) Follow(ctx context.Context, after, ack uint32, send func(Event) error) error {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		news, out, ended, changed, err := r.eventsSince(after)
		parts := r.unsentParts(ack) // after reading changed, so that later parts wake this loop
		switch {
		case ended && err != nil:
			parts = nil // of no use for the next attempt
		case len(parts) > 0: // progress reported before a part is sent before it
			news, _, _, _, _ = r.eventsSince(after)
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
			// Newer progress is sent in order, when changed is closed.
			if p := r.lastProgress(); p.Sequence > 0 && p.Sequence <= after {
				if err := send(Event{Progress: &p}); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *Run) eventsSince(after uint32) (
	news []Progress, out *Outcome, ended bool, changed <-chan struct{}, err error,
) {
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

// unsentParts returns the parts that the device has not received.
func (r *Run) unsentParts(ack uint32) []Numbered {
	r.mu.Lock()
	d := r.device
	r.mu.Unlock()
	if d == nil {
		return nil
	}
	return d.unacknowledged(ack)
}

// connectDevice sets the run's device, and the buffer that counts its parts; nil: unlimited.
func (r *Run) connectDevice(d *Device, silence time.Duration, buffered *buffer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.device = newDevice(d.Instance, r.attempt, silence, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.wake()
	})
	r.device.buffered = buffered
}
