package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"filippo.io/age"
	"github.com/google/uuid"
	"google.golang.org/grpc"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
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

// outcome is what the results of the three streaming RPCs have in common.
type outcome interface {
	comparable
	GetShareSet() *mpcdv1.ShareSet
	GetClientShare() []byte
}

// event is what their responses have in common.
type event[Resp any] interface {
	*Resp
	GetProgress() *mpcdv1.Progress
}

// opener starts one of them.
type opener[Resp any] func(context.Context, ticket) (grpc.ServerStreamingClient[Resp], error)

// run takes one run from its request to the new share, which is still only in memory.
// result is the response's GetOutcome.
func run[Resp any, Out outcome, Event jointEvent[Resp, Out]](
	ctx context.Context, c *Client, w want, r *reporter, result func(Event) Out, open opener[Resp],
) (*Share, error) {
	if c.deviceHeld {
		return runOnDevice[Resp, Out, Event](ctx, c, w, r, open)
	}
	// The share comes back encrypted to a key that lives as long as this call: what keeps or
	// carries it on its way cannot read it.
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	t := ticket{requestID: uuid.NewString(), sealTo: key.Recipient().String()}
	out, err := follow(ctx, newPace(c.rest, shortly), t, r, result, open)
	if err != nil {
		return nil, err
	}
	plain, err := decrypt(out.GetClientShare(), key)
	defer clear(plain)
	if err != nil {
		return nil, badAnswer("its share is not encrypted to this call's key: %w", err)
	}
	share, err := ParseShare(plain)
	if err != nil {
		return nil, badAnswer("%w", err)
	}
	if err := w.check(out.GetShareSet(), share); err != nil {
		share.Wipe()
		return nil, err
	}
	if named, ok := any(out).(*mpcdv1.CreateWalletResult); ok && named.GetWalletId() != share.walletID {
		share.Wipe()
		return nil, badAnswer("the share is of another wallet")
	}
	return share, nil
}

// follow reads a run up to its outcome, over as many streams as it takes: the run belongs
// to the service, and the same request id attaches to it again, or begins the next attempt
// of one that the service had to interrupt. It never makes a second run.
func follow[Resp any, Out outcome, Event event[Resp]](
	ctx context.Context, pace *pace, t ticket, r *reporter, result func(Event) Out, open opener[Resp],
) (Out, error) {
	for {
		before := t.after
		out, err := attach(ctx, &t, r, result, open)
		if err == nil {
			return out, nil
		}
		if err := pace.wait(ctx, err, t.attempt, t.after > before); err != nil {
			return out, err
		}
	}
}

// attach reads one stream of a run.
func attach[Resp any, Out outcome, Event event[Resp]](
	ctx context.Context, t *ticket, r *reporter, result func(Event) Out, open opener[Resp],
) (Out, error) {
	var none Out
	// Whatever way this ends, the stream ends with it; the run in the service does not.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx, *t)
	if err != nil {
		return none, serviceError(err)
	}
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return none, fmt.Errorf("client: %w", ErrNoOutcome)
		}
		if err != nil {
			return none, serviceError(err)
		}
		if p := Event(msg).GetProgress(); p != nil {
			t.after, t.attempt = max(t.after, p.GetSequence()), max(t.attempt, p.GetAttempt())
			r.service(p)
		}
		if out := result(msg); out != none {
			// Reads the status, so that for the service the stream ended well. What it says
			// cannot make the outcome worse.
			_, _ = stream.Recv()
			return out, nil
		}
	}
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
