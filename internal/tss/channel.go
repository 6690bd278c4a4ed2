package tss

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"hash"
	"math/big"
)

// channel sends and receives the parts of one run over a Link. It checks their order, encrypts and decrypts private
// messages, and hashes both directions.
type channel struct {
	operation *Operation
	link      Link
	fail      context.CancelCauseFunc
	key       sessionKey
	own       *Hello

	hello   chan *Hello            // the other side's, once
	parts   map[Curve]chan Message // the other side's messages, decrypted
	ended   chan receivedEnd       // the other side's End, once
	mac     chan []byte            // the other side's MAC, once
	stopped chan struct{}          // closed when the link is stopped: none of these will arrive any more
	stopErr error                  // set before stopped is closed; an ErrStopped

	// Owned by the goroutine of read: the other side's progress, the hash of its parts, and how many more messages
	// each curve's protocol may receive.
	state int
	in    hash.Hash
	left  map[Curve]int

	out chan hash.Hash // of our parts; the sender takes it out and puts it back

	helloKnown  chan struct{} // closed when peer, wallet and set are known
	peer        *Hello
	wallet, set string // from the server's hello

	sent, received []byte // both directions' hashes, once both Ends have passed
}

// The other side's states.
const (
	beforeHello = iota
	afterHello
	afterEnd
)

// receivedEnd is an End with the hash of the other side's parts up to and including it.
type receivedEnd struct {
	end *End
	sum []byte
}

func newChannel(j *Operation, link Link, fail context.CancelCauseFunc) (*channel, error) {
	key, err := newSessionKey()
	if err != nil {
		return nil, err
	}
	c := &channel{
		operation: j, link: link, fail: fail, key: key,
		hello: make(chan *Hello, 1), parts: map[Curve]chan Message{}, ended: make(chan receivedEnd, 1),
		mac: make(chan []byte, 1), stopped: make(chan struct{}),
		in: sha256.New(), left: map[Curve]int{}, out: make(chan hash.Hash, 1), helloKnown: make(chan struct{}),
	}
	for _, curve := range j.Curves {
		c.parts[curve], c.left[curve] = make(chan Message, MaxParts), MaxParts
	}
	c.out <- sha256.New()
	return c, nil
}

func (c *channel) blame(err error) error {
	return &ProtocolError{Culprit: c.operation.Party.Other(), Err: err}
}

// read receives the other side's parts until its MAC, and fails the run on an error.
func (c *channel) read(ctx context.Context) {
	for {
		p, err := c.link.Recv(ctx)
		if errors.Is(err, ErrStopped) {
			c.stopErr = err
			close(c.stopped)
			return
		}
		if err == nil {
			err = c.dispatch(ctx, p)
		}
		if err != nil {
			c.fail(err)
			return
		}
		if p.MAC != nil {
			return
		}
	}
}

// dispatch passes a part to its receiver. It accepts a hello, then messages, then an end, then a MAC, in this order.
func (c *channel) dispatch(ctx context.Context, p Part) error {
	p.addTo(c.in)
	switch {
	case p.Hello != nil && c.state == beforeHello:
		c.state = afterHello
		c.hello <- p.Hello
		select { // nothing else is processed before the hello has been checked
		case <-c.helloKnown:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case p.Message != nil && c.state == afterHello:
		return c.receive(p.Message)
	case p.End != nil && c.state == afterHello:
		c.state = afterEnd
		c.ended <- receivedEnd{p.End, c.in.Sum(nil)}
	case p.MAC != nil && c.state == afterEnd:
		c.mac <- p.MAC
	default:
		return c.blame(errors.New("a part out of order"))
	}
	return nil
}

// receive decrypts a message and passes it to its curve's protocol.
func (c *channel) receive(m *Message) error {
	to, ok := c.parts[m.Curve]
	if !ok {
		return c.blame(errors.New("a message for a curve that is not part of the run"))
	}
	// The protocol ignores a repeated message, but decrypting it costs time.
	if c.left[m.Curve] == 0 {
		return c.blame(errors.New("more messages than the protocol has"))
	}
	c.left[m.Curve]--
	opened, err := c.open(m)
	if err == nil {
		to <- opened // never blocks: the buffer has space for MaxParts
	}
	return err
}

// send sends a part and adds it to our direction's hash, both in the same order.
func (c *channel) send(ctx context.Context, p Part) error {
	h := <-c.out
	defer func() { c.out <- h }()
	p.addTo(h)
	return c.link.Send(ctx, p)
}

// curveConn is the Conn of one curve's protocol.
type curveConn struct {
	*channel
	curve Curve
}

func (c *channel) conn(curve Curve) Conn { return curveConn{c, curve} }

// Send implements Conn.
func (c curveConn) Send(ctx context.Context, m Message) error {
	sealed, err := c.seal(m)
	if err != nil {
		return err
	}
	return c.send(ctx, Part{Message: &sealed})
}

// Recv implements Conn.
func (c curveConn) Recv(ctx context.Context) (Message, error) {
	return next(ctx, c.channel, c.parts[c.curve])
}

// confirm ends the run. The sides exchange Ends, then MACs of the transcript under a key that only the two parties of
// the set can compute. used is the set that was used, or nil.
func (c *channel) confirm(ctx context.Context, used *Record, out *Output) error {
	j := c.operation
	mine := &End{}
	if j.Party == Client && out.Share != nil {
		mine.ShareHash = out.ShareHash[:]
	}
	if err := c.send(ctx, Part{End: mine}); err != nil {
		return err
	}
	theirs, err := next(ctx, c, c.ended)
	if err != nil {
		return err
	}
	h := <-c.out
	c.sent, c.received = h.Sum(nil), theirs.sum
	c.out <- h
	switch {
	case j.Party == Server && out.Share != nil && len(theirs.end.ShareHash) == sha256.Size:
		copy(out.ShareHash[:], theirs.end.ShareHash)
	case len(theirs.end.ShareHash) != 0 || j.Party == Server && out.Share != nil:
		return c.blame(errors.New("an end with an unexpected share hash, or without one"))
	}
	key, share := c.macKey(used, out)
	transcript := c.transcript(out.Record)
	var macs [2][]byte
	for p := range macs {
		if macs[p], err = mac(transcript, key, share, Party(p)); err != nil {
			return err
		}
	}
	if err := c.send(ctx, Part{MAC: macs[j.Party]}); err != nil {
		return err
	}
	got, err := next(ctx, c, c.mac)
	if err == nil && !hmac.Equal(got, macs[j.Party.Other()]) {
		err = c.blame(errors.New("the two sides did not see the same run"))
	}
	return err
}

// macKey returns the key whose shares the MACs are derived from: the first one of the set that is used, or of the new
// set if none is.
func (c *channel) macKey(used *Record, out *Output) (*KeyRecord, *KeyShare) {
	if used != nil {
		return &used.Keys[0], c.operation.Share.Key(used.Keys[0].Curve)
	}
	return &out.Keys[0], &out.Share.Keys[0]
}

// sharedPoint returns the encoding of x*Y, for one party's secret x and the other one's public Y: a Diffie-Hellman
// secret of the two parties.
func (c Curve) sharedPoint(x *big.Int, peer *Public) ([]byte, error) {
	p, err := c.mult(x, peer.BigX)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(c.encodePoint(p)), nil
}
