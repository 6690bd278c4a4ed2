package session

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/mpcd/mpcd/internal/link"
	"github.com/mpcd/mpcd/internal/tss"
)

// Part is a unit of what the two sides of a device-held run send each other.
type Part = tss.Part

// Device says that the client's side runs on a device, and identifies the calling instance.
type Device struct {
	ShareSetID string // the set to use; empty for a new wallet
	Instance   string // UUID of one start of the device's side
	Attempt    uint32 // the attempt that the instance takes part in; 0: it starts one
	Ack        uint32 // the last of the service's parts that the device has received
}

// Numbered is a part with its sequence number.
type Numbered = link.Numbered

// device is the service's end of the link to one device, for one attempt. Until the run has a slot, only the device's
// hello is accepted.
type device struct {
	instance string
	attempt  uint32
	silence  time.Duration // after which the run ends
	wake     func()        // tells the run's followers that there are parts to send
	in       chan Part     // received parts, in order
	buffered *buffer       // counts the bytes of in; nil: unlimited
	gotFirst chan struct{} // closed when the first part was received
	stopped  chan struct{} // closed when stopErr is set

	mu           sync.Mutex // guards what follows
	end          link.End
	hello        *tss.Hello // the device's; nil: not received, or not a hello
	ticket       *ticket    // the run's; nil until it has a slot
	listening    bool       // the run processes parts; before, only the hello is accepted
	stopErr      error      // why parts are no longer accepted or sent; nil: they are
	waitingSince time.Time  // when the run began to wait for the device; zero: it does not wait
	armed        bool       // ending the run now costs a soft abort
}

var _ tss.Link = (*device)(nil)

func newDevice(instance string, attempt uint32, silence time.Duration, wake func()) *device {
	return &device{
		instance: instance, attempt: attempt, silence: silence, wake: wake,
		in: make(chan Part, tss.MaxParts), gotFirst: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// awaitHello waits for the device's first part and returns its hello, or nil if the part is not a hello. If ctx ends
// first, it returns its cause.
func (d *device) awaitHello(ctx context.Context) (*tss.Hello, error) {
	select {
	case <-d.gotFirst:
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.hello, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// setTicket records the ticket of a run that has its slot.
func (d *device) setTicket(t *ticket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ticket = t
}

// listen passes the hello to the run and accepts all later parts, which the run processes from now on.
func (d *device) listen() {
	d.mu.Lock()
	defer d.mu.Unlock()
	hello := Part{Hello: d.hello}
	d.buffered.reserve(sizeOf(hello), true)
	d.in <- hello // it is the first, so this does not block
	d.listening = true
}

// close stops the link and drops unprocessed parts, after the run has ended.
func (d *device) close() {
	if d == nil {
		return
	}
	d.stop(fmt.Errorf("%w: the run is over", ErrInterrupted))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hello = nil
	for len(d.in) > 0 {
		d.buffered.release(sizeOf(<-d.in))
	}
}

// Send implements tss.Link.
func (d *device) Send(_ context.Context, p Part) error {
	d.mu.Lock()
	if d.stopErr != nil {
		d.mu.Unlock()
		return nil //nolint:nilerr // nothing is sent after the end, which is not the sender's fault
	}
	err := d.end.Send(p)
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	d.wake()
	return nil
}

// Recv implements tss.Link. After a stop it first returns the parts that were accepted before, and then an error that
// wraps tss.ErrStopped and the reason.
func (d *device) Recv(ctx context.Context) (Part, error) {
	silence, tick := time.NewTimer(d.silence), time.NewTicker(reportEvery)
	defer silence.Stop()
	defer tick.Stop()
	d.setWaitingSince(time.Now())
	defer d.setWaitingSince(time.Time{})
	for on := true; on; {
		select {
		case p := <-d.in:
			d.buffered.release(sizeOf(p))
			return p, nil
		case <-tick.C:
			if on = !d.mustYield(); !on {
				d.stop(fmt.Errorf("%w: no message from the device for %v, and other callers wait for its slot",
					ErrInterrupted, yieldAfter))
			}
		case <-silence.C:
			d.stop(fmt.Errorf("%w: no message from the device for %v", ErrInterrupted, d.silence))
			on = false
		case <-d.stopped:
			on = false
		case <-ctx.Done():
			return Part{}, context.Cause(ctx)
		}
	}
	select {
	case p := <-d.in: // it was acknowledged, so it must be processed
		d.buffered.release(sizeOf(p))
		return p, nil
	default:
		d.mu.Lock()
		defer d.mu.Unlock()
		return Part{}, fmt.Errorf("%w: %w", tss.ErrStopped, d.stopErr)
	}
}

// yieldAfter is how long a device may be silent while other callers wait and its own caller has more than its share of
// the slots.
const yieldAfter = 10 * time.Second

// mustYield reports whether the run must end so that another caller gets its slot.
func (d *device) mustYield() bool {
	d.mu.Lock()
	t, armed := d.ticket, d.armed
	d.mu.Unlock()
	// An armed run is charged when it ends: an honest device that lost its network gets its whole time to reconnect.
	// A set has few armed runs.
	return t != nil && !armed && d.silentFor() >= yieldAfter && t.yieldSlot()
}

// setArmed records whether ending the run costs a soft abort.
func (d *device) setArmed(armed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = armed
}

// stop ends receiving and sending. Only the first reason is kept.
func (d *device) stop(why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopErr == nil {
		d.stopErr = why
		close(d.stopped)
	}
}

func (d *device) setWaitingSince(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waitingSince = t
}

// silentFor returns how long the run has been waiting for the device; 0 while it does not wait.
func (d *device) silentFor() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waitingSince.IsZero() {
		return 0
	}
	return time.Since(d.waitingSince)
}

func (d *device) lastSent() *Numbered {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.end.Last()
}

const macLen = 32

// encodeLast returns the stored form of a run's last part, a MAC: sequence and acknowledgement, 4 bytes each, and the
// MAC.
func encodeLast(n *Numbered) []byte {
	return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, n.Sequence), n.Ack), n.Part.MAC...)
}

// decodeLast reverses encodeLast. It returns nil for other results: an age file is longer.
func decodeLast(b []byte) *Numbered {
	if len(b) != 8+macLen {
		return nil
	}
	return &Numbered{Sequence: binary.BigEndian.Uint32(b), Ack: binary.BigEndian.Uint32(b[4:]), Part: Part{MAC: b[8:]}}
}

// unacknowledged returns the parts after a sequence number that the device has not acknowledged.
func (d *device) unacknowledged(sequence uint32) []Numbered {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.end.After(sequence)
}

// receive accepts the device's parts in order, and returns the last accepted sequence number. The device resends what
// is not accepted.
func (d *device) receive(parts []Numbered) (ack uint32, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopErr != nil { // an acknowledged part must be processed
		return 0, d.stopErr
	}
	return d.end.Take(parts, d.accept)
}

// accept accepts the next part if the run can take it now. It must be called with mu held.
func (d *device) accept(p Part) (taken bool, err error) {
	switch {
	case !d.listening && d.end.Taken() == 0:
		if sizeOf(p) <= maxHello {
			d.hello = p.Hello // nil if it is another part: awaitHello rejects it
		}
		close(d.gotFirst)
		return true, nil
	case !d.listening:
		return false, nil
	case len(d.in) == cap(d.in):
		return false, &FieldError{"messages", "must not be more than the protocol has"}
	case !d.buffered.reserve(sizeOf(p), len(d.in) == 0):
		return false, nil
	}
	d.in <- p // only this function and listen send, under mu
	return true, nil
}
