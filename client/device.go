package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/wire"
)

// WithDeviceHeldShares runs the client's side of every operation on this device: its shares
// never leave it, and only protocol messages pass. Wallets that are created so refuse
// everything else for good. An operation takes this device's own time for its half of the
// computation; Prewarm does a part of that ahead.
func WithDeviceHeldShares() Option {
	return func(c *Client) error {
		c.deviceHeld = true
		return nil
	}
}

// operations are package tss's names of what a reporter's operation is.
var operations = map[string]string{OperationCreate: "CREATE", OperationBackup: "BACKUP", OperationProvision: "PROVISION"}

// runOnDevice takes one device-held run from its request to the new share.
func runOnDevice[Resp any, Out outcome, Event jointEvent[Resp, Out]](
	ctx context.Context, c *Client, w want, r *reporter, open opener[Resp],
) (*Share, error) {
	j := tss.Joint{Party: tss.Client, Operation: operations[r.last.Operation], Purpose: tss.Signing}
	if w.purpose == PurposeBackup {
		j.Purpose = tss.Backup
	}
	for _, curve := range w.curves {
		tc, err := curve.tss()
		if err != nil {
			return nil, err
		}
		j.Curves = append(j.Curves, tc)
	}
	set := ""
	if w.source != nil {
		source, err := tss.ParseShare(w.source.encoded.Reveal())
		if err != nil {
			return nil, fmt.Errorf("client: %w: %w", ErrNotAShare, err)
		}
		defer source.Wipe()
		j.Share, set = source, source.ShareSetID
	}
	joined, out, err := together[Resp, Out, Event](ctx, c, j, set, r, open)
	if err != nil {
		return nil, err
	}
	defer joined.Share.Wipe()
	defer joined.Encoded.Wipe()
	share, err := ParseShare(joined.Encoded.Reveal())
	if err != nil {
		return nil, err
	}
	if err := w.check(out.GetShareSet(), share); err != nil {
		share.Wipe()
		return nil, err
	}
	return share, nil
}

// signOnDevice signs with this device's own side.
func (c *Client) signOnDevice(ctx context.Context, share *Share, curve Curve, tc tss.Curve, payload []byte) (*mpcdv1.SignResponse, error) {
	own, err := tss.ParseShare(share.encoded.Reveal())
	if err != nil {
		return nil, fmt.Errorf("client: %w: %w", ErrNotAShare, err)
	}
	defer own.Wipe()
	j := tss.Joint{Party: tss.Client, Operation: tss.OperationSign, Curves: []tss.Curve{tc}, Share: own, Payload: payload}
	_, out, err := together[mpcdv1.SignWithDeviceResponse, *mpcdv1.SignResponse](ctx, c, j, share.shareSetID, newReporter(nil, ""),
		func(ctx context.Context, t ticket) (grpc.ServerStreamingClient[mpcdv1.SignWithDeviceResponse], error) {
			return c.service.SignWithDevice(ctx, &mpcdv1.SignWithDeviceRequest{
				WalletId: share.walletID, RequestId: t.requestID, Device: t.device, Curve: curve.proto(), Payload: payload, AfterSequence: t.after,
			})
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// jointEvent is what the responses of device-held runs have in common.
type jointEvent[Resp any, Out comparable] interface {
	*Resp
	GetProgress() *mpcdv1.Progress
	GetMessage() *mpcdv1.ProtocolMessage
	GetOutcome() Out
}

// together carries out a device-held operation, over as many streams and attempts as it
// takes. A new attempt begins with parties of its own: those of another one cannot go on.
func together[Resp any, Out comparable, Event jointEvent[Resp, Out]](
	ctx context.Context, c *Client, j tss.Joint, set string, r *reporter, open opener[Resp],
) (*tss.Joined, Out, error) {
	t := ticket{requestID: uuid.NewString()}
	pace := newPace(c.rest, shortly)
	for {
		t.device = &mpcdv1.DeviceSide{ShareSetId: set, Instance: uuid.NewString()}
		a := &attempt{client: c, joint: j, device: t.device, ended: make(chan struct{}), slow: make(chan struct{}, 1)}
		a.joint.PreParams = a.preParams
		before := t.after
		out, err := followDevice[Resp, Out, Event](ctx, pace, a, &t, r, open)
		if err == nil {
			return a.joined, out, nil
		}
		if Reason(err) == "" { // no attempt ended: followDevice tried enough, or this side failed
			return nil, out, err
		}
		if err := pace.wait(ctx, err, 0, t.after > before); err != nil {
			return nil, out, err
		}
	}
}

// followDevice takes one attempt to its end, over as many streams as it takes.
func followDevice[Resp any, Out comparable, Event jointEvent[Resp, Out]](
	ctx context.Context, pace *pace, a *attempt, t *ticket, r *reporter, open opener[Resp],
) (out Out, err error) {
	caller := ctx
	ctx, a.fail = context.WithCancelCause(ctx)
	defer func() { a.stop(caller, err != nil && (caller.Err() != nil || errors.Is(err, ErrBadAnswer))) }()
	for {
		had := t.after + a.device.GetAck()
		out, err = attachDevice[Resp, Out, Event](ctx, a, t, r, open)
		if cause := context.Cause(ctx); cause != nil {
			return out, cause // the joint's own error, or the caller's end
		}
		if err == nil {
			return out, a.finish(ctx)
		}
		if reason := Reason(err); reason != "" && reason != "RATE_LIMITED" { // that one is about calls: the attempt goes on
			return out, err
		}
		if err := pace.wait(ctx, err, 0, t.after+a.device.GetAck() > had); err != nil {
			return out, cmp.Or(context.Cause(ctx), err)
		}
	}
}

// attachDevice reads one stream of an attempt.
func attachDevice[Resp any, Out comparable, Event jointEvent[Resp, Out]](
	ctx context.Context, a *attempt, t *ticket, r *reporter, open opener[Resp],
) (none Out, err error) {
	stream, stop := context.WithCancel(ctx)
	defer stop()
	events, err := open(stream, *t)
	if err != nil {
		return none, serviceError(err)
	}
	in := received(stream, events)
	defer func() {
		stop()
		for range in { // until its goroutine has ended
		}
	}()
	for {
		var ev recv[Resp]
		var ok bool
		select {
		case <-a.slow:
			r.making()
			continue
		case ev, ok = <-in:
		}
		if !ok {
			return none, context.Cause(ctx)
		}
		if errors.Is(ev.err, io.EOF) {
			return none, fmt.Errorf("client: %w", ErrNoOutcome)
		}
		if ev.err != nil {
			return none, serviceError(ev.err)
		}
		if p := Event(ev.msg).GetProgress(); p != nil {
			t.after = max(t.after, p.GetSequence())
			a.begin(ctx, p)
			r.service(a.shown(p))
		}
		if m := Event(ev.msg).GetMessage(); m != nil {
			if err := a.deliver(m); err != nil {
				return none, err
			}
		}
		if out := Event(ev.msg).GetOutcome(); out != none {
			<-in // reads the status, so that for the service the stream ended well
			return out, nil
		}
	}
}

// recv is what came of one read of a stream.
type recv[Resp any] struct {
	msg *Resp
	err error
}

// received reads a stream up to its end, or to ctx's. What it returns is closed when its
// goroutine has ended.
func received[Resp any](ctx context.Context, events grpc.ServerStreamingClient[Resp]) <-chan recv[Resp] {
	in := make(chan recv[Resp])
	go func() {
		defer close(in)
		for {
			msg, err := events.Recv()
			select {
			case in <- recv[Resp]{msg, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return in
}

// attempt is this device's end of one attempt: its own side, and the link to the service.
type attempt struct {
	client  *Client
	joint   tss.Joint
	device  *mpcdv1.DeviceSide // ack is raised as messages come; the reading goroutine's alone
	session string
	fail    context.CancelCauseFunc
	slow    chan struct{} // has a value when this side has begun to make pre-params
	making  atomic.Bool   // while it does

	in     chan tss.Part // what came, in order
	joined *tss.Joined   // set before ended is closed
	err    error         // the same; read after wg
	ended  chan struct{} // closed when the side has ended
	wg     sync.WaitGroup

	mu    sync.Mutex // guards what follows
	queue []*mpcdv1.ProtocolMessage
	next  uint32        // the sequence of the next one
	ack   uint32        // the last of the service's that came
	more  chan struct{} // has a value when the queue has grown
}

// begin starts this side when the service has said which attempt it is.
func (a *attempt) begin(ctx context.Context, p *mpcdv1.Progress) {
	if a.session != "" {
		return
	}
	a.session, a.device.Attempt = p.GetSessionId(), p.GetAttempt()
	a.joint.SessionID, a.joint.Attempt, a.joint.Instance = a.session, p.GetAttempt(), a.device.GetInstance()
	a.in, a.more, a.next = make(chan tss.Part, tss.MaxParts), make(chan struct{}, 1), 1
	a.wg.Go(func() { // ends with the side, which ends with ctx
		defer close(a.ended)
		if a.joined, a.err = a.joint.Run(ctx, a); a.err != nil {
			a.fail(a.side())
		}
	})
	a.wg.Go(func() { a.post(ctx) }) // ends with ctx
}

// preParams is this side's source of them: a set that was made ahead, or one that is made
// while the service waits, which takes seconds and is shown.
func (a *attempt) preParams(ctx context.Context) (*tss.PreParams, error) {
	if pre := a.client.madeAhead(ctx); pre != nil {
		return pre, nil
	}
	a.making.Store(true)
	defer a.making.Store(false)
	select {
	case a.slow <- struct{}{}:
	default: // it is known already
	}
	return a.client.newPreParams(ctx)
}

// shown is how a step of the service's is shown: its first round cannot end before this
// device has its pre-params, so that until then the run is where it makes them.
func (a *attempt) shown(p *mpcdv1.Progress) *mpcdv1.Progress {
	if a.making.Load() && p.GetStatus() == mpcdv1.Status_STATUS_GENERATING_SHARE {
		p.Round, p.Rounds = 0, 0
	}
	return p
}

// finish waits for this side to have what the service has: nothing but the service's last
// part can be missing. A signature stands for itself: it is held against the wallet's key.
func (a *attempt) finish(ctx context.Context) error {
	if a.session == "" {
		return badAnswer("an outcome before the run has begun")
	}
	if a.joint.Operation == tss.OperationSign {
		return nil
	}
	select {
	case <-a.ended:
		return a.side()
	case <-time.After(shortly):
		return badAnswer("an outcome without the service's word on what it saw")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// side is how this side ended.
func (a *attempt) side() error {
	if p := new(tss.ProtocolError); errors.As(a.err, &p) {
		return badAnswer("%w", a.err)
	}
	return a.err
}

// stop ends this side; and where it found the service's at fault, or its caller wants no
// more, the run there too: without this side it would wait for nothing, and hold a place.
func (a *attempt) stop(ctx context.Context, unwanted bool) {
	a.fail(nil)
	a.wg.Wait()
	if p := new(tss.ProtocolError); a.session != "" && (unwanted || errors.As(a.err, &p)) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shortly)
		defer cancel()
		// Whether it was heard changes nothing here.
		_, _ = a.client.service.CancelSession(ctx, &mpcdv1.CancelSessionRequest{SessionId: a.session})
	}
}

// deliver takes a message of the service's, once.
func (a *attempt) deliver(m *mpcdv1.ProtocolMessage) error {
	if a.session == "" {
		return badAnswer("a message before the run has begun")
	}
	if m.GetSequence() != a.device.GetAck()+1 {
		return nil // it came before
	}
	part, err := wire.Part(m)
	if err != nil {
		return badAnswer("%w", err)
	}
	select {
	case a.in <- part:
	default:
		return badAnswer("more messages than the protocol has")
	}
	a.device.Ack++
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ack = a.device.GetAck()
	a.drop(m.GetAck())
	return nil
}

// drop forgets what the service has. It must be called with mu held.
func (a *attempt) drop(ack uint32) {
	a.queue = slices.DeleteFunc(a.queue, func(m *mpcdv1.ProtocolMessage) bool { return m.GetSequence() <= ack })
}

// Send implements tss.Link.
func (a *attempt) Send(_ context.Context, p tss.Part) error {
	m := wire.Message(p)
	a.mu.Lock()
	m.Sequence = a.next
	a.next++
	a.queue = append(a.queue, m)
	a.mu.Unlock()
	select {
	case a.more <- struct{}{}:
	default: // it is known already
	}
	return nil
}

// Recv implements tss.Link.
func (a *attempt) Recv(ctx context.Context) (tss.Part, error) {
	select {
	case p := <-a.in:
		return p, nil
	case <-ctx.Done():
		return tss.Part{}, context.Cause(ctx)
	}
}

// post sends what is queued, all that there is in one call, until the service has it.
func (a *attempt) post(ctx context.Context) {
	idle := newPace(rest, patience) // for calls that are answered, and bring nothing forward
	for {
		select {
		case <-a.more:
		case <-ctx.Done():
			return
		}
		for {
			req := a.pending()
			if len(req.GetMessages()) == 0 {
				break
			}
			resp, err := again(ctx, newPace(rest, patience), func() (*mpcdv1.SendMessagesResponse, error) { return a.client.service.SendMessages(ctx, req) })
			if Reason(err) == "SESSION_NOT_FOUND" {
				err = nil // it ended, or was forgotten, before it was recorded: the stream says so
			}
			if err != nil {
				if ctx.Err() == nil {
					a.fail(err)
				}
				return
			}
			a.mu.Lock()
			a.drop(resp.GetAck())
			a.mu.Unlock()
			if resp.GetAck() >= req.GetMessages()[0].GetSequence() {
				idle = newPace(rest, patience)
				continue
			}
			// The service has not even the first of them.
			if err := idle.wait(ctx, fmt.Errorf("client: %w", errNotTaken), 0, false); err != nil {
				if ctx.Err() == nil {
					a.fail(badAnswer("%w", errNotTaken))
				}
				return
			}
		}
	}
}

// pending is the call that sends what the service has not got.
func (a *attempt) pending() *mpcdv1.SendMessagesRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.queue {
		m.Ack = a.ack
	}
	return &mpcdv1.SendMessagesRequest{SessionId: a.session, Instance: a.device.GetInstance(), Attempt: a.joint.Attempt, Messages: slices.Clone(a.queue)}
}
