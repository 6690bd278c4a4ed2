package tss

import (
	"context"
	"errors"
	"fmt"
	"math/big"
)

// exchangeHellos exchanges hellos, and returns the record of the set that is used; nil for a new
// wallet.
func (c *channel) exchangeHellos(ctx context.Context) (*Record, error) {
	j := c.operation
	c.own = &Hello{Nonce: newNonce(), SessionKey: c.key.PublicKey().Bytes()}
	var err error
	var curves []Curve
	if j.Kind != OperationSign {
		curves = j.Curves
	}
	if c.own.PartyKeys, err = newPartyKeys(curves); err != nil {
		return nil, err
	}
	if j.Party == Server {
		c.own.WalletID, c.own.ShareSetID, c.own.Record = j.WalletID, j.ShareSetID, j.Record
	} else if j.Share != nil {
		if err := c.own.Prove(j.helloContext(), j.Share); err != nil {
			return nil, err
		}
	}
	if err := c.send(ctx, Part{Hello: c.own}); err != nil {
		return nil, err
	}
	peer, err := next(ctx, c, c.hello)
	if err != nil {
		return nil, err
	}
	if err := peer.check(j.Party.Other(), curves, j.Share != nil); err != nil {
		return nil, c.blame(err)
	}
	said := c.own
	if j.Party == Client {
		said = peer
	}
	rec, err := j.about(said)
	if err != nil {
		return nil, err
	}
	c.peer, c.wallet, c.set = peer, said.WalletID, said.ShareSetID
	close(c.helloKnown)
	return rec, nil
}

// about holds what the server says of wallet and sets against what this side asked for and
// has.
func (j *Operation) about(said *Hello) (*Record, error) {
	blame := func(text string) error { return &ProtocolError{Culprit: Server, Err: errors.New(text)} }
	isID := func(s string) bool { // in its one spelling: two of the same id would pass for two sets
		_, err := packUUID(s)
		return err == nil
	}
	if !isID(said.WalletID) {
		return nil, blame("a wallet without an id")
	}
	if j.Kind != OperationSign && !isID(said.ShareSetID) || j.Kind == OperationSign && said.ShareSetID != "" {
		return nil, blame("a new set without an id, or an id without a new set")
	}
	if j.Share == nil {
		if len(said.Record) != 0 {
			return nil, blame("a record of a set that is not used")
		}
		return nil, nil //nolint:nilnil // there is none
	}
	if said.WalletID != j.Share.WalletID || said.ShareSetID == j.Share.ShareSetID {
		return nil, blame("another wallet, or the set that is used for a new one")
	}
	if Hash(said.Record) != j.Share.RecordHash {
		return nil, blame("another record than the share commits to")
	}
	rec, err := ParseRecord(said.Record)
	if err != nil {
		return nil, fmt.Errorf("the record that the share commits to: %w", err)
	}
	if err := rec.Check(j.Share, j.Party, said.Record); err != nil {
		return nil, err
	}
	if j.Share.Key(rec.Keys[0].Curve) == nil { // both sides confirm the run with it
		return nil, fmt.Errorf("%w: it has no %v key", ErrShareMismatch, rec.Keys[0].Curve)
	}
	return rec, nil
}

// check holds a hello's form against what the run is, and whether it uses a set. What it says
// of sets is looked at by the operation, and its proof before there is one.
func (x *Hello) check(from Party, curves []Curve, used bool) error {
	if len(x.Nonce) != nonceLen || len(x.SessionKey) != keyLen || len(x.Record) > maxRecordBytes {
		return errors.New("a hello of another form")
	}
	if from == Client && (x.WalletID != "" || x.ShareSetID != "" || len(x.Record) != 0) {
		return errors.New("a client's hello that names sets")
	}
	want := 0
	if from == Client && used {
		want = proofLen
	}
	if len(x.Proof) != want {
		return errors.New("a hello with a proof of another length")
	}
	if len(x.PartyKeys) != scalarLen*len(curves) {
		return errors.New("a hello with other party keys than the run's curves")
	}
	for i, c := range curves {
		if !c.isScalar(x.partyKey(i)) {
			return errors.New("a party key that is not in [1, q)")
		}
	}
	return nil
}

func (x *Hello) partyKey(i int) *big.Int {
	return new(big.Int).SetBytes(x.PartyKeys[i*scalarLen : (i+1)*scalarLen])
}

// newPartyKeys returns fresh party keys for a hello.
func newPartyKeys(curves []Curve) ([]byte, error) {
	var all []byte
	for _, c := range curves {
		k, err := newPartyKey(c)
		if err != nil {
			return nil, err
		}
		b, err := fixed(k, scalarLen)
		if err != nil {
			return nil, fmt.Errorf("party key: %w", err)
		}
		all = append(all, b...)
	}
	return all, nil
}
