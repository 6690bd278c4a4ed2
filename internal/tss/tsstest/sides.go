package tsstest

import (
	"context"
	"fmt"
	"sync"

	"github.com/mpcd/mpcd/internal/tss"
)

// Keygen runs both sides of one key generation over a pipe, without hellos and confirmation. pre is by Party and may be
// zero for Ed25519. It returns the sides' new keys, by Party.
func Keygen(ctx context.Context, c tss.Curve, pre [2]*tss.PreParams, obs tss.Observer) (*[2]tss.NewKey, error) {
	keys, err := tss.NewPartyKeys(c)
	if err != nil {
		return nil, err
	}
	return newKeys(ctx, obs, func(ctx context.Context, p tss.Party, conn tss.Conn, obs tss.Observer) (*tss.NewKey, error) {
		return tss.Keygen(ctx, conn, tss.KeygenInput{Curve: c, Party: p, Keys: keys, PreParams: pre[p]}, obs)
	})
}

// Reshare is Keygen for a new sharing of old's key. shares and pre are by Party.
func Reshare(
	ctx context.Context, old *tss.KeyRecord, shares [2]*tss.KeyShare, pre [2]*tss.PreParams, obs tss.Observer,
) (*[2]tss.NewKey, error) {
	keys, err := tss.NewPartyKeys(old.Curve)
	if err != nil {
		return nil, err
	}
	return newKeys(ctx, obs, func(ctx context.Context, p tss.Party, conn tss.Conn, obs tss.Observer) (*tss.NewKey, error) {
		in := tss.ReshareInput{Party: p, Old: old, Share: shares[p], NewKeys: keys, PreParams: pre[p]}
		return tss.Reshare(ctx, conn, in, obs)
	})
}

// Sign runs both sides of one signing, like Keygen. It returns the SERVER side's signature. shares is by Party.
func Sign(
	ctx context.Context, rec *tss.KeyRecord, shares [2]*tss.KeyShare, payload []byte, obs tss.Observer,
) (*tss.Signature, error) {
	run := func(ctx context.Context, p tss.Party, conn tss.Conn, obs tss.Observer) (*tss.Signature, error) {
		return tss.Sign(ctx, conn, tss.SignInput{Party: p, Record: rec, Share: shares[p], Payload: payload}, obs)
	}
	sigs, err := both(ctx, obs, run)
	if err != nil {
		return nil, err
	}
	return sigs[tss.Server], nil
}

type runSide[T any] func(context.Context, tss.Party, tss.Conn, tss.Observer) (*T, error)

func newKeys(ctx context.Context, obs tss.Observer, run runSide[tss.NewKey]) (*[2]tss.NewKey, error) {
	keys, err := both(ctx, obs, run)
	if err != nil {
		return nil, err
	}
	return &[2]tss.NewKey{*keys[tss.Client], *keys[tss.Server]}, nil
}

// both runs both sides and waits for both. obs.Round follows the SERVER side. The first failure ends the other side.
func both[T any](ctx context.Context, obs tss.Observer, run runSide[T]) (out [2]*T, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	observers := [2]tss.Observer{tss.Client: {Busy: obs.Busy}, tss.Server: obs}
	var ends [2]tss.Conn
	ends[tss.Client], ends[tss.Server] = Pipe()
	var wg sync.WaitGroup
	for _, p := range []tss.Party{tss.Client, tss.Server} {
		wg.Go(func() { // ends with its side, which ends at once with ctx
			got, err := run(ctx, p, ends[p], observers[p])
			if err != nil {
				cancel(fmt.Errorf("%v side: %w", p, err))
				return
			}
			out[p] = got
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return [2]*T{}, context.Cause(ctx)
	}
	return out, nil
}

type pipeEnd struct {
	in  <-chan tss.Message
	out chan<- tss.Message
}

// Pipe returns the two ends of an in-memory Conn.
func Pipe() (client, server tss.Conn) {
	up, down := make(chan tss.Message, tss.MaxParts), make(chan tss.Message, tss.MaxParts)
	return &pipeEnd{in: down, out: up}, &pipeEnd{in: up, out: down}
}

// Send implements tss.Conn.
func (p *pipeEnd) Send(ctx context.Context, m tss.Message) error {
	select {
	case p.out <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Recv implements tss.Conn.
func (p *pipeEnd) Recv(ctx context.Context) (tss.Message, error) {
	select {
	case m := <-p.in:
		return m, nil
	case <-ctx.Done():
		return tss.Message{}, context.Cause(ctx)
	}
}
