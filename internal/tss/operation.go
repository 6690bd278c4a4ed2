package tss

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/mpcd/mpcd/internal/secret"
)

// Operation is one side's part in an operation whose sides are on two machines: the same
// Keygen, Reshare and Sign as hosted, on one curve after the other, over a Link. Before
// either side has anything, both confirm that they saw the same.
type Operation struct {
	Party     Party
	Kind      string // the same on both sides: CREATE, BACKUP, PROVISION or SIGN
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
	CheckModuli   func(n, nTilde *big.Int) error
	BeforeRelease func(context.Context, ReleasePoint) error // as in SignInput
	Progress      func(c Curve, k, n int)                   // round k of n; 0 of 0: pre-params are being made. nil: nobody looks
	Observer      Observer                                  // Round is not used
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
