package tss

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math/big"

	"github.com/mpcd/mpcd/internal/secret"
)

// Operation is one side's part in an operation whose sides are on two machines: the same
// Keygen, Reshare and Sign as hosted, on one curve after the other, over a Link. Before
// either side has anything, both confirm that they saw the same.
type Operation struct {
	Party     Party
	Kind string // the same on both sides: CREATE, BACKUP, PROVISION or SIGN
	SessionID string
	Attempt   uint32

	Curves  []Curve // of the keys that are made, or the one that is signed with
	Purpose Purpose // of the new set
	Share   *Share  // this side's, of the set that is used; nil for a new wallet
	Payload []byte  // what is signed

	// Of the server alone: the client hears of them.
	WalletID   string
	ShareSetID string // of the new set
	Record     []byte // of the set that is used, encoded

	// Of the client alone: UUID, lower case, of this start of its parties, as the service was
	// told. Its hello's proof is bound to it.
	Instance string

	PreParams func(context.Context) (*PreParams, error) // for a new ECDSA share
	// CheckModuli is as in KeygenInput.
	CheckModuli    func(n, nTilde *big.Int) error
	BeforeRelease     func(context.Context, ReleasePoint) error // as in SignInput
	Progress func(c Curve, k, n int)           // round k of n; 0 of 0: pre-params are being made. nil: nobody looks
	Observer Observer                          // Round is not used
}

// Output is what a side has when both confirmed the run.
type Output struct {
	WalletID  string
	Record    []byte       // of the new set, encoded; nil when signing
	Keys      []KeyRecord  // of the same
	Share     *Share       // this side's of the new set, its to wipe; nil when signing
	Encoded   secret.Bytes // the same, encoded; of the client
	ShareHash [32]byte     // of the client's encoded share
	Signature *Signature
}

// Run runs this side. It returns a *ProtocolError that names the other side, ctx's cause
// as soon as ctx ends, or the Link's error, where that is ErrStopped not before what came was
// looked at. Nothing is durable when it returns.
func (j *Operation) Run(ctx context.Context, link Link) (*Output, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c, err := newChannel(j, link, cancel)
	if err != nil {
		return nil, err
	}
	read := make(chan struct{})
	go func() { // ends with ctx, or with the other side's last part
		defer close(read)
		c.read(ctx)
	}()
	out, err := j.run(ctx, c)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // the first error: others are its echo
	}
	cancel(nil)
	<-read
	if err != nil {
		out.Wipe()
		return nil, err
	}
	return out, nil
}

// Wipe ends the secrets that a side has made. o may be nil.
func (o *Output) Wipe() {
	if o != nil {
		o.Share.Wipe()
		o.Encoded.Wipe()
	}
}

func (j *Operation) run(ctx context.Context, c *channel) (*Output, error) {
	rec, err := c.exchangeHellos(ctx)
	if err != nil {
		return nil, err
	}
	var out *Output
	if j.Kind == OperationSign {
		out, err = j.sign(ctx, c, rec)
	} else {
		out, err = j.generate(ctx, c, rec)
	}
	if err != nil {
		return nil, err
	}
	return out, c.confirm(ctx, rec, out)
}

// OperationSign is the one Operation that makes no set.
const OperationSign = "SIGN"

func (j *Operation) sign(ctx context.Context, c *channel, rec *Record) (*Output, error) {
	if len(j.Curves) != 1 {
		return nil, errors.New("a signing is on one curve")
	}
	key, ok := rec.Key(j.Curves[0])
	if !ok || j.Share.Key(j.Curves[0]) == nil {
		return nil, fmt.Errorf("%w: it has no %v key", ErrShareMismatch, j.Curves[0])
	}
	if err := c.idle(j.Curves[0]); err != nil {
		return nil, err
	}
	in := SignInput{Party: j.Party, Record: key, Share: j.Share.Key(j.Curves[0]), Payload: j.Payload, BeforeRelease: j.BeforeRelease}
	sig, err := Sign(ctx, c.conn(j.Curves[0]), in, j.observer(j.Curves[0]))
	return &Output{WalletID: c.wallet, Signature: sig}, err
}

func (j *Operation) observer(c Curve) Observer {
	obs := j.Observer
	obs.Round = func(k, n int) {
		if j.Progress != nil {
			j.Progress(c, k, n)
		}
	}
	return obs
}

// generate makes the new set's keys, and this side's share of it.
func (j *Operation) generate(ctx context.Context, c *channel, old *Record) (*Output, error) {
	id := SetID{WalletID: c.wallet, ShareSetID: c.set, Purpose: j.Purpose}
	made := Record{SetID: id}
	out := &Output{WalletID: c.wallet, Share: &Share{SetID: id, Party: j.Party}}
	for i, curve := range j.Curves {
		key, err := j.newKey(ctx, c, i, old)
		if err != nil {
			out.Wipe()
			return nil, fmt.Errorf("%v: %w", curve, err)
		}
		made.Keys = append(made.Keys, key.Record)
		out.Share.Keys = append(out.Share.Keys, key.Share)
	}
	var err error
	if out.Record, err = made.Encode(); err == nil {
		out.Keys, out.Share.RecordHash = made.Keys, Hash(out.Record)
		if j.Party == Client {
			out.Encoded, err = out.Share.Encode()
			out.ShareHash = sha256.Sum256(out.Encoded.Reveal())
		}
	}
	if err != nil {
		out.Wipe()
		return nil, err
	}
	return out, nil
}

func (j *Operation) newKey(ctx context.Context, c *channel, i int, old *Record) (*NewKey, error) {
	curve := j.Curves[i]
	if err := c.idle(curve); err != nil {
		return nil, err
	}
	var pre *PreParams
	if curve == Secp256k1 {
		if j.Progress != nil {
			j.Progress(curve, 0, 0)
		}
		var err error
		if pre, err = j.PreParams(ctx); err != nil {
			return nil, err
		}
		defer pre.Wipe() // nothing is left of it where a run has taken it
	}
	var keys PartyKeys
	keys[j.Party], keys[j.Party.Other()] = c.own.partyKey(i), c.peer.partyKey(i)
	if old == nil {
		if err := keys.check(curve, nil); err != nil {
			return nil, c.blame(err)
		}
		return Keygen(ctx, c.conn(curve), KeygenInput{Curve: curve, Party: j.Party, Keys: keys, PreParams: pre, CheckModuli: j.CheckModuli}, j.observer(curve))
	}
	key, ok := old.Key(curve)
	if !ok || j.Share.Key(curve) == nil {
		return nil, fmt.Errorf("%w: it has no %v key", ErrShareMismatch, curve)
	}
	if err := keys.check(curve, key); err != nil {
		return nil, c.blame(err)
	}
	in := ReshareInput{Party: j.Party, Old: key, Share: j.Share.Key(curve), NewKeys: keys, PreParams: pre, CheckModuli: j.CheckModuli}
	return Reshare(ctx, c.conn(curve), in, j.observer(curve))
}

// source names the set that is used.
func (j *Operation) source() string {
	if j.Share == nil {
		return ""
	}
	return j.Share.ShareSetID
}

// digest is that of what is signed.
func (j *Operation) digest() []byte { return signedDigest(j.Kind, j.Payload) }

func signedDigest(operation string, payload []byte) []byte {
	if operation != OperationSign {
		return nil
	}
	sum := sha256.Sum256(payload)
	return sum[:]
}

// channel is one run's use of a Link.
type channel struct {
	joint *Operation
	link  Link
	fail  context.CancelCauseFunc
	key   sessionKey
	own   *Hello

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
		joint: j, link: link, fail: fail, key: key,
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
	return &ProtocolError{Culprit: c.joint.Party.Other(), Err: err}
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
	j := c.joint
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
		return &used.Keys[0], c.joint.Share.Key(used.Keys[0].Curve)
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
