package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/google/uuid"
	"google.golang.org/grpc"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
)

// want is what a run was asked to make. An outcome is held against it, so that a service
// that lies or errs cannot make an app store something else.
type want struct {
	source  *Share // nil for CreateWallet
	purpose Purpose
	method  BackupMethod // of a BACKUP set
	curves  []Curve
}

// ticket is what the request of a run says beside the operation itself. All attempts of one
// run have the same request id and seal_to.
type ticket struct {
	requestID string
	sealTo    string
	device    *mpcdv1.DeviceSide // of a device-held run; nil: hosted
	after     uint32             // the last sequence seen
	attempt   uint32             // the last attempt seen; 0: none
}

// outcome is what the results of the RPCs that make a share set have in common.
type outcome interface {
	comparable
	GetShareSet() *mpcdv1.ShareSet
	GetClientShare() []byte
}

// event is what the responses of the streaming RPCs have in common.
type event[Resp any, Out comparable] interface {
	*Resp
	GetProgress() *mpcdv1.Progress
	GetMessage() *mpcdv1.ProtocolMessage
	GetOutcome() Out
}

// opener starts one of them.
type opener[Resp any] func(context.Context, ticket) (grpc.ServerStreamingClient[Resp], error)

// run takes one run from its request to the new share, which is still only in memory.
func run[Resp any, Out outcome, Event event[Resp, Out]](
	ctx context.Context, c *Client, w want, r *reporter, open opener[Resp],
) (*Share, error) {
	var t ticket
	var j *tss.Operation        // this device's side
	var key *age.X25519Identity // of a hosted run
	var err error
	if c.deviceHeld {
		if j, err = w.operation(strings.ToUpper(r.last.Operation)); err != nil {
			return nil, err
		}
		defer j.Share.Wipe()
	} else {
		// The share comes back encrypted to a key that lives as long as this call: what keeps or
		// carries it on its way cannot read it.
		if key, err = age.GenerateX25519Identity(); err != nil {
			return nil, err
		}
		t.sealTo = key.Recipient().String()
	}
	joined, out, err := follow[Resp, Out, Event](ctx, c, t, j, r, open)
	if err != nil {
		return nil, err
	}
	defer joined.Wipe()
	var encoded []byte
	if c.deviceHeld {
		encoded = joined.Encoded.Reveal()
	} else {
		encoded, err = decrypt(out.GetClientShare(), key)
		defer clear(encoded)
		if err != nil {
			return nil, badAnswer("its share is not encrypted to this call's key: %w", err)
		}
	}
	share, err := ParseShare(encoded)
	if err != nil {
		return nil, badAnswer("%w", err)
	}
	if named, ok := any(out).(*mpcdv1.CreateWalletResult); ok && named.GetWalletId() != share.walletID {
		err = badAnswer("the share is of another wallet")
	} else {
		err = w.check(out.GetShareSet(), share)
	}
	if err != nil {
		share.Wipe()
		return nil, err
	}
	return share, nil
}

// follow takes a run to its outcome, over as many attempts as it takes: the run belongs to the
// service, and the same request id begins the next attempt of one that has ended and may do
// better. It never makes a second run. j is this device's side of it, which begins each attempt
// anew; nil: the run is hosted.
func follow[Resp any, Out comparable, Event event[Resp, Out]](
	ctx context.Context, c *Client, t ticket, j *tss.Operation, r *reporter, open opener[Resp],
) (*tss.Output, Out, error) {
	t.requestID = uuid.NewString()
	pace := newPace(c.rest, shortly)
	for {
		a := newAttempt(c, j)
		t.device = a.device
		before := t.after
		out, err := followAttempt[Resp, Out, Event](ctx, pace, a, &t, r, open)
		if err == nil {
			return a.output, out, nil
		}
		if Reason(err) == "" { // no attempt ended: followAttempt tried enough, or this side failed
			return nil, out, err
		}
		if err := pace.wait(ctx, err, t.attempt, t.after > before); err != nil {
			return nil, out, err
		}
	}
}

// followAttempt takes one attempt to its end, over as many streams as it takes: the same request
// attaches to it again.
func followAttempt[Resp any, Out comparable, Event event[Resp, Out]](
	ctx context.Context, pace *pace, a *attempt, t *ticket, r *reporter, open opener[Resp],
) (out Out, err error) {
	caller := ctx
	ctx, a.fail = context.WithCancelCause(ctx)
	defer func() {
		if cause := context.Cause(ctx); cause != nil && caller.Err() == nil {
			err = cause // this side failed
		}
		a.stop(caller, err != nil && (caller.Err() != nil || errors.Is(err, ErrBadAnswer)))
	}()
	for {
		before := t.after + a.device.GetAck()
		if out, err = attach[Resp, Out, Event](ctx, a, t, r, open); err == nil {
			return out, a.finish(ctx)
		}
		if reason := Reason(err); reason != "" && reason != ReasonRateLimited {
			return out, err // the attempt has ended; RATE_LIMITED is about calls
		}
		if err = pace.wait(ctx, err, t.attempt, t.after+a.device.GetAck() > before); err != nil {
			return out, err
		}
	}
}

// attach reads one stream of an attempt.
func attach[Resp any, Out comparable, Event event[Resp, Out]](
	ctx context.Context, a *attempt, t *ticket, r *reporter, open opener[Resp],
) (none Out, err error) {
	// Whatever way this ends, the stream ends with it; the run in the service does not.
	streaming, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := open(streaming, *t)
	if err != nil {
		return none, serviceError(err)
	}
	in := make(chan recv[Resp])
	go func() { // ends with the stream
		defer close(in)
		for ev := (recv[Resp]{}); ev.err == nil; {
			ev.msg, ev.err = stream.Recv()
			in <- ev
		}
	}()
	defer func() {
		stop()
		for range in { // until the goroutine has ended
		}
	}()
	for {
		var ev recv[Resp]
		select {
		case <-a.slow:
			r.making()
			continue
		case ev = <-in:
		}
		if errors.Is(ev.err, io.EOF) {
			return none, fmt.Errorf("client: %w", ErrNoOutcome)
		}
		if ev.err != nil {
			return none, serviceError(ev.err)
		}
		if p := Event(ev.msg).GetProgress(); p != nil {
			t.after, t.attempt = max(t.after, p.GetSequence()), max(t.attempt, p.GetAttempt())
			a.begin(ctx, p)
			r.service(a.shown(p))
		}
		if m := Event(ev.msg).GetMessage(); m != nil {
			if err := a.deliver(m); err != nil {
				return none, err
			}
		}
		if out := Event(ev.msg).GetOutcome(); out != none {
			// Reads the status, so that for the service the stream ended well. What it says
			// cannot make the outcome worse.
			<-in
			return out, nil
		}
	}
}

// recv is what came of one read of a stream.
type recv[Resp any] struct {
	msg *Resp
	err error
}

func (w want) check(set *mpcdv1.ShareSet, share *Share) error {
	switch {
	case share.shareSetID != set.GetShareSetId():
		return badAnswer("the share is of another share set than the outcome names")
	case share.purpose != w.purpose || purposeOf(set.GetPurpose()) != w.purpose:
		return badAnswer("the share set is not of purpose %s", w.purpose)
	case methodOf(set.GetBackupMethod()) != w.method:
		return badAnswer("the share set has another backup method")
	case !slices.Equal(share.curves, w.curves):
		return badAnswer("the share has other curves")
	case w.source == nil && set.GetParentShareSetId() != "":
		return badAnswer("the share set of a new wallet was made from another one")
	case w.source == nil:
		return nil
	case share.walletID != w.source.walletID:
		return badAnswer("the share is of another wallet")
	case share.shareSetID == w.source.shareSetID || set.GetParentShareSetId() != w.source.shareSetID:
		return badAnswer("the share set was not made from the share that was sent")
	}
	return nil
}
