package tss

import (
	"context"
	"fmt"
	"math/big"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// PartyKeys are the party keys of one committee, by Party. They are public, in [1, q) and distinct.
type PartyKeys [2]*big.Int

// NewPartyKeys draws the keys of a new committee.
func NewPartyKeys(c Curve) (PartyKeys, error) {
	var keys PartyKeys
	for i := range keys {
		k, err := newPartyKey(c)
		if err != nil {
			return PartyKeys{}, err
		}
		keys[i] = k
	}
	return keys, nil
}

// check returns an error unless the keys are scalars that differ from each other and from those of old, which may be
// nil. tss-lib panics on equal keys, and treats a new party with an old one's key as a member of both committees
// (tss-lib.md, rows 1 and 8).
func (k PartyKeys) check(c Curve, old *KeyRecord) error {
	all := []*big.Int{k[Client], k[Server]}
	if old != nil {
		all = append(all, old.Parties[Client].PartyKey, old.Parties[Server].PartyKey)
	}
	for i, x := range all {
		if !c.isScalar(x) {
			return fmt.Errorf("a party key is not in [1, q)")
		}
		for _, y := range all[:i] {
			if x.Cmp(y) == 0 {
				return fmt.Errorf("two parties have the same party key")
			}
		}
	}
	return nil
}

// KeygenInput is one side's part in a key generation.
type KeygenInput struct {
	Curve     Curve
	Party     Party
	Keys      PartyKeys
	PreParams *PreParams // Secp256k1 only; used up by the run
	// CheckModuli checks that the wallet never used the other side's Paillier N and NTilde before. It is called once,
	// after all other checks and before tss-lib sees them; its error ends the run and is returned unchanged. nil: no
	// check. Not called for Ed25519.
	CheckModuli func(n, nTilde *big.Int) error `json:"-"`
}

// Keygen runs one side of a key generation and returns its new share and the public values. It fails with a
// *ProtocolError if the other side is at fault, with in.CheckModuli's error, or with ctx's cause as soon as ctx ends.
func Keygen(ctx context.Context, conn Conn, in KeygenInput, obs Observer) (*NewKey, error) {
	if !in.Curve.Valid() || !in.Party.Valid() {
		return nil, fmt.Errorf("unknown curve or party")
	}
	if err := in.Keys.check(in.Curve, nil); err != nil {
		return nil, err
	}
	keys := committee(in.Keys)
	t := newLocalParty(onlyRole, keys[in.Party])
	ids := keys.ids("party")
	t.senders[onlyRole] = ids
	params := lib.NewParameters(in.Curve.ec(), sorted(ids), ids[in.Party], 2, 1)
	s := &side{curve: in.Curve, me: in.Party, proto: keygens[in.Curve], conn: conn, obs: obs, parties: []*localParty{t}}
	s.ingress = &ingress{curve: s.curve, me: s.me, proto: s.proto}

	var result func() save
	if in.Curve == Secp256k1 {
		pre, err := in.PreParams.consume()
		if err != nil {
			return nil, err
		}
		s.ingress.setOwnModuli(pre.PaillierSK.N, pre.NTildei, in.CheckModuli)
		s.secrets = func() { wipePreParams(pre) }
		end := make(chan *eckeygen.LocalPartySaveData, 1)
		var d *eckeygen.LocalPartySaveData
		t.party, t.ended = eckeygen.NewLocalParty(params, t.out, end, *pre), pollInto(end, &d)
		result = func() save { return ecSave(d) }
	} else {
		end := make(chan *edkeygen.LocalPartySaveData, 1)
		var d *edkeygen.LocalPartySaveData
		t.party, t.ended = edkeygen.NewLocalParty(params, t.out, end), pollInto(end, &d)
		result = func() save { return edSave(d) }
	}
	return s.newKey(ctx, keys, result, nil)
}

// newKey runs the side and checks its result, which must have the public key want if that is not nil. The secrets of
// the run are wiped only after the ones to keep have been copied.
func (s *side) newKey(ctx context.Context, keys committee, result func() save, want []byte) (*NewKey, error) {
	inputs := s.secrets
	kept := make(chan struct{})
	s.secrets = func() {
		<-kept
		if inputs != nil {
			inputs()
		}
	}
	defer close(kept)
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	d := result()
	defer wipe(d.xi)
	k, err := newKey(s.curve, s.me, keys, d, want)
	if err != nil {
		return nil, s.blame(err)
	}
	return k, nil
}
