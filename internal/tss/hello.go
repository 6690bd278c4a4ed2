package tss

import (
	"context"
	"errors"
	"fmt"
	"math/big"
)

// exchangeHellos sends this side's hello and checks the other side's. It returns the record of the set that is used, or
// nil for a new wallet.
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
	if err := peer.checkForm(j.Party.Other(), curves, j.Share != nil); err != nil {
		return nil, c.blame(err)
	}
	server := c.own
	if j.Party == Client {
		server = peer
	}
	rec, err := j.checkServerHello(server)
	if err != nil {
		return nil, err
	}
	c.peer, c.wallet, c.set = peer, server.WalletID, server.ShareSetID
	close(c.helloKnown)
	return rec, nil
}

// checkServerHello checks the wallet, sets and record in the server's hello against the operation and this side's
// share. It returns the record of the set that is used, or nil for a new wallet.
func (j *Operation) checkServerHello(server *Hello) (*Record, error) {
	blame := func(text string) error { return &ProtocolError{Culprit: Server, Err: errors.New(text)} }
	isID := func(s string) bool { // canonical only: otherwise two spellings of one id would pass as two sets
		_, err := packUUID(s)
		return err == nil
	}
	if !isID(server.WalletID) {
		return nil, blame("no valid wallet id")
	}
	if j.Kind != OperationSign && !isID(server.ShareSetID) || j.Kind == OperationSign && server.ShareSetID != "" {
		return nil, blame("no valid id for the new set, or an id where no set is made")
	}
	if j.Share == nil {
		if len(server.Record) != 0 {
			return nil, blame("a record where no set is used")
		}
		return nil, nil //nolint:nilnil // documented: a new wallet
	}
	if server.WalletID != j.Share.WalletID || server.ShareSetID == j.Share.ShareSetID {
		return nil, blame("another wallet's id, or the used set's id for the new set")
	}
	if Hash(server.Record) != j.Share.RecordHash {
		return nil, blame("not the record that the share commits to")
	}
	rec, err := ParseRecord(server.Record)
	if err != nil {
		return nil, fmt.Errorf("the record that the share commits to: %w", err)
	}
	if err := rec.Check(j.Share, j.Party, server.Record); err != nil {
		return nil, err
	}
	if j.Share.Key(rec.Keys[0].Curve) == nil { // its secret authenticates the confirmation
		return nil, fmt.Errorf("%w: it has no %v key", ErrShareMismatch, rec.Keys[0].Curve)
	}
	return rec, nil
}

// checkForm checks the lengths and ranges of a hello's fields. curves are those of the new keys; used tells whether the
// operation uses a set. checkServerHello checks the ids and the record; the service verifies the proof before the
// operation starts (VerifyProof).
func (x *Hello) checkForm(from Party, curves []Curve, used bool) error {
	if len(x.Nonce) != nonceLen || len(x.SessionKey) != keyLen || len(x.Record) > maxRecordBytes {
		return errors.New("a hello with a nonce, key or record of the wrong length")
	}
	if from == Client && (x.WalletID != "" || x.ShareSetID != "" || len(x.Record) != 0) {
		return errors.New("a client's hello with a wallet, a set or a record")
	}
	want := 0
	if from == Client && used {
		want = proofLen
	}
	if len(x.Proof) != want {
		return errors.New("a hello with a proof of the wrong length")
	}
	if len(x.PartyKeys) != scalarLen*len(curves) {
		return errors.New("a hello without exactly one party key for each curve")
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

// newPartyKeys returns the encoding of a fresh party key for each of curves, as a hello has them.
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
