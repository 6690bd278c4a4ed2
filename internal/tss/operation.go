package tss

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/mpcd/mpcd/internal/secret"
)

// Operation is one side of a whole operation, hosted or device-held: Keygen, Reshare or Sign on one curve after the
// other, over a Link. Neither side gets a result before both have confirmed that they saw the same run.
type Operation struct {
	Party     Party
	Kind      string // the same on both sides: CREATE, BACKUP, PROVISION or SIGN
	SessionID string
	Attempt   uint32

	Curves  []Curve // of the new keys, or the one curve to sign on
	Purpose Purpose // of the new set
	Share   *Share  // this side's share of the set that is used; nil for a new wallet
	Payload []byte  // what to sign, see SignInput

	// The server sets these; the client learns them from the server's hello.
	WalletID   string
	ShareSetID string // of the new set; empty when signing
	Record     []byte // of the set that is used, encoded; nil for a new wallet

	// The client sets Instance, a lower-case UUID that identifies this start of its side, to the value that it sent to
	// the service. The proof in its hello is bound to it.
	Instance string

	PreParams     func(context.Context) (*PreParams, error) // called for a new ECDSA share
	CheckModuli   func(n, nTilde *big.Int) error            // see KeygenInput
	BeforeRelease func(context.Context, ReleasePoint) error // see SignInput
	// Progress is called when the run enters round k of n on curve c, and with 0 of 0 before it gets pre-params. It may
	// be nil.
	Progress func(c Curve, k, n int)
	Observer Observer // its Round is not used
}

// Output is a side's result of a run that both sides confirmed.
type Output struct {
	WalletID  string
	Record    []byte       // of the new set, encoded; nil when signing
	Keys      []KeyRecord  // those in Record
	Share     *Share       // this side's share of the new set, which the caller wipes; nil when signing
	Encoded   secret.Bytes // the encoded Share; on the client side only
	ShareHash [32]byte     // SHA-256 of the client's encoded share
	Signature *Signature   // nil unless signing
}

// Run runs this side. It fails with a *ProtocolError if the other side is at fault, with ctx's cause as soon as ctx
// ends, or with the Link's error; with ErrStopped only after it has processed everything that arrived before.
func (j *Operation) Run(ctx context.Context, link Link) (*Output, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c, err := newChannel(j, link, cancel)
	if err != nil {
		return nil, err
	}
	read := make(chan struct{})
	go func() { // ends with ctx, or after the other side's last part
		defer close(read)
		c.read(ctx)
	}()
	out, err := j.run(ctx, c)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // the first error: the others follow from it
	}
	cancel(nil)
	<-read
	if err != nil {
		out.Wipe()
		return nil, err
	}
	return out, nil
}

// Wipe overwrites the new share in both forms. o may be nil.
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

// OperationSign is the Kind of a signing, the only operation that makes no share set.
const OperationSign = "SIGN"

func (j *Operation) sign(ctx context.Context, c *channel, rec *Record) (*Output, error) {
	if len(j.Curves) != 1 {
		return nil, errors.New("a signing is on one curve")
	}
	key, ok := rec.Key(j.Curves[0])
	if !ok || j.Share.Key(j.Curves[0]) == nil {
		return nil, fmt.Errorf("%w: it has no %v key", ErrShareMismatch, j.Curves[0])
	}
	if err := c.checkStopped(j.Curves[0]); err != nil {
		return nil, err
	}
	in := SignInput{
		Party: j.Party, Record: key, Share: j.Share.Key(j.Curves[0]), Payload: j.Payload, BeforeRelease: j.BeforeRelease,
	}
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

// generate makes the new set: its keys on all curves, its record and this side's share. old is the record of the set
// that is reshared, or nil for a new wallet.
func (j *Operation) generate(ctx context.Context, c *channel, old *Record) (*Output, error) {
	id := SetID{WalletID: c.wallet, ShareSetID: c.set, Purpose: j.Purpose}
	rec := Record{SetID: id}
	out := &Output{WalletID: c.wallet, Share: &Share{SetID: id, Party: j.Party}}
	for i, curve := range j.Curves {
		key, err := j.newKey(ctx, c, i, old)
		if err != nil {
			out.Wipe()
			return nil, fmt.Errorf("%v: %w", curve, err)
		}
		rec.Keys = append(rec.Keys, key.Record)
		out.Share.Keys = append(out.Share.Keys, key.Share)
	}
	var err error
	if out.Record, err = rec.Encode(); err == nil {
		out.Keys, out.Share.RecordHash = rec.Keys, Hash(out.Record)
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
	if err := c.checkStopped(curve); err != nil {
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
		defer pre.Wipe() // does nothing once a run has consumed it
	}
	var keys PartyKeys
	keys[j.Party], keys[j.Party.Other()] = c.own.partyKey(i), c.peer.partyKey(i)
	if old == nil {
		if err := keys.check(curve, nil); err != nil {
			return nil, c.blame(err)
		}
		in := KeygenInput{Curve: curve, Party: j.Party, Keys: keys, PreParams: pre, CheckModuli: j.CheckModuli}
		return Keygen(ctx, c.conn(curve), in, j.observer(curve))
	}
	key, ok := old.Key(curve)
	if !ok || j.Share.Key(curve) == nil {
		return nil, fmt.Errorf("%w: it has no %v key", ErrShareMismatch, curve)
	}
	if err := keys.check(curve, key); err != nil {
		return nil, c.blame(err)
	}
	in := ReshareInput{
		Party: j.Party, Old: key, Share: j.Share.Key(curve), NewKeys: keys, PreParams: pre, CheckModuli: j.CheckModuli,
	}
	return Reshare(ctx, c.conn(curve), in, j.observer(curve))
}

// source returns the id of the set that is used, or "".
func (j *Operation) source() string {
	if j.Share == nil {
		return ""
	}
	return j.Share.ShareSetID
}

func (j *Operation) digest() []byte { return signedDigest(j.Kind, j.Payload) }

// signedDigest returns the SHA-256 of the payload to sign, or nil for other operations.
func signedDigest(operation string, payload []byte) []byte {
	if operation != OperationSign {
		return nil
	}
	sum := sha256.Sum256(payload)
	return sum[:]
}
