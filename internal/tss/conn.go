package tss

import "context"

// Message is one tss-lib message from one side to the other.
type Message struct {
	Curve Curve
	// Private: Payload is encrypted to the receiver's session key. A Link carries messages to one party, which may
	// contain a share, in this form. Messages on a Conn are never encrypted.
	Private bool
	// Payload is a google.protobuf.Any with tss-lib's message, or the encapsulated key and the ciphertext of HPKE.
	Payload []byte
}

// Conn connects the two sides of one curve's protocol. The sender of a message is known from the Conn: nothing in a
// payload names it. Both methods are safe for concurrent use.
type Conn interface {
	// Send sends m. It may return before the other side has received it; messages from one goroutine stay in order. It
	// returns ctx's error once ctx is done.
	Send(ctx context.Context, m Message) error
	// Recv returns the next message, or ctx's error once ctx is done.
	Recv(ctx context.Context) (Message, error)
}
