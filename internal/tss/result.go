package tss

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"

	tsscrypto "github.com/bnb-chain/tss-lib/v2/crypto"
	"github.com/bnb-chain/tss-lib/v2/crypto/paillier"
	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
)

// NewKey is one side's result of a key generation or a resharing on one curve.
type NewKey struct {
	Share  KeyShare
	Record KeyRecord // as this side saw it: the transcript, which both sides confirm, has the hash of the set's record
}

// save is tss-lib's save data for either curve, with vectors in tss-lib's order.
type save struct {
	xi, shareID *big.Int
	ks          []*big.Int
	bigX        []*tsscrypto.ECPoint
	pub         *tsscrypto.ECPoint
	ec          *eckeygen.LocalPartySaveData // nil for Ed25519
}

func ecSave(d *eckeygen.LocalPartySaveData) save {
	return save{xi: d.Xi, shareID: d.ShareID, ks: d.Ks, bigX: d.BigXj, pub: d.ECDSAPub, ec: d}
}

func edSave(d *edkeygen.LocalPartySaveData) save {
	return save{xi: d.Xi, shareID: d.ShareID, ks: d.Ks, bigX: d.BigXj, pub: d.EDDSAPub}
}

var errSave = errors.New("the new share failed a check")

// newKey returns the key in d after the checks of tss-lib.md, row 9. want is the wallet's public key, or nil in a key
// generation.
func newKey(c Curve, me Party, keys committee, d save, want []byte) (*NewKey, error) {
	if d.xi == nil || d.shareID == nil || d.shareID.Cmp(keys[me]) != 0 {
		return nil, fmt.Errorf("%w: it is incomplete, or another party's", errSave)
	}
	if err := c.checkPoint(d.pub); err != nil {
		return nil, fmt.Errorf("%w: public key: %w", errSave, err)
	}
	rec := KeyRecord{Curve: c, PublicKey: c.encodePoint(d.pub)}
	if want != nil && !bytes.Equal(rec.PublicKey, want) {
		return nil, fmt.Errorf("%w: the public key changed", errSave)
	}
	for p, key := range keys {
		pub, err := d.public(c, key)
		if err != nil {
			return nil, fmt.Errorf("%w: %v: %w", errSave, Party(p), err)
		}
		rec.Parties[p] = *pub
	}
	if err := rec.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", errSave, err)
	}
	// tss-lib does not reduce xi: even an honest sum of two scalars often has 257 bits.
	xi := new(big.Int).Mod(d.xi, c.order())
	share := KeyShare{Curve: c, PartyKey: new(big.Int).Set(keys[me]), keySecrets: &keySecrets{xi: xi}}
	if c == Secp256k1 {
		own := &rec.Parties[me]
		if !d.ec.ValidateWithProof() { // checks for nils only
			return nil, fmt.Errorf("%w: its own parameters are incomplete", errSave)
		}
		if d.ec.NTildei.Cmp(own.NTilde) != 0 || d.ec.H1i.Cmp(own.H1) != 0 || d.ec.H2i.Cmp(own.H2) != 0 {
			return nil, fmt.Errorf("%w: its own parameters are not those in its vectors", errSave)
		}
		share.paillierP, share.paillierQ = new(big.Int).Set(d.ec.PaillierSK.P), new(big.Int).Set(d.ec.PaillierSK.Q)
	}
	if err := rec.checkShare(&share, me); err != nil {
		share.wipe()
		return nil, fmt.Errorf("%w: %w", errSave, err)
	}
	return &NewKey{Share: share, Record: rec}, nil
}

// public returns the public values of the party with the given key.
func (d *save) public(c Curve, key *big.Int) (*Public, error) {
	if len(d.ks) != 2 || len(d.bigX) != 2 {
		return nil, errors.New("its vectors do not have two entries")
	}
	i := 0
	if d.ks[0] == nil || d.ks[1] == nil {
		return nil, errors.New("a party key is missing")
	}
	if d.ks[0].Cmp(key) != 0 {
		if i = 1; d.ks[1].Cmp(key) != 0 {
			return nil, errors.New("it is not in the committee")
		}
	}
	if err := c.checkPoint(d.bigX[i]); err != nil {
		return nil, err
	}
	p := &Public{PartyKey: new(big.Int).Set(key), BigX: d.bigX[i]}
	if c != Secp256k1 {
		return p, nil
	}
	e := d.ec
	if len(e.PaillierPKs) != 2 || len(e.NTildej) != 2 || len(e.H1j) != 2 || len(e.H2j) != 2 || e.PaillierPKs[i] == nil {
		return nil, errors.New("its vectors do not have two entries")
	}
	for dst, src := range map[**big.Int]*big.Int{
		&p.PaillierN: e.PaillierPKs[i].N, &p.NTilde: e.NTildej[i], &p.H1: e.H1j[i], &p.H2: e.H2j[i],
	} {
		if src == nil {
			return nil, errors.New("a modulus or generator is missing")
		}
		*dst = new(big.Int).Set(src)
	}
	return p, nil
}

// ecSaveData returns an old share as tss-lib's save data: secrets from s, public values from the record. The secrets
// are copies, which the run wipes at its end: a resharing sets Xi to zero through a shared pointer (tss-lib.md, row 2).
func ecSaveData(k *KeyRecord, s *KeyShare, me Party) eckeygen.LocalPartySaveData {
	d := eckeygen.NewLocalPartySaveData(2)
	own := &k.Parties[me]
	d.PaillierSK = paillierKey(s.paillierP, s.paillierQ)
	d.NTildei, d.H1i, d.H2i = own.NTilde, own.H1, own.H2
	d.Xi, d.ShareID = new(big.Int).Set(s.xi), own.PartyKey
	for i, p := range k.inOrder() {
		d.Ks[i], d.BigXj[i] = p.PartyKey, p.BigX
		d.NTildej[i], d.H1j[i], d.H2j[i] = p.NTilde, p.H1, p.H2
		d.PaillierPKs[i] = &paillier.PublicKey{N: p.PaillierN}
	}
	d.ECDSAPub = must(k.Curve.decodePoint(k.PublicKey))
	return d
}

func edSaveData(k *KeyRecord, s *KeyShare, me Party) edkeygen.LocalPartySaveData {
	d := edkeygen.NewLocalPartySaveData(2)
	d.Xi, d.ShareID = new(big.Int).Set(s.xi), k.Parties[me].PartyKey
	for i, p := range k.inOrder() {
		d.Ks[i], d.BigXj[i] = p.PartyKey, p.BigX
	}
	d.EDDSAPub = must(k.Curve.decodePoint(k.PublicKey))
	return d
}

// inOrder returns the parties as tss-lib sorts them, by party key.
func (k *KeyRecord) inOrder() [2]*Public {
	a, b := &k.Parties[Client], &k.Parties[Server]
	if a.PartyKey.Cmp(b.PartyKey) > 0 {
		a, b = b, a
	}
	return [2]*Public{a, b}
}
