package tss

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// ReshareInput is one side's part in a resharing.
type ReshareInput struct {
	Party     Party
	Old       *KeyRecord // of the set that is reshared
	Share     *KeyShare  // this side's share of it; not changed by the run
	NewKeys   PartyKeys  // of the new set; different from the old set's
	PreParams *PreParams // Secp256k1 only; used up by the run
	// CheckModuli is as in KeygenInput.
	CheckModuli func(n, nTilde *big.Int) error `json:"-"`
}

// Reshare runs one side of a resharing: its old party and its new one. The old share
// stays as good as it was. It returns a new share of the same key and the public
// values, ErrShareMismatch or ErrShareMalformed where the share is not the record's,
// a *ProtocolError that names the other side, in.CheckModuli's error, or ctx's cause at once
// when ctx ends.
// Nothing is durable when it returns.
func Reshare(ctx context.Context, conn Conn, in ReshareInput, obs Observer) (*NewKey, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	c := in.Old.Curve
	oldKeys := committee{in.Old.Parties[Client].PartyKey, in.Old.Parties[Server].PartyKey}
	newKeys := committee(in.NewKeys)
	s := &side{curve: c, me: in.Party, proto: resharings[c], conn: conn, obs: obs}
	s.inspect = checkRound1(in.Old)
	s.ingress = &ingress{curve: c, me: in.Party, proto: s.proto}

	place := func(r role) (*localParty, *lib.ReSharingParameters) {
		key := oldKeys[in.Party]
		if r == newRole {
			key = newKeys[in.Party]
		}
		t := newLocalParty(r, key)
		oldIDs, newIDs := oldKeys.ids("old"), newKeys.ids("new")
		t.senders = [2][2]*lib.PartyID{oldRole: oldIDs, newRole: newIDs}
		s.parties = append(s.parties, t)
		return t, lib.NewReSharingParameters(c.ec(), sorted(oldIDs), sorted(newIDs), t.senders[r][in.Party], 2, 1, 2, 1)
	}
	var result func() save
	if c == Secp256k1 {
		pre, err := in.PreParams.take()
		if err != nil {
			return nil, err
		}
		s.ingress.newModuli(pre.PaillierSK.N, pre.NTildei, in.CheckModuli)
		result = placeECDSA(s, place, ecSaveData(in.Old, in.Share, in.Party), pre)
	} else {
		result = placeEdDSA(s, place, edSaveData(in.Old, in.Share, in.Party))
	}
	return s.newKey(ctx, newKeys, result, in.Old.PublicKey)
}

func (in *ReshareInput) check() error {
	if in.Old == nil || in.Share == nil || !in.Party.Valid() || in.Share.Curve != in.Old.Curve {
		return fmt.Errorf("%w: no share or record, or of different curves", ErrShareMismatch)
	}
	if err := in.Old.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrRecordMalformed, err)
	}
	if err := in.Old.checkShare(in.Share, in.Party); err != nil {
		return err
	}
	return in.NewKeys.check(in.Old.Curve, in.Old)
}

type placeFunc = func(role) (*localParty, *lib.ReSharingParameters)

func placeECDSA(s *side, place placeFunc, old eckeygen.LocalPartySaveData, pre *eckeygen.LocalPreParams) func() save {
	s.secrets = func() {
		wipePreParams(pre)
		wipe(old.Xi, old.PaillierSK.LambdaN, old.PaillierSK.PhiN, old.PaillierSK.P, old.PaillierSK.Q)
	}
	oldParty, params := place(oldRole)
	oldEnd := make(chan *eckeygen.LocalPartySaveData, 1)
	// An old party's save carries its old Paillier key and no share (tss-lib.md, row 5):
	// it is dropped here, by party and not by what it holds.
	var dropped *eckeygen.LocalPartySaveData
	oldParty.party, oldParty.ended = ecresharing.NewLocalParty(params, old, oldParty.out, oldEnd), take(oldEnd, &dropped)

	newParty, params := place(newRole)
	newEnd := make(chan *eckeygen.LocalPartySaveData, 1)
	// Empty save data and fresh pre-params: the old save data would carry its Paillier
	// key over (tss-lib.md, row 3).
	fresh := eckeygen.NewLocalPartySaveData(2)
	fresh.LocalPreParams = *pre
	var made *eckeygen.LocalPartySaveData
	newParty.party, newParty.ended = ecresharing.NewLocalParty(params, fresh, newParty.out, newEnd), take(newEnd, &made)
	return func() save { return ecSave(made) }
}

func placeEdDSA(s *side, place placeFunc, old edkeygen.LocalPartySaveData) func() save {
	s.secrets = func() { wipe(old.Xi) }
	oldParty, params := place(oldRole)
	oldEnd := make(chan *edkeygen.LocalPartySaveData, 1)
	var dropped *edkeygen.LocalPartySaveData
	oldParty.party, oldParty.ended = edresharing.NewLocalParty(params, old, oldParty.out, oldEnd), take(oldEnd, &dropped)

	newParty, params := place(newRole)
	newEnd := make(chan *edkeygen.LocalPartySaveData, 1)
	var made *edkeygen.LocalPartySaveData
	newParty.party, newParty.ended = edresharing.NewLocalParty(params, edkeygen.NewLocalPartySaveData(2), newParty.out, newEnd), take(newEnd, &made)
	return func() save { return edSave(made) }
}

// checkRound1 holds every DGRound1 message against the wallet's key: tss-lib compares
// only the one with index 0 (tss-lib.md, row 9). An ECDSA run's session ids must all be
// equal too: the new party at index 1 never compares them (row 17).
func checkRound1(old *KeyRecord) func(lib.MessageContent) error {
	pub := must(old.Curve.decodePoint(old.PublicKey))
	same := func(x, y []byte) error {
		if new(big.Int).SetBytes(x).Cmp(pub.X()) != 0 || new(big.Int).SetBytes(y).Cmp(pub.Y()) != 0 {
			return errors.New("a first message that names another public key")
		}
		return nil
	}
	var ssid []byte
	known := false // of its own: a first message without a session id has a nil one
	return func(m lib.MessageContent) error {
		switch m := m.(type) {
		case *ecresharing.DGRound1Message:
			if !known {
				ssid, known = m.GetSsid(), true
			}
			if !bytes.Equal(ssid, m.GetSsid()) {
				return errors.New("a first message with another session id")
			}
			return same(m.GetEcdsaPubX(), m.GetEcdsaPubY())
		case *edresharing.DGRound1Message:
			return same(m.GetEddsaPubX(), m.GetEddsaPubY())
		}
		return nil
	}
}
