package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"

	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// The parties of a 2-of-2 sharing, and the degree of its polynomial.
const (
	parties   = 2
	threshold = 1
)

// bareECDSA is a 2-of-2 ECDSA key in tss-lib's own form.
type bareECDSA struct {
	ids   lib.SortedPartyIDs
	saves [parties]*eckeygen.LocalPartySaveData
}

// newBareECDSA generates a key with the given pre-params.
func newBareECDSA(ctx context.Context, pre [parties]*eckeygen.LocalPreParams) (*bareECDSA, error) {
	ids, err := newCommittee()
	if err != nil {
		return nil, err
	}
	k, n, peers := &bareECDSA{ids: ids}, newNetwork(), lib.NewPeerContext(ids)
	var results [parties]func() *eckeygen.LocalPartySaveData
	for i, id := range ids {
		end := make(chan *eckeygen.LocalPartySaveData, 1)
		params := lib.NewParameters(lib.S256(), peers, id, parties, threshold)
		results[i] = join(n, id, eckeygen.NewLocalParty(params, n.out, end, *pre[i]), end)
	}
	if err := n.run(ctx); err != nil {
		return nil, fmt.Errorf("ECDSA key generation: %w", err)
	}
	for i := range ids {
		k.saves[i] = results[i]()
	}
	return k, nil
}

// reshare runs the four parties of a resharing. Entries of pre may be nil: tss-lib's parties then generate pre-params
// themselves. The key is not replaced by its resharing.
func (k *bareECDSA) reshare(ctx context.Context, pre [parties]*eckeygen.LocalPreParams) error {
	ids, err := newCommittee()
	if err != nil {
		return err
	}
	n, oldPeers, newPeers := newNetwork(), lib.NewPeerContext(k.ids), lib.NewPeerContext(ids)
	var results [parties]func() *eckeygen.LocalPartySaveData
	for i, id := range ids {
		end := make(chan *eckeygen.LocalPartySaveData, 1)
		params := lib.NewReSharingParameters(lib.S256(), oldPeers, newPeers, id, parties, threshold, parties, threshold)
		save := eckeygen.NewLocalPartySaveData(parties)
		if pre[i] != nil {
			save.LocalPreParams = *pre[i]
		}
		results[i] = join(n, id, ecresharing.NewLocalParty(params, save, n.out, end), end)
	}
	for i, id := range k.ids {
		end := make(chan *eckeygen.LocalPartySaveData, 1)
		params := lib.NewReSharingParameters(lib.S256(), oldPeers, newPeers, id, parties, threshold, parties, threshold)
		old := *k.saves[i]
		old.Xi = new(big.Int).Set(old.Xi) // tss-lib zeroes it
		join(n, id, ecresharing.NewLocalParty(params, old, n.out, end), end)
	}
	if err := n.run(ctx); err != nil {
		return fmt.Errorf("ECDSA resharing: %w", err)
	}
	for _, made := range results {
		if s := made(); s.Xi == nil || !s.ECDSAPub.Equals(k.saves[0].ECDSAPub) {
			return errNoSharing
		}
	}
	return nil
}

var errNoSharing = errors.New("tss-lib's result is not a sharing of the old key")

// bareEdDSA is a 2-of-2 EdDSA key in tss-lib's own form.
type bareEdDSA struct {
	ids   lib.SortedPartyIDs
	saves [parties]*edkeygen.LocalPartySaveData
}

// newBareEdDSA generates a key.
func newBareEdDSA(ctx context.Context) (*bareEdDSA, error) {
	ids, err := newCommittee()
	if err != nil {
		return nil, err
	}
	k, n, peers := &bareEdDSA{ids: ids}, newNetwork(), lib.NewPeerContext(ids)
	var results [parties]func() *edkeygen.LocalPartySaveData
	for i, id := range ids {
		end := make(chan *edkeygen.LocalPartySaveData, 1)
		params := lib.NewParameters(lib.Edwards(), peers, id, parties, threshold)
		results[i] = join(n, id, edkeygen.NewLocalParty(params, n.out, end), end)
	}
	if err := n.run(ctx); err != nil {
		return nil, fmt.Errorf("EdDSA key generation: %w", err)
	}
	for i := range ids {
		k.saves[i] = results[i]()
	}
	return k, nil
}

// reshare is like bareECDSA's, on a curve that needs no pre-params.
func (k *bareEdDSA) reshare(ctx context.Context) error {
	ids, err := newCommittee()
	if err != nil {
		return err
	}
	n, oldPeers, newPeers := newNetwork(), lib.NewPeerContext(k.ids), lib.NewPeerContext(ids)
	var results [parties]func() *edkeygen.LocalPartySaveData
	for i, id := range ids {
		end := make(chan *edkeygen.LocalPartySaveData, 1)
		params := lib.NewReSharingParameters(lib.Edwards(), oldPeers, newPeers, id, parties, threshold, parties, threshold)
		results[i] = join(n, id, edresharing.NewLocalParty(params, edkeygen.NewLocalPartySaveData(parties), n.out, end), end)
	}
	for i, id := range k.ids {
		end := make(chan *edkeygen.LocalPartySaveData, 1)
		params := lib.NewReSharingParameters(lib.Edwards(), oldPeers, newPeers, id, parties, threshold, parties, threshold)
		old := *k.saves[i]
		old.Xi = new(big.Int).Set(old.Xi) // tss-lib zeroes it
		join(n, id, edresharing.NewLocalParty(params, old, n.out, end), end)
	}
	if err := n.run(ctx); err != nil {
		return fmt.Errorf("EdDSA resharing: %w", err)
	}
	for _, made := range results {
		if s := made(); s.Xi == nil || !s.EDDSAPub.Equals(k.saves[0].EDDSAPub) {
			return errNoSharing
		}
	}
	return nil
}

// newCommittee returns two parties with fresh ids.
func newCommittee() (lib.SortedPartyIDs, error) {
	var keys [parties]*big.Int
	for i := range keys {
		var err error
		// below both curves' orders
		if keys[i], err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 250)); err != nil {
			return nil, err
		}
	}
	return committee(keys), nil
}
