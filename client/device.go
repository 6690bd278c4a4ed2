package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/link"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/wire"
)

// WithDeviceHeldShares runs the client's side of every operation on this device: shares never leave it, only protocol
// messages do. A wallet created this way permanently refuses hosted operations. The client's side of the computation
// then takes this device's own time; Prewarm does part of it in advance.
func WithDeviceHeldShares() Option {
	return func(c *Client) error {
		c.deviceHeld = true
		return nil
	}
}

// operation returns this device's side of a run. kind is one of package tss's operations. The caller wipes its share,
// if it has one.
func (w want) operation(kind string) (*tss.Operation, error) {
	j := &tss.Operation{Party: tss.Client, Kind: kind, Purpose: tss.Signing}
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
	if w.source != nil {
		share, err := tss.ParseShare(w.source.encoded.Reveal())
		if err != nil {
			return nil, fmt.Errorf("client: %w: %w", ErrNotAShare, err)
		}
		j.Share = share
	}
	return j, nil
}

// signOnDevice signs with the client's side run on this device.
func (c *Client) signOnDevice(
	ctx context.Context, share *Share, curve Curve, payload []byte,
) (*mpcdv1.SignResponse, error) {
	j, err := want{source: share, curves: []Curve{curve}}.operation(tss.OperationSign)
	if err != nil {
		return nil, err
	}
	defer j.Share.Wipe()
	j.Payload = payload
	open := func(ctx context.Context, t ticket) (grpc.ServerStreamingClient[mpcdv1.SignWithDeviceResponse], error) {
		return c.service.SignWithDevice(ctx, &mpcdv1.SignWithDeviceRequest{
			WalletId: share.walletID, RequestId: t.requestID, Device: t.device,
			Curve: curve.proto(), Payload: payload, AfterSequence: t.after,
		})
	}
	_, out, err := follow[mpcdv1.SignWithDeviceResponse, *mpcdv1.SignResponse](
		ctx, c, ticket{}, j, newReporter(nil, ""), open)
	return out, err
}

// attempt is the client's state of one attempt of a run. If the run is hosted, its methods do nothing; if it is
// device-held, it runs the client's side and is its link to the service.
type attempt struct {
	client    *Client
	device    *mpcdv1.DeviceSide // nil: hosted. Its ack is raised by the goroutine that reads the stream, and only there
	operation tss.Operation
	session   string
	fail      context.CancelCauseFunc
	// generating has a value when this side has begun to generate pre-params; isGenerating is true while it does.
	generating   chan struct{}
	isGenerating atomic.Bool

	received chan tss.Part // parts from the service, in order
	output   *tss.Output   // set before ended is closed
	err      error         // set before ended is closed; read after wg
	ended    chan struct{} // closed when the side has ended
	wg       sync.WaitGroup

	unsent chan struct{} // has a value when a part was added to end
	mu     sync.Mutex    // guards what follows
	end    link.End
}

// newAttempt returns an attempt with a new instance of the client's side: an instance cannot continue in another
// attempt. j is a template of that side; nil: the run is hosted.
func newAttempt(c *Client, j *tss.Operation) *attempt {
	a := &attempt{client: c}
	if j == nil {
		return a
	}
	a.operation, a.device = *j, &mpcdv1.DeviceSide{Instance: uuid.NewString()}
	if j.Share != nil {
		a.device.ShareSetId = j.Share.ShareSetID
	}
	a.operation.Instance, a.operation.PreParams = a.device.GetInstance(), a.preParams
	a.generating, a.unsent = make(chan struct{}, 1), make(chan struct{}, 1)
	a.received, a.ended = make(chan tss.Part, tss.MaxParts), make(chan struct{})
	return a
}

// start starts this side once the service's first progress has the session and attempt. Later calls do nothing.
func (a *attempt) start(ctx context.Context, p *mpcdv1.Progress) {
	if a.device == nil || a.session != "" {
		return
	}
	a.session, a.device.Attempt = p.GetSessionId(), p.GetAttempt()
	a.operation.SessionID, a.operation.Attempt = a.session, p.GetAttempt()
	a.wg.Go(func() { // ends with the side, which ends with ctx
		defer close(a.ended)
		if a.output, a.err = a.operation.Run(ctx, a); a.err != nil {
			a.fail(a.sideError())
		}
	})
	a.wg.Go(func() { a.sendAll(ctx) }) // ends with ctx
}

// preParams returns a prewarmed set, or generates one while the service waits, which takes seconds and is reported as
// progress.
func (a *attempt) preParams(ctx context.Context) (*tss.PreParams, error) {
	if pre := a.client.takePrewarmed(ctx); pre != nil {
		return pre, nil
	}
	a.isGenerating.Store(true)
	defer a.isGenerating.Store(false)
	select {
	case a.generating <- struct{}{}:
	default: // already signalled
	}
	return a.client.newPreParams(ctx)
}

// adjust clears the round of the service's progress p while this device generates pre-params: the service's first round
// cannot end before it has them.
func (a *attempt) adjust(p *mpcdv1.Progress) *mpcdv1.Progress {
	if a.isGenerating.Load() && p.GetStatus() == mpcdv1.Status_STATUS_GENERATING_SHARE {
		p.Round, p.Rounds = 0, 0
	}
	return p
}

// finish is called with the service's outcome, and waits for this side to end: it may still have to process the
// service's last part. Signing does not wait, since the signature itself is verified under the wallet's key.
func (a *attempt) finish(ctx context.Context) error {
	switch {
	case a.device == nil:
		return nil
	case a.session == "":
		return badAnswer("an outcome before the run has begun")
	case a.operation.Kind == tss.OperationSign:
		return nil
	}
	select {
	case <-a.ended:
		return a.sideError()
	case <-time.After(shortPatience):
		return badAnswer("an outcome without the service's MAC of the transcript")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sideError returns the error that this side ended with; a protocol error of the service's is an ErrBadAnswer.
func (a *attempt) sideError() error {
	if p := new(tss.ProtocolError); errors.As(a.err, &p) {
		return badAnswer("%w", a.err)
	}
	return a.err
}

// stop ends this side. If the service broke the protocol, or cancel is set, it also cancels the session, which would
// otherwise occupy a slot until it times out.
func (a *attempt) stop(ctx context.Context, cancel bool) {
	a.fail(nil)
	a.wg.Wait()
	if p := new(tss.ProtocolError); a.session != "" && (cancel || errors.As(a.err, &p)) {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), shortPatience)
		defer done()
		// Best effort: the session times out anyway.
		_, _ = a.client.service.CancelSession(ctx, &mpcdv1.CancelSessionRequest{SessionId: a.session})
	}
}

// deliver passes a message from the service to this side, unless it is a duplicate. Hosted runs ignore messages.
func (a *attempt) deliver(m *mpcdv1.ProtocolMessage) error {
	switch {
	case a.device == nil:
		return nil
	case a.session == "":
		return badAnswer("a message before the run has begun")
	}
	part, err := wire.Part(m)
	if err != nil {
		return badAnswer("%w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	next := []link.Numbered{{Sequence: m.GetSequence(), Ack: m.GetAck(), Part: part}}
	a.device.Ack, err = a.end.Take(next, func(p tss.Part) (bool, error) {
		select {
		case a.received <- p:
			return true, nil
		default:
			return false, badAnswer("it sent more messages than the protocol has")
		}
	})
	return err
}

// Send implements tss.Link.
func (a *attempt) Send(_ context.Context, p tss.Part) error {
	a.mu.Lock()
	err := a.end.Send(p)
	a.mu.Unlock()
	select {
	case a.unsent <- struct{}{}:
	default: // already signalled
	}
	return err
}

// Recv implements tss.Link.
func (a *attempt) Recv(ctx context.Context) (tss.Part, error) {
	select {
	case p := <-a.received:
		return p, nil
	case <-ctx.Done():
		return tss.Part{}, context.Cause(ctx)
	}
}

// sendAll sends all parts that the service has not acknowledged, in one call, and repeats this until ctx is done.
func (a *attempt) sendAll(ctx context.Context) {
	idle := newPace(rest, patience) // for calls that succeed but acknowledge nothing
	for {
		req := a.pending()
		if len(req.GetMessages()) == 0 {
			select {
			case <-a.unsent:
				continue
			case <-ctx.Done():
				return
			}
		}
		resp, err := callWithRetry(ctx, newPace(rest, patience), func() (*mpcdv1.SendMessagesResponse, error) {
			return a.client.service.SendMessages(ctx, req)
		})
		// The session is not found if it ended, or the service restarted, before it was recorded: the stream reports that.
		if err != nil && Reason(err) != ReasonSessionNotFound {
			a.fail(err)
			return
		}
		if a.acknowledge(resp.GetAck()) >= req.GetMessages()[0].GetSequence() {
			idle = newPace(rest, patience)
			continue
		}
		if idle.wait(ctx, fmt.Errorf("client: %w", errNotAccepted), 0, false) != nil {
			a.fail(badAnswer("%w", errNotAccepted))
			return
		}
	}
}

// acknowledge records the service's acknowledgement, and returns the highest so far.
func (a *attempt) acknowledge(ack uint32) uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.end.Acknowledge(ack)
}

// pending returns a request with the parts that the service has not acknowledged.
func (a *attempt) pending() *mpcdv1.SendMessagesRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	req := &mpcdv1.SendMessagesRequest{
		SessionId: a.session, Instance: a.operation.Instance, Attempt: a.operation.Attempt,
	}
	for _, n := range a.end.After(0) {
		req.Messages = append(req.Messages, wire.Numbered(&n))
	}
	return req
}
