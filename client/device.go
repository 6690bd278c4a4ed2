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

// operation is this device's side of a run, whose operation has package tss's name. Its share, where
// it has one, is the caller's to wipe.
func (w want) operation(operation string) (*tss.Operation, error) {
	j := &tss.Operation{Party: tss.Client, Kind: operation, Purpose: tss.Signing}
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

// signOnDevice signs with this device's own side.
func (c *Client) signOnDevice(
	ctx context.Context, share *Share, curve Curve, payload []byte,
) (*mpcdv1.SignResponse, error) {
	j, err := want{source: share, curves: []Curve{curve}}.operation(tss.OperationSign)
	if err != nil {
		return nil, err
	}
	defer j.Share.Wipe()
	j.Payload = payload
	_, out, err := follow[mpcdv1.SignWithDeviceResponse, *mpcdv1.SignResponse](ctx, c, ticket{}, j, newReporter(nil, ""),
		func(ctx context.Context, t ticket) (grpc.ServerStreamingClient[mpcdv1.SignWithDeviceResponse], error) {
			return c.service.SignWithDevice(ctx, &mpcdv1.SignWithDeviceRequest{
				WalletId: share.walletID, RequestId: t.requestID, Device: t.device,
				Curve: curve.proto(), Payload: payload, AfterSequence: t.after,
			})
		})
	return out, err
}

// attempt is this end of one attempt of a run. Of a hosted run it does nothing. Of a device-held
// one it is the device's own side, and its end of the link to the service.
type attempt struct {
	client    *Client
	device    *mpcdv1.DeviceSide // ack is raised as messages come; the reading goroutine's alone. nil: the run is hosted
	operation tss.Operation
	session   string
	fail      context.CancelCauseFunc
	slow      chan struct{} // has a value when this side has begun to make pre-params
	making    atomic.Bool   // while it does

	in     chan tss.Part // what came, in order
	output *tss.Output   // set before ended is closed
	err    error         // the same; read after wg
	ended  chan struct{} // closed when the side has ended
	wg     sync.WaitGroup

	more chan struct{} // has a value when there is more to send
	mu   sync.Mutex    // guards what follows
	end  link.End
}

// newAttempt begins an attempt with parties of its own: those of another one cannot go on.
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
	a.slow, a.more = make(chan struct{}, 1), make(chan struct{}, 1)
	a.in, a.ended = make(chan tss.Part, tss.MaxParts), make(chan struct{})
	return a
}

// begin starts this side when the service has said which attempt it is.
func (a *attempt) begin(ctx context.Context, p *mpcdv1.Progress) {
	if a.device == nil || a.session != "" {
		return
	}
	a.session, a.device.Attempt = p.GetSessionId(), p.GetAttempt()
	a.operation.SessionID, a.operation.Attempt = a.session, p.GetAttempt()
	a.wg.Go(func() { // ends with the side, which ends with ctx
		defer close(a.ended)
		if a.output, a.err = a.operation.Run(ctx, a); a.err != nil {
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

// deliver takes a message of the service's, once. A hosted run has none.
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
		case a.in <- p:
			return true, nil
		default:
			return false, badAnswer("more messages than the protocol has")
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
	case a.more <- struct{}{}:
	default: // it is known already
	}
	return err
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

// post sends what the service has not acknowledged, all of it in one call, until it has.
func (a *attempt) post(ctx context.Context) {
	idle := newPace(rest, patience) // for calls that are answered, and bring nothing forward
	for {
		req := a.pending()
		if len(req.GetMessages()) == 0 {
			select {
			case <-a.more:
				continue
			case <-ctx.Done():
				return
			}
		}
		resp, err := again(ctx, newPace(rest, patience), func() (*mpcdv1.SendMessagesResponse, error) {
			return a.client.service.SendMessages(ctx, req)
		})
		// A session that has ended, or was forgotten, before it was recorded: the stream says so.
		if err != nil && Reason(err) != ReasonSessionNotFound {
			a.fail(err)
			return
		}
		if a.acknowledged(resp.GetAck()) >= req.GetMessages()[0].GetSequence() {
			idle = newPace(rest, patience)
			continue
		}
		// The service has not even the first of them.
		if idle.wait(ctx, fmt.Errorf("client: %w", errNotTaken), 0, false) != nil {
			a.fail(badAnswer("%w", errNotTaken))
			return
		}
	}
}

// acknowledged notes what the service says that it has, and returns what it has said so far.
func (a *attempt) acknowledged(ack uint32) uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.end.Acknowledge(ack)
}

// pending is the call that sends what the service has not got.
func (a *attempt) pending() *mpcdv1.SendMessagesRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	req := &mpcdv1.SendMessagesRequest{SessionId: a.session, Instance: a.operation.Instance, Attempt: a.operation.Attempt}
	for _, n := range a.end.After(0) {
		req.Messages = append(req.Messages, wire.Numbered(&n))
	}
	return req
}
