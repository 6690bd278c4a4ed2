package session

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

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

// Numbered is a part with its place among its sender's, from 1.
type Numbered struct {
	Sequence uint32
	Ack      uint32 // the last part of the other side that the sender has
	Part     Part
}

// device is the service's end of the link to one device, for one attempt. What was sent is
// kept until the device has it; nothing is taken twice. Before the run has its place, nothing
// is taken but the device's hello.
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
	hello     *tss.Hello // of the device
	place     *ticket    // which it has; nil before
	listening bool       // the run takes all parts: it is there to look at them; before, the hello alone
	next      uint32     // the sequence of the device's next part
	sent      []Part     // those after acked
	acked     uint32
	newest    Part      // sent or not yet, acknowledged or not
	over      error     // why nothing is taken or sent any more; nil: it is
	waits     time.Time // since when the run waits for the device; zero: it does not
	armed     bool      // its end costs a soft abort
}

var _ tss.Link = (*device)(nil)

func newDevice(instance string, attempt uint32, silence time.Duration, wake func()) *device {
	return &device{
		instance: instance, attempt: attempt, silence: silence, wake: wake,
		in: make(chan Part, tss.MaxParts), gotFirst: make(chan struct{}), stopped: make(chan struct{}), next: 1,
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
	if len(d.sent) == tss.MaxParts {
		d.mu.Unlock()
		return fmt.Errorf("%w: a device that takes nothing", ErrInterrupted)
	}
	d.sent, d.newest = append(d.sent, p), p
	d.mu.Unlock()
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
	return &Numbered{Sequence: d.acked + uint32(len(d.sent)), Ack: d.next - 1, Part: d.newest} //nolint:gosec // G115: at most tss.MaxParts
}

const macLen = 32

// encode returns what the store keeps of a run's last part, a MAC.
func (n *Numbered) encode() []byte {
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
func (d *device) after(sequence uint32) (out []Numbered) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, p := range d.sent {
		if n := d.acked + uint32(i) + 1; n > sequence {
			out = append(out, Numbered{Sequence: n, Ack: d.next - 1, Part: p})
		}
	}
	return out
}

// take takes what the device sent, as far as it goes on without a gap, and returns the last
// sequence that is there. What the run does not take yet is not there: the device sends it
// again.
func (d *device) take(parts []Numbered) (ack uint32, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over != nil { // what is acknowledged is looked at
		return 0, d.over
	}
	for _, p := range parts {
		d.forget(p.Ack)
		if p.Sequence != d.next { // it came before, or one before it did not
			continue
		}
		taken, err := d.takeNext(p.Part)
		if !taken {
			return d.next - 1, err
		}
		d.next++
	}
	return d.next - 1, nil
}

// takeNext takes the next part, where the run takes it now. It must be called with mu held.
func (d *device) takeNext(p Part) (taken bool, err error) {
	switch {
	case !d.listening && d.next == 1:
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

// forget drops what the device has. It must be called with mu held.
func (d *device) forget(ack uint32) {
	if n := uint32(len(d.sent)); ack > d.acked && ack <= d.acked+n { //nolint:gosec // G115: at most tss.MaxParts
		d.sent = d.sent[ack-d.acked:]
		d.acked = ack
	}
}

// joint runs the service's side of an operation whose client's side is on a device.
func (s *Service) joint(ctx context.Context, w *work, t target, src *source) (m *made, public []PublicKey, err error) {
	j := tss.Joint{
		Party: tss.Server, Operation: w.rec.Operation.String(), SessionID: w.rec.ID, Attempt: w.rec.Attempt, Curves: t.curves, Purpose: t.purpose,
		WalletID: t.walletID, ShareSetID: uuid.NewString(), Observer: tss.Observer{Busy: w.busy},
		PreParams: func(ctx context.Context) (*tss.PreParams, error) {
			return s.preParams(ctx, s.PreParams.ClaimReady, t.walletID, tss.Server)
		},
		Progress: func(c Curve, k, n int) { w.run.report(newSpan(c, t.curves).progress(k, n)) },
		Fresh:    func(n, nTilde *big.Int) error { return s.fresh(ctx, t.walletID, n, nTilde) },
	}
	// Before a custodian is asked, and a worker is used.
	if slices.Contains(t.curves, Secp256k1) {
		if _, err := s.PreParams.Ready(ctx, tss.Server); err != nil {
			return nil, nil, fmt.Errorf("pre-params: %w", err)
		}
		if src != nil { // a new wallet's is counted when its hello is there
			if err := s.mayWaste(&t, src); err != nil {
				return nil, nil, err
			}
			defer func() { s.wasted(&t, src, err) }()
		}
	}
	if src != nil {
		half, err := s.half(ctx, t.owner, src, w)
		if err != nil {
			return nil, nil, err
		}
		defer half.Wipe()
		j.Share, j.Record = half, src.set.Record
	}
	w.run.report(newSpan(t.curves[0], t.curves).progress(0, 0))
	out, err := s.joined(ctx, &j, w.run.device)
	if err != nil {
		return nil, nil, err
	}
	defer out.Share.Wipe()
	w.run.report(Progress{Status: StatusStoringShare, Percent: percentStoring})
	m, err = s.store(ctx, w, t, src, out.Record, out.Share, out.ShareHash)
	if err != nil {
		return nil, nil, err
	}
	// The device has its share. What it may still lack is our last part: the word that we saw
	// what it saw.
	last := w.run.device.last()
	m.outcome.Last = last
	w.rec.Result = &Result{SealedTo: true, Data: last.encode()}
	for _, k := range out.Keys {
		public = append(public, PublicKey{Curve: k.Curve, Key: k.PublicKey})
	}
	return m, public, nil
}

// fresh wants the device's moduli to be new to the wallet, since attacks that plant a key
// need it more than once, and none that the service made.
func (s *Service) fresh(ctx context.Context, walletID string, n, nTilde *big.Int) error {
	err := s.Wallets.ReserveModuli(ctx, walletID, MadeByDevice, sha256.Sum256(n.Bytes()), sha256.Sum256(nTilde.Bytes()))
	if errors.Is(err, ErrModulusUsed) {
		return &tss.ProtocolError{Curve: Secp256k1, Round: 1, Culprit: tss.Client, Err: err}
	}
	return err
}

// SignWithDevice starts, or attaches to, a signing whose client's side is on a device.
func (s *Service) SignWithDevice(ctx context.Context, c Caller, req DeviceSignRequest) (*Run, error) {
	if err := checkPayload(req.Curve, req.Payload); err != nil {
		return nil, err
	}
	fp, err := s.fingerprint(OpSign, []byte("device"), []byte(req.WalletID), []byte(req.Device.ShareSetID), []byte{byte(req.Curve)}, req.Payload)
	if err != nil {
		return nil, err
	}
	return s.start(ctx, job{op: OpSign, caller: c, requestID: req.RequestID, walletID: req.WalletID, fingerprint: fp, device: req.Device, prepare: func(ctx context.Context) (*plan, error) {
		wallet, src, err := s.deviceSource(ctx, c, actSign, req.WalletID, Signing, req.Device.ShareSetID)
		if err != nil {
			return nil, err
		}
		if _, ok := src.record.Key(req.Curve); !ok {
			return nil, &FieldError{"curve", "must be one of the wallet's curves"}
		}
		q := &Question{
			Caller: c.Name, Operation: OpSign.String(), WalletID: wallet.ID, Owner: wallet.Owner, ShareSetID: src.set.ID, RequestID: req.RequestID,
			Curve: req.Curve, Digest: payloadDigest(req.Curve, req.Payload),
		}
		return &plan{
			walletID: wallet.ID, uses: src.set.ID, source: src, payload: req.Payload, question: q, arms: req.Curve == Secp256k1,
			steps: func(ctx context.Context, w *work) (*made, error) {
				return s.signJointly(ctx, w, wallet.Owner, src, req.Curve, req.Payload)
			},
		}, nil
	}})
}

func (s *Service) signJointly(ctx context.Context, w *work, owner string, src *source, c Curve, payload []byte) (*made, error) {
	half, err := s.half(ctx, owner, src, w)
	if err != nil {
		return nil, err
	}
	defer half.Wipe()
	digest := payloadDigest(c, payload)
	sp := newSpan(c, []Curve{c})
	w.run.report(sp.progress(0, 0))
	j := tss.Joint{
		Party: tss.Server, Operation: tss.OperationSign, SessionID: w.rec.ID, Attempt: w.rec.Attempt, Curves: []Curve{c}, WalletID: w.rec.WalletID,
		Share: half, Record: src.set.Record, Payload: payload, Observer: tss.Observer{Busy: w.busy},
		Progress: func(_ Curve, k, n int) { w.run.report(sp.progress(k, n)) },
		// Once ctx has ended nothing leaves any more, although the run goes on to look at what came.
		Gate: func(_ context.Context, g tss.Gate) error { return s.pass(ctx, w, g, c, digest) },
	}
	out, err := s.joined(ctx, &j, w.run.device)
	if err != nil {
		return nil, err
	}
	return s.signed(w, src, c, digest, out.Signature)
}

// pass decides whether a message of a signing leaves. The last one, with which the device has a
// signature: the set must still be one that may sign, and who signs what must be durable.
func (s *Service) pass(ctx context.Context, w *work, g tss.Gate, c Curve, digest []byte) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", tss.ErrStopped, context.Cause(ctx))
	}
	var err error
	if g == tss.Arm {
		err = s.Budgets.Arm(context.WithoutCancel(ctx), w.rec, s.budget())
		if busy := new(BusyError); errors.As(err, &busy) {
			_, others := s.enter(w.run, w.rec.WalletID, w.rec.Used)
			busy.RetryAfter = placeIn(others)
		}
		w.run.device.arms(err == nil)
	} else {
		e := s.entry(w.rec, "session.release")
		e.ShareSetID = w.rec.Used
		if err = s.Budgets.Disarm(context.WithoutCancel(ctx), w.rec, e.signed(c, digest)); err == nil {
			w.run.device.arms(false)
		}
	}
	if err != nil {
		return fmt.Errorf("while it signed: %w", err)
	}
	return nil
}

// lookAtMost bounds how long a run that was stopped may look at what it took from the device.
const lookAtMost = 30 * time.Second

// joined runs the service's side of a device-held run. When ctx ends, nothing more is taken
// from the device or sent to it, but what was taken is looked at to the end: a cancellation
// does not undo the blame for it.
func (s *Service) joined(ctx context.Context, j *tss.Joint, d *device) (*tss.Joined, error) {
	d.listen()
	whole, kill := context.WithCancelCause(context.WithoutCancel(ctx))
	defer kill(nil)
	defer context.AfterFunc(s.ctx, func() { kill(errClosing) })()
	defer context.AfterFunc(ctx, func() { // ends with whole, at the latest
		d.stop(context.Cause(ctx))
		select {
		case <-time.After(lookAtMost):
			kill(context.Cause(ctx))
		case <-whole.Done():
		}
	})()
	return s.Joint(whole, j, d)
}

// deviceSource is source for a device that keeps its share: it names the set. That it has
// the share shows in its hello; until then nobody is told the set's state.
func (s *Service) deviceSource(ctx context.Context, c Caller, a action, walletID string, want Purpose, setID string) (*Wallet, *source, error) {
	wallet, err := s.wallet(ctx, c, a, walletID)
	if err != nil {
		return nil, nil, err
	}
	if want == Backup && len(wallet.Active(Backup)) == 0 {
		return nil, nil, fmt.Errorf("%w: wallet %s", ErrBackupNotFound, walletID)
	}
	set, err := s.Wallets.Set(ctx, walletID, setID)
	if err != nil {
		return nil, nil, err
	}
	if set.Purpose != want {
		return nil, nil, fmt.Errorf("%w: set %s is of purpose %v", ErrShareSetMismatch, setID, set.Purpose)
	}
	record, err := tss.ParseRecord(set.Record)
	if err != nil {
		return nil, nil, fmt.Errorf("record of set %s: %w", setID, fromTSS(err))
	}
	if err := wallet.has(set.ID, record); err != nil {
		return nil, nil, err
	}
	return wallet, &source{set: set, record: record}, nil
}

// hosted refuses to bring both halves of a wallet together that never were.
func (w *Wallet) hosted() error {
	if w.HostedSince.IsZero() {
		return fmt.Errorf("%w: wallet %s", ErrDeviceHeldWallet, w.ID)
	}
	return nil
}
