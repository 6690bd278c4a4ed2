package session

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mpcd/mpcd/internal/tss"
)

// Part is the tss room's: one unit of what the two sides of a device-held run send each
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
// kept until the device has it; nothing is taken twice.
type device struct {
	instance string
	attempt  uint32
	silence  time.Duration // after which it is gone
	wake     func()        // tells the run's followers that there is more to send
	in       chan Part     // what the device sent, in order

	mu     sync.Mutex // guards what follows
	next   uint32     // the sequence of the device's next part
	sent   []Part     // those after acked
	acked  uint32
	newest Part      // sent or not yet, acknowledged or not
	waits  time.Time // since when the run waits for the device; zero: it does not
}

var _ tss.Link = (*device)(nil)

func newDevice(instance string, attempt uint32, silence time.Duration, wake func()) *device {
	return &device{instance: instance, attempt: attempt, silence: silence, wake: wake, in: make(chan Part, tss.MaxParts), next: 1}
}

// Send implements tss.Link.
func (d *device) Send(_ context.Context, p Part) error {
	d.mu.Lock()
	if len(d.sent) == tss.MaxParts {
		d.mu.Unlock()
		return fmt.Errorf("%w: a device that takes nothing", ErrInterrupted)
	}
	d.sent, d.newest = append(d.sent, p), p
	d.mu.Unlock()
	d.wake()
	return nil
}

// Recv implements tss.Link.
func (d *device) Recv(ctx context.Context) (Part, error) {
	silence := time.NewTimer(d.silence)
	defer silence.Stop()
	d.waitsSince(time.Now())
	defer d.waitsSince(time.Time{})
	select {
	case p := <-d.in:
		return p, nil
	case <-silence.C:
		return Part{}, fmt.Errorf("%w: the device has said nothing for %v", ErrInterrupted, d.silence)
	case <-ctx.Done():
		return Part{}, context.Cause(ctx)
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
// sequence that is there.
func (d *device) take(parts []Numbered) (ack uint32, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range parts {
		d.forget(p.Ack)
		if p.Sequence != d.next { // it came before, or one before it did not
			continue
		}
		select {
		case d.in <- p.Part:
			d.next++
		default:
			return d.next - 1, &FieldError{"messages", "must not be more than the protocol has"}
		}
	}
	return d.next - 1, nil
}

// forget drops what the device has. It must be called with mu held.
func (d *device) forget(ack uint32) {
	if n := uint32(len(d.sent)); ack > d.acked && ack <= d.acked+n { //nolint:gosec // G115: at most tss.MaxParts
		d.sent = d.sent[ack-d.acked:]
		d.acked = ack
	}
}

// SendMessages hands a live device-held session what its device sent, each part once, and
// returns the last sequence that is there.
func (s *Service) SendMessages(ctx context.Context, c Caller, sessionID, instance string, attempt uint32, parts []Numbered) (ack uint32, err error) {
	rec, err := s.Session(ctx, c, sessionID)
	if err != nil {
		return 0, err
	}
	d := s.deviceOf(rec)
	switch {
	case d != nil && d.instance == instance && d.attempt == attempt:
		return d.take(parts)
	case d == nil && rec.State == Succeeded: // its last part, again: the session has it
		return lastOf(parts), nil
	case d == nil && rec.State.Ended():
		return 0, rec.Err()
	}
	return 0, fmt.Errorf("%w: session %s has no attempt %d of this instance", ErrInterrupted, sessionID, attempt)
}

func lastOf(parts []Numbered) (last uint32) {
	for _, p := range parts {
		last = max(last, p.Sequence)
	}
	return last
}

// deviceOf returns the device of a live session, or nil.
func (s *Service) deviceOf(rec *Session) *device {
	r := s.running(rec)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil
	}
	return r.device
}

// belongs reports whether a call comes from the parties that a live run has at its other
// end. A new instance of the device takes over: the run is ended, without blame, and the
// call begins the next attempt.
func (s *Service) belongs(ctx context.Context, r *Run, d *Device) (bool, error) {
	if d == nil {
		return true, nil
	}
	r.mu.Lock()
	there, attempt, ended := r.device, r.attempt, r.ended
	r.mu.Unlock()
	switch {
	case ended || there == nil: // its end, or its error, is for everybody
		return true, nil
	case there.instance == d.Instance && (d.Attempt == 0 || d.Attempt == attempt):
		return true, nil
	case d.Attempt != 0:
		return false, fmt.Errorf("%w: attempt %d is over", ErrInterrupted, d.Attempt)
	}
	r.cancel(fmt.Errorf("%w: another instance of the device has taken over", ErrInterrupted))
	select {
	case <-r.released:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// joint runs the service's side of an operation whose client's side is on a device.
func (s *Service) joint(ctx context.Context, w *work, t target, src *source) (*made, []PublicKey, error) {
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
		if err := s.PreParams.Ready(ctx, tss.Server); err != nil {
			return nil, nil, fmt.Errorf("pre-params: %w", err)
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
	out, err := s.Joint(ctx, &j, w.run.device)
	if err != nil {
		return nil, nil, err
	}
	defer out.Share.Wipe()
	w.run.report(Progress{Status: StatusStoringShare, Percent: percentStoring})
	m, err := s.store(ctx, w, t, src, out.Record, out.Share, out.ShareHash)
	if err != nil {
		return nil, nil, err
	}
	// The device has its share. What it may still lack is our last part: the word that we saw
	// what it saw.
	last := w.run.device.last()
	m.outcome.Last = last
	w.rec.Result = &Result{SealedTo: true, Data: last.encode()}
	var public []PublicKey
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
		if err := s.allowed(ctx, Question{
			Caller: c.Name, Operation: OpSign.String(), WalletID: wallet.ID, Owner: wallet.Owner, ShareSetID: src.set.ID, RequestID: req.RequestID,
			Curve: req.Curve, Digest: payloadDigest(req.Curve, req.Payload),
		}); err != nil {
			return nil, err
		}
		return &plan{walletID: wallet.ID, uses: src.set.ID, steps: func(ctx context.Context, w *work) (*made, error) {
			return s.signJointly(ctx, w, wallet.Owner, src, req.Curve, req.Payload)
		}}, nil
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
		Gate:     func(ctx context.Context) error { return s.mayLeave(ctx, w.rec, src, c, digest) },
	}
	out, err := s.Joint(ctx, &j, w.run.device)
	if err != nil {
		return nil, err
	}
	return s.signed(w, src, c, digest, out.Signature)
}

// mayLeave is the last word before the device has a signature: the set must still be one
// that may sign, and who signs what must be durable.
func (s *Service) mayLeave(ctx context.Context, rec *Session, src *source, c Curve, digest []byte) error {
	if _, err := s.usable(ctx, rec.WalletID, src.set.ID); err != nil {
		return fmt.Errorf("while it signed: %w", err)
	}
	e := s.entry(rec, "session.release")
	e.ShareSetID, e.Detail = src.set.ID, rec.Operation.String()+" "+c.String()+" "+hex.EncodeToString(digest)
	if err := s.Keeping.Record(ctx, e); err != nil {
		return fmt.Errorf("note the signature: %w", err)
	}
	return nil
}

// deviceSource is source for a device that keeps its share: it names the set. That it has
// the share shows in the run.
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
	if err := set.usable(); err != nil {
		return nil, nil, err
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
