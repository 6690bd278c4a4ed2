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
	Old       *KeyRecord // of the set to reshare
	Share     *KeyShare  // this side's share of that set; not changed by the run
	NewKeys   PartyKeys  // of the new set; different from the old set's
	PreParams *PreParams // Secp256k1 only; used up by the run
	// CheckModuli: see KeygenInput.
	CheckModuli func(n, nTilde *big.Int) error `json:"-"`
}

// Reshare runs one side of a resharing, with its old party and its new one. It returns a new share of the same key and
// its public values; the old share stays valid. It fails with ErrShareMismatch or ErrShareMalformed if the share does
// not match the record, with ErrRecordMalformed or ErrPreParams for other bad input, with a *ProtocolError if the other
// side is at fault, with in.CheckModuli's error, or with ctx's cause as soon as ctx ends.
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

	addParty := func(r role) (*localParty, *lib.ReSharingParameters) {
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
		pre, err := in.PreParams.consume()
		if err != nil {
			return nil, err
		}
		s.ingress.setOwnModuli(pre.PaillierSK.N, pre.NTildei, in.CheckModuli)
		result = addECDSAParties(s, addParty, ecSaveData(in.Old, in.Share, in.Party), pre)
	} else {
		result = addEdDSAParties(s, addParty, edSaveData(in.Old, in.Share, in.Party))
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

// addPartyFunc adds a party of the given role to a side, and returns it with its parameters. Its party is not set yet.
type addPartyFunc = func(role) (*localParty, *lib.ReSharingParameters)

// addECDSAParties adds the old and the new party to s. It returns a function for the new party's save data, to be
// called after the run.
func addECDSAParties(
	s *side, addParty addPartyFunc, old eckeygen.LocalPartySaveData, pre *eckeygen.LocalPreParams,
) func() save {
	s.secrets = func() {
		wipePreParams(pre)
		wipe(old.Xi, old.PaillierSK.LambdaN, old.PaillierSK.PhiN, old.PaillierSK.P, old.PaillierSK.Q)
	}
	oldParty, params := addParty(oldRole)
	oldEnd := make(chan *eckeygen.LocalPartySaveData, 1)
	// An old party's save data has its old Paillier key and no share (tss-lib.md, row 5): it is always dropped.
	var dropped *eckeygen.LocalPartySaveData
	oldParty.party = ecresharing.NewLocalParty(params, old, oldParty.out, oldEnd)
	oldParty.ended = pollInto(oldEnd, &dropped)

	newParty, params := addParty(newRole)
	newEnd := make(chan *eckeygen.LocalPartySaveData, 1)
	// Start from empty save data and fresh pre-params: with the old save data, the new set would reuse its Paillier key
	// (tss-lib.md, row 3).
	fresh := eckeygen.NewLocalPartySaveData(2)
	fresh.LocalPreParams = *pre
	var d *eckeygen.LocalPartySaveData
	newParty.party = ecresharing.NewLocalParty(params, fresh, newParty.out, newEnd)
	newParty.ended = pollInto(newEnd, &d)
	return func() save { return ecSave(d) }
}

// addEdDSAParties is addECDSAParties for Ed25519.
func addEdDSAParties(s *side, addParty addPartyFunc, old edkeygen.LocalPartySaveData) func() save {
	s.secrets = func() { wipe(old.Xi) }
	oldParty, params := addParty(oldRole)
	oldEnd := make(chan *edkeygen.LocalPartySaveData, 1)
	var dropped *edkeygen.LocalPartySaveData
	oldParty.party = edresharing.NewLocalParty(params, old, oldParty.out, oldEnd)
	oldParty.ended = pollInto(oldEnd, &dropped)

	newParty, params := addParty(newRole)
	newEnd := make(chan *edkeygen.LocalPartySaveData, 1)
	var d *edkeygen.LocalPartySaveData
	newParty.party = edresharing.NewLocalParty(params, edkeygen.NewLocalPartySaveData(2), newParty.out, newEnd)
	newParty.ended = pollInto(newEnd, &d)
	return func() save { return edSave(d) }
}

// checkRound1 returns a function that checks every DGRound1 message against the wallet's public key: tss-lib compares
// only the message of index 0 (tss-lib.md, row 9). In an ECDSA run all session ids must be equal, too: the new party of
// index 1 never compares them (row 17).
func checkRound1(old *KeyRecord) func(lib.MessageContent) error {
	pub := must(old.Curve.decodePoint(old.PublicKey))
	same := func(x, y []byte) error {
		if new(big.Int).SetBytes(x).Cmp(pub.X()) != 0 || new(big.Int).SetBytes(y).Cmp(pub.Y()) != 0 {
			return errors.New("a round 1 message with another public key")
		}
		return nil
	}
	var ssid []byte
	known := false // separate from ssid, which is nil for a message without a session id
	return func(m lib.MessageContent) error {
		switch m := m.(type) {
		case *ecresharing.DGRound1Message:
			if !known {
				ssid, known = m.GetSsid(), true
			}
			if !bytes.Equal(ssid, m.GetSsid()) {
				return errors.New("a round 1 message with another session id")
			}
			return same(m.GetEcdsaPubX(), m.GetEcdsaPubY())
		case *edresharing.DGRound1Message:
			return same(m.GetEddsaPubX(), m.GetEddsaPubY())
		}
		return nil
	}
}
