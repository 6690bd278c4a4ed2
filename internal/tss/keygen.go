package tss

import (
	"context"
	"fmt"
	"math/big"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// PartyKeys are the party keys of one committee, by Party: public, in [1, q), distinct.
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

// check wants scalars that differ from each other and from those of old, which may be
// nil: tss-lib panics on equal keys, and takes a party with the key of an old one for
// a member of both committees (tss-lib.md, rows 1 and 8).
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
	// CheckModuli is asked once for the other side's Paillier N and NTilde, which passed every
	// check, before tss-lib sees them: whether this wallet never had them. Its error ends
	// the run and is returned as it is. nil: not asked; never called for Ed25519.
	CheckModuli func(n, nTilde *big.Int) error `json:"-"`
}

// Keygen runs one side of a key generation. It returns a new share and the public
// values, a *ProtocolError that names the other side, in.CheckModuli's error, or ctx's cause
// at once when ctx ends. Nothing is durable when it returns.
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
		pre, err := in.PreParams.take()
		if err != nil {
			return nil, err
		}
		s.ingress.newModuli(pre.PaillierSK.N, pre.NTildei, in.CheckModuli)
		s.secrets = func() { wipePreParams(pre) }
		end := make(chan *eckeygen.LocalPartySaveData, 1)
		var d *eckeygen.LocalPartySaveData
		t.party, t.ended = eckeygen.NewLocalParty(params, t.out, end, *pre), take(end, &d)
		result = func() save { return ecSave(d) }
	} else {
		end := make(chan *edkeygen.LocalPartySaveData, 1)
		var d *edkeygen.LocalPartySaveData
		t.party, t.ended = edkeygen.NewLocalParty(params, t.out, end), take(end, &d)
		result = func() save { return edSave(d) }
	}
	return s.newKey(ctx, keys, result, nil)
}

// newKey runs the side and checks what it made. Secrets are wiped only after the
// check has copied what is kept.
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
