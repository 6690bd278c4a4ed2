package tss

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Hosted runs both sides of an operation in this process, over a link in memory. server is the SERVER's side; the
// CLIENT's is the same operation with the client's share and pre-params. It returns both outputs, by Party, which the
// caller wipes. Shares are checked against their set's record, which is the source of all public values: no input from
// outside reaches tss-lib (tss-lib.md, row 14).
//
// It waits for both sides, since one can finish although the other one's last check fails (tss-lib.md, row 7). The
// first failure ends the other side and is returned, and the outputs are wiped. Progress is the SERVER side's.
func Hosted(
	ctx context.Context, server *Operation, share *Share, preParams func(context.Context) (*PreParams, error),
) (*[2]*Output, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	client := &Operation{
		Party: Client, Kind: server.Kind, SessionID: server.SessionID, Attempt: server.Attempt,
		Curves: server.Curves, Purpose: server.Purpose, Share: share, Payload: server.Payload,
		PreParams: preParams, Observer: server.Observer,
	}
	var ends [2]Link
	ends[Client], ends[Server] = memoryLink()
	var out [2]*Output
	panicked := make(chan any, len(out))
	var wg sync.WaitGroup
	for p, side := range map[Party]*Operation{Client: client, Server: server} {
		wg.Go(func() { // ends with its side, which ends at once with ctx
			defer func() {
				if v := recover(); v != nil {
					cancel(errPanicked)
					panicked <- v
				}
			}()
			o, err := side.Run(ctx, ends[p])
			if err != nil {
				cancel(fmt.Errorf("%v side: %w", p, err))
				return
			}
			out[p] = o
		})
	}
	wg.Wait()
	select {
	case v := <-panicked:
		panic(v) // where the caller can recover
	default:
	}
	if ctx.Err() != nil {
		for _, o := range out {
			o.Wipe()
		}
		return nil, context.Cause(ctx)
	}
	return &out, nil
}

var errPanicked = errors.New("a side panicked")

// memoryEnd is one end of an in-memory Link.
type memoryEnd struct {
	in  <-chan Part
	out chan<- Part
}

// memoryLink returns the two ends of a Link that buffers all parts of a run, so that no Send waits for the other side.
func memoryLink() (client, server Link) {
	up, down := make(chan Part, MaxParts), make(chan Part, MaxParts)
	return &memoryEnd{in: down, out: up}, &memoryEnd{in: up, out: down}
}

// Send implements Link.
func (m *memoryEnd) Send(ctx context.Context, p Part) error {
	select {
	case m.out <- p:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Recv implements Link.
func (m *memoryEnd) Recv(ctx context.Context) (Part, error) {
	select {
	case p := <-m.in:
		return p, nil
	case <-ctx.Done():
		return Part{}, context.Cause(ctx)
	}
}
