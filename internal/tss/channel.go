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

// channel is one run's use of a Link.
type channel struct {
	operation *Operation
	link      Link
	fail      context.CancelCauseFunc
	key       sessionKey
	own       *Hello

	hello chan *Hello            // the other side's, once
	parts map[Curve]chan Message // the other side's messages
	ended chan endSeen           // the other side's End, once
	mac   chan []byte            // the other side's MAC, once
	over  chan struct{}          // closed when none of all this comes any more
	why   error                  // set before that: an ErrStopped

	// Of read alone: how far the other side is, the hash over its parts, and how many
	// messages each curve's protocol may still get.
	state int
	in    hash.Hash
	left  map[Curve]int

	out chan hash.Hash // over our parts; whoever sends holds it

	helloKnown  chan struct{} // closed when peer, wallet and set are known
	peer        *Hello
	wallet, set string // as the server said

	sent, received []byte // both directions' hashes, when both have ended
}

// The states of the other side.
const (
	silent = iota
	afterHello
	finished
)

type endSeen struct {
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
		hello: make(chan *Hello, 1), parts: map[Curve]chan Message{}, ended: make(chan endSeen, 1), mac: make(chan []byte, 1), over: make(chan struct{}),
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

// read takes the other side's parts, in their order, until its MAC.
func (c *channel) read(ctx context.Context) {
	for {
		p, err := c.link.Recv(ctx)
		if errors.Is(err, ErrStopped) {
			c.why = err
			close(c.over)
			return
		}
		if err == nil {
			err = c.take(ctx, p)
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

// take puts a part where it is waited for. Its place in the order is checked: a hello, the
// messages, an end, a MAC.
func (c *channel) take(ctx context.Context, p Part) error {
	p.put(c.in)
	switch {
	case p.Hello != nil && c.state == silent:
		c.state = afterHello
		c.hello <- p.Hello
		select { // before its hello is found good, nothing else of it is looked at
		case <-c.helloKnown:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case p.Message != nil && c.state == afterHello:
		return c.message(p.Message)
	case p.End != nil && c.state == afterHello:
		c.state = finished
		c.ended <- endSeen{p.End, c.in.Sum(nil)}
	case p.MAC != nil && c.state == finished:
		c.mac <- p.MAC
	default:
		return c.blame(errors.New("a part out of its order"))
	}
	return nil
}

func (c *channel) message(sealed *SealedMessage) error {
	to, ok := c.parts[sealed.Curve]
	if !ok {
		return c.blame(errors.New("a message for a curve that the run has not"))
	}
	// The same message again is a no-op to the protocol, but each costs an opening.
	if c.left[sealed.Curve] == 0 {
		return c.blame(errors.New("more messages than the protocol has"))
	}
	c.left[sealed.Curve]--
	m, err := c.open(sealed)
	if err == nil {
		to <- m // it has room for all of them
	}
	return err
}

// send sends a part, and adds it to our direction's hash in the same order.
func (c *channel) send(ctx context.Context, p Part) error {
	h := <-c.out
	defer func() { c.out <- h }()
	p.put(h)
	return c.link.Send(ctx, p)
}

// curveConn is a channel as one curve's protocol sees it.
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
	return c.send(ctx, Part{Message: sealed})
}

// Recv implements Conn.
func (c curveConn) Recv(ctx context.Context) (Message, error) {
	return next(ctx, c.channel, c.parts[c.curve])
}

// confirm ends the run: both sides say that they have done their part, and then, under a
// key that only the two sides of the set have, what they saw.
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
		return c.blame(errors.New("an end of another form"))
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

// macKey returns the keys of the set that is used, or of the new one where none is.
func (c *channel) macKey(used *Record, out *Output) (*KeyRecord, *KeyShare) {
	if used != nil {
		return &used.Keys[0], c.operation.Share.Key(used.Keys[0].Curve)
	}
	return &out.Keys[0], &out.Share.Keys[0]
}

// shared returns x*Y in its encoding: what both sides of a set can compute, and nobody
// else.
func (c Curve) shared(x *big.Int, of *Public) ([]byte, error) {
	p, err := c.mult(x, of.BigX)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(c.encodePoint(p)), nil
}
