package tss

import "context"

// Message is one tss-lib message on its way from one side to the other.
type Message struct {
	Curve   Curve
	Payload []byte // a google.protobuf.Any with tss-lib's own message
}

// Conn joins a side to the other one. It says by itself who is at the other end:
// nothing in a payload names a sender. Both methods are used by several goroutines.
type Conn interface {
	// Send hands m over. It may return before the other side has it; order is kept for
	// messages sent by one goroutine. It returns ctx's error once ctx is done.
	Send(ctx context.Context, m Message) error
	// Recv waits for the next message, or returns ctx's error once ctx is done.
	Recv(ctx context.Context) (Message, error)
}

type pipeEnd struct {
	in  <-chan Message
	out chan<- Message
}

// Pipe returns the two ends of an in-memory Conn.
func Pipe() (client, server Conn) {
	up, down := make(chan Message, MaxParts), make(chan Message, MaxParts)
	return &pipeEnd{in: down, out: up}, &pipeEnd{in: up, out: down}
}

func (p *pipeEnd) Send(ctx context.Context, m Message) error {
	select {
	case p.out <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *pipeEnd) Recv(ctx context.Context) (Message, error) {
	select {
	case m := <-p.in:
		return m, nil
	case <-ctx.Done():
		return Message{}, context.Cause(ctx)
	}
}
