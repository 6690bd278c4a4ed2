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

// Part is package tss's: one unit of what the two sides of a device-held run send each
// other.
type Part = tss.Part

// Device says that the client's side runs on a device, and which of its runs calls.
type Device struct {
	ShareSetID string // the set that is used; empty for a new wallet
	Instance   string // UUID of this one start of the device's parties
	Attempt    uint32 // that they belong to; 0: they begin
	Ack        uint32 // the last of the service's parts that the device has
}

// Numbered is package link's: a part with its place among its sender's.
type Numbered = link.Numbered

// device is the service's end of the link to one device, for one attempt. Before the run has its
// place, nothing is taken but the device's hello.
type device struct {
	instance string
	attempt  uint32
	silence  time.Duration // after which it is gone
	wake     func()        // tells the run's followers that there is more to send
	in       chan Part     // what the device sent, in order
	room     *buffer       // for what is in there; nil: there is no bound
	gotFirst chan struct{} // closed when the first part is there
	stopped  chan struct{} // closed when over is set

	mu        sync.Mutex // guards what follows
	end       link.End
	hello     *tss.Hello // of the device
	place     *ticket    // which it has; nil before
	listening bool       // the run takes all parts: it is there to look at them; before, the hello alone
	over      error      // why nothing is taken or sent any more; nil: it is
	waits     time.Time  // since when the run waits for the device; zero: it does not
	armed     bool       // its end costs a soft abort
}

var _ tss.Link = (*device)(nil)

func newDevice(instance string, attempt uint32, silence time.Duration, wake func()) *device {
	return &device{
		instance: instance, attempt: attempt, silence: silence, wake: wake,
		in: make(chan Part, tss.MaxParts), gotFirst: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// awaitHello waits for the device's first part, and returns it where it is a hello, or nil; or it
// returns ctx's cause.
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

// setPlace notes the place that the run got.
func (d *device) setPlace(place *ticket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.place = place
}

// listen hands the run the device's hello, and takes what comes after it from now on: the run is
// there to look at it.
func (d *device) listen() {
	d.mu.Lock()
	defer d.mu.Unlock()
	hello := Part{Hello: d.hello}
	d.room.add(sizeOf(hello), true)
	d.in <- hello // the first: there is room
	d.listening = true
}

// close takes nothing any more, and drops what nobody took. The run has ended.
func (d *device) close() {
	if d == nil {
		return
	}
	d.stop(fmt.Errorf("%w: the run is over", ErrInterrupted))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hello = nil
	for len(d.in) > 0 {
		d.room.free(sizeOf(<-d.in))
	}
}

// Send implements tss.Link.
func (d *device) Send(_ context.Context, p Part) error {
	d.mu.Lock()
	if d.over != nil {
		d.mu.Unlock()
		return nil //nolint:nilerr // nobody is to have it, and that is no fault of the sender's
	}
	err := d.end.Send(p)
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	d.wake()
	return nil
}

// Recv implements tss.Link. When the device is stopped, it returns what was taken before, and
// then an error that is tss.ErrStopped and the reason.
func (d *device) Recv(ctx context.Context) (Part, error) {
	silence, look := time.NewTimer(d.silence), time.NewTicker(reportEvery)
	defer silence.Stop()
	defer look.Stop()
	d.waitsSince(time.Now())
	defer d.waitsSince(time.Time{})
	for on := true; on; {
		select {
		case p := <-d.in:
			d.room.free(sizeOf(p))
			return p, nil
		case <-look.C:
			if on = !d.outstays(); !on {
				d.stop(fmt.Errorf("%w: the device has said nothing for %v, and others wait for its place", ErrInterrupted, outstay))
			}
		case <-silence.C:
			d.stop(fmt.Errorf("%w: the device has said nothing for %v", ErrInterrupted, d.silence))
			on = false
		case <-d.stopped:
			on = false
		case <-ctx.Done():
			return Part{}, context.Cause(ctx)
		}
	}
	select {
	case p := <-d.in: // it was acknowledged
		d.room.free(sizeOf(p))
		return p, nil
	default:
		d.mu.Lock()
		defer d.mu.Unlock()
		return Part{}, fmt.Errorf("%w: %w", tss.ErrStopped, d.over)
	}
}

// outstay is how long a device may say nothing while others wait for its place, where its caller
// has more than a share of them.
const outstay = 10 * time.Second

// outstays reports whether the device must give way: then its run ends.
func (d *device) outstays() bool {
	d.mu.Lock()
	place, armed := d.place, d.armed
	d.mu.Unlock()
	// An honest device that has lost its network has the time to come back at no charge, whoever
	// else waits. A set has few armed runs.
	return place != nil && !armed && d.quiet() >= outstay && place.givesWay()
}

// arms notes that the run's end costs a soft abort, or does no more.
func (d *device) arms(armed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = armed
}

// stop makes the device's end of the link the end of what is taken and sent. The first reason
// counts.
func (d *device) stop(why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over == nil {
		d.over = why
		close(d.stopped)
	}
}

func (d *device) waitsSince(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waits = t
}

// quiet returns how long the run has been waiting for the device; 0 while it does not.
func (d *device) quiet() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waits.IsZero() {
		return 0
	}
	return time.Since(d.waits)
}

// last returns the last part that was sent.
func (d *device) last() *Numbered {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.end.Last()
}

const macLen = 32

// encodeLast returns what the store keeps of a run's last part, a MAC.
func encodeLast(n *Numbered) []byte {
	return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, n.Sequence), n.Ack), n.Part.MAC...)
}

// decodeLast returns a last part, or nil for what is none: an age file is longer.
func decodeLast(b []byte) *Numbered {
	if len(b) != 8+macLen {
		return nil
	}
	return &Numbered{Sequence: binary.BigEndian.Uint32(b), Ack: binary.BigEndian.Uint32(b[4:]), Part: Part{MAC: b[8:]}}
}

// after returns the parts behind a sequence number.
func (d *device) after(sequence uint32) []Numbered {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.end.After(sequence)
}

// take takes what the device sent, and returns the last sequence that is there. What the run does
// not take yet is not there: the device sends it again.
func (d *device) take(parts []Numbered) (ack uint32, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over != nil { // what is acknowledged is looked at
		return 0, d.over
	}
	return d.end.Take(parts, d.put)
}

// put takes the next part, where the run takes it now. It must be called with mu held.
func (d *device) put(p Part) (taken bool, err error) {
	switch {
	case !d.listening && d.end.Taken() == 0:
		if sizeOf(p) <= maxHello {
			d.hello = p.Hello // nil where it is something else, which is as good as none
		}
		close(d.gotFirst)
		return true, nil
	case !d.listening:
		return false, nil
	case len(d.in) == cap(d.in):
		return false, &FieldError{"messages", "must not be more than the protocol has"}
	case !d.room.add(sizeOf(p), len(d.in) == 0):
		return false, nil
	}
	d.in <- p // nobody else puts anything in
	return true, nil
}
