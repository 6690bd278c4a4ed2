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

// want describes the share set that a run should make. The outcome is checked against it, so that a malicious or faulty
// service cannot make an app store something else.
type want struct {
	source  *Share // nil for CreateWallet
	purpose Purpose
	method  BackupMethod // of a BACKUP set
	curves  []Curve
}

// ticket has the fields that the requests of all streaming RPCs have in common. All attempts of one run have the same
// request id and seal_to.
type ticket struct {
	requestID string
	sealTo    string
	device    *mpcdv1.DeviceSide // nil: the run is hosted
	after     uint32             // the last sequence number seen
	attempt   uint32             // the last attempt seen; 0: none yet
}

// outcome has the methods that the results of all RPCs that make a share set have in common.
type outcome interface {
	comparable
	GetShareSet() *mpcdv1.ShareSet
	GetClientShare() []byte
}

// event has the methods that the responses of all streaming RPCs have in common.
type event[Resp any, Out comparable] interface {
	*Resp
	GetProgress() *mpcdv1.Progress
	GetMessage() *mpcdv1.ProtocolMessage
	GetOutcome() Out
}

// opener calls a streaming RPC.
type opener[Resp any] func(context.Context, ticket) (grpc.ServerStreamingClient[Resp], error)

// run makes a share set and returns its checked client share, which is not stored or confirmed yet.
func run[Resp any, Out outcome, Event event[Resp, Out]](
	ctx context.Context, c *Client, w want, r *reporter, open opener[Resp],
) (*Share, error) {
	var t ticket
	var j *tss.Operation        // this device's side; nil: the run is hosted
	var key *age.X25519Identity // what a hosted run's share is encrypted to
	var err error
	if c.deviceHeld {
		if j, err = w.operation(strings.ToUpper(r.last.Operation)); err != nil {
			return nil, err
		}
		defer j.Share.Wipe()
	} else {
		// The key exists only for this call: proxies, and the service's stored result, cannot reveal the share.
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

// follow calls a streaming RPC until its run has an outcome. When an attempt fails and can be retried, it repeats the
// call with the same request id, which begins the session's next attempt and never a second session. j is this device's
// side, of which each attempt gets a new instance; nil: the run is hosted.
func follow[Resp any, Out comparable, Event event[Resp, Out]](
	ctx context.Context, c *Client, t ticket, j *tss.Operation, r *reporter, open opener[Resp],
) (*tss.Output, Out, error) {
	t.requestID = uuid.NewString()
	pace := newPace(c.rest, shortPatience)
	for {
		a := newAttempt(c, j)
		t.device = a.device
		before := t.after
		out, err := followAttempt[Resp, Out, Event](ctx, pace, a, &t, r, open)
		if err == nil {
			return a.output, out, nil
		}
		if Reason(err) == "" { // the attempt did not end: followAttempt gave up, or this side failed
			return nil, out, err
		}
		if err := pace.wait(ctx, err, t.attempt, t.after > before); err != nil {
			return nil, out, err
		}
	}
}

// followAttempt follows one attempt to its end. When the stream is lost, it attaches again with the same request.
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
			return out, err // the attempt has ended; RATE_LIMITED rejects the call, not the attempt
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
	// The stream ends when this function returns. The run in the service does not.
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
		for range in { // wait until the goroutine has ended
		}
	}()
	for {
		var ev recv[Resp]
		select {
		case <-a.generating:
			r.generatingPreParams()
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
			if a.device != nil && a.session == "" {
				// A device is sent all progress of an attempt that it begins. If the service forgot a session that was
				// never recorded, the sequence starts again.
				t.after = 0
			}
			t.after, t.attempt = max(t.after, p.GetSequence()), max(t.attempt, p.GetAttempt())
			a.start(ctx, p)
			r.service(a.adjust(p))
		}
		if m := Event(ev.msg).GetMessage(); m != nil {
			if err := a.deliver(m); err != nil {
				return none, err
			}
		}
		if out := Event(ev.msg).GetOutcome(); out != none {
			// Read the status, so that the service does not see the stream cancelled. It cannot change the outcome.
			<-in
			return out, nil
		}
	}
}

// recv is the result of one read from a stream.
type recv[Resp any] struct {
	msg *Resp
	err error
}

// check checks an outcome's share set and client share against the request.
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
