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
