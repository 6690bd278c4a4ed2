package client

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/tss"
)

// Wallet is a wallet's public keys and share sets.
type Wallet struct {
	ID          string
	Owner       string
	PublicKeys  []PublicKey // one for each curve; empty before the first set is confirmed
	ShareSets   []ShareSet  // oldest first, including revoked sets
	CreateTime  time.Time
	HostedSince time.Time // when both shares were first in the service; zero for a wallet that was always device-held
	LockTime    time.Time // when the wallet, with all its sets, was locked; zero if it is not
	Aborts      uint32    // of all its sets
	SoftAborts  uint32    // of all its sets; they do not decrease with time
}

// PublicKey is one of a wallet's keys.
type PublicKey struct {
	Curve Curve
	Bytes []byte // SECP256K1: SEC1 uncompressed, 65 bytes; ED25519: RFC 8032, 32 bytes
}

// ShareSet is one sharing of a wallet's keys. Times that do not apply are zero.
type ShareSet struct {
	ID          string
	Purpose     Purpose
	Method      BackupMethod // of a BACKUP set
	State       State
	ParentID    string // the set that it was made from; empty for a wallet's first
	DisplayName string
	CreateTime  time.Time
	ExpireTime  time.Time // when the set is erased if it is still PENDING
	RevokeTime  time.Time
	LockTime    time.Time // when the set, or its wallet, was locked; zero if neither is
	Aborts      uint32    // sessions aborted because of its client, since the set was made or released
	// SoftAborts is the number of device-held ECDSA signings that were not finished; it falls by one each day.
	SoftAborts uint32
	// LimitedUntil is when device-held ECDSA signing is possible again; until then it fails with SHARE_SET_LIMITED.
	LimitedUntil time.Time
}

// Locked reports whether the service refuses to sign with the set or to reshare it (SHARE_SET_LOCKED), because its
// client broke too many sessions.
func (s *ShareSet) Locked() bool { return !s.LockTime.IsZero() }

// ShareSet returns the share set with the id, or nil.
func (w *Wallet) ShareSet(id string) *ShareSet {
	id, err := ParseID(id)
	if err != nil {
		return nil
	}
	i := slices.IndexFunc(w.ShareSets, func(s ShareSet) bool { return s.ID == id })
	if i < 0 {
		return nil
	}
	return &w.ShareSets[i]
}

// descends reports whether a set was made from an ancestor, directly or not. It terminates even if the service reports
// a cycle.
func (w *Wallet) descends(id, ancestor string) bool {
	for range w.ShareSets {
		set := w.ShareSet(id)
		if set == nil || set.ParentID == "" {
			return false
		}
		if id = set.ParentID; id == ancestor {
			return true
		}
	}
	return false
}

// GetWallet returns a wallet.
func (c *Client) GetWallet(ctx context.Context, walletID string) (*Wallet, error) {
	walletID, err := parseID("the wallet's id", walletID)
	if err != nil {
		return nil, err
	}
	req := &mpcdv1.GetWalletRequest{WalletId: walletID}
	resp, err := call(ctx, c, req, c.service.GetWallet)
	if err != nil {
		return nil, err
	}
	return c.wallet(resp.GetWallet(), walletID)
}

// ListWallets iterates over the wallets of the caller, or of WithOwner's owner, oldest first. It fetches pages as
// needed, and ends after an error.
func (c *Client) ListWallets(ctx context.Context) iter.Seq2[*Wallet, error] {
	return func(yield func(*Wallet, error) bool) {
		req := &mpcdv1.ListWalletsRequest{Owner: c.owner, PageSize: 100}
		for {
			resp, err := call(ctx, c, req, c.service.ListWallets)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, p := range resp.GetWallets() {
				w, err := c.wallet(p, p.GetWalletId())
				if !yield(w, err) || err != nil {
					return
				}
			}
			next := resp.GetNextPageToken()
			if next == "" {
				return
			}
			if next == req.GetPageToken() {
				yield(nil, badAnswer("its list has no end"))
				return
			}
			req.PageToken = next
		}
	}
}

// RevokeOption changes what Revoke does.
type RevokeOption func(*mpcdv1.RevokeShareSetRequest)

// KeepDescendants does not revoke the sets that were made from the revoked one.
func KeepDescendants() RevokeOption {
	return func(r *mpcdv1.RevokeShareSetRequest) { r.KeepDescendants = true }
}

// AllowLast permits revoking a wallet's last ACTIVE set of a purpose. It needs scope wallets:admin.
func AllowLast() RevokeOption {
	return func(r *mpcdv1.RevokeShareSetRequest) { r.AllowLast = true }
}

// Revoke permanently erases the server shares of a share set and of its descendants, and returns the wallet. It is
// idempotent.
func (c *Client) Revoke(ctx context.Context, walletID, shareSetID string, opts ...RevokeOption) (*Wallet, error) {
	walletID, shareSetID, err := parseIDs(walletID, shareSetID)
	if err != nil {
		return nil, err
	}
	req := &mpcdv1.RevokeShareSetRequest{WalletId: walletID, ShareSetId: shareSetID}
	for _, opt := range opts {
		opt(req)
	}
	resp, err := call(ctx, c, req, c.service.RevokeShareSet)
	if err != nil {
		return nil, err
	}
	w, err := c.wallet(resp.GetWallet(), walletID)
	if err != nil {
		return nil, err
	}
	if set := w.ShareSet(shareSetID); set == nil || set.State != StateRevoked {
		return nil, badAnswer("the share set is not REVOKED after it was revoked")
	}
	return w, nil
}

// Release unlocks a share set that was locked because its client broke too many sessions, and returns the wallet. It
// needs scope wallets:admin, which the wallet's owner does not have.
func (c *Client) Release(ctx context.Context, walletID, shareSetID string) (*Wallet, error) {
	walletID, shareSetID, err := parseIDs(walletID, shareSetID)
	if err != nil {
		return nil, err
	}
	req := &mpcdv1.ReleaseShareSetRequest{WalletId: walletID, ShareSetId: shareSetID}
	resp, err := call(ctx, c, req, c.service.ReleaseShareSet)
	if err != nil {
		return nil, err
	}
	w, err := c.wallet(resp.GetWallet(), walletID)
	if err != nil {
		return nil, err
	}
	if set := w.ShareSet(shareSetID); set == nil || set.Locked() {
		return nil, badAnswer("the share set is locked after it was released")
	}
	return w, nil
}

// keyID names one key of one wallet.
type keyID struct {
	walletID string
	curve    Curve
}

// PinKeys sets a wallet's public keys from a source that the app trusts more than the service, such as a copy stored
// with the share. All answers and signatures are then checked against them. Without it, the client trusts the first
// keys that the service sends. It fails, and pins no key, if the client already knows other keys, or if the id, a curve
// or the length of a key is invalid.
func (c *Client) PinKeys(walletID string, keys ...PublicKey) error {
	walletID, err := parseID("the wallet's id", walletID)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if _, err := k.Curve.tss(); err != nil {
			return err
		}
	}
	return c.pin(walletID, keys)
}

// keyLen is the length of PublicKey.Bytes.
var keyLen = map[tss.Curve]int{tss.Secp256k1: 65, tss.Ed25519: 32}

// pin is PinKeys, but ignores curves that this SDK does not know: a later service may have more.
func (c *Client) pin(walletID string, keys []PublicKey) error {
	pins := make(map[keyID][]byte)
	for _, k := range keys {
		curve, err := k.Curve.tss()
		if err != nil {
			continue
		}
		if len(k.Bytes) != keyLen[curve] {
			return fmt.Errorf("client: a %s public key has %d bytes (see PublicKey), not %d",
				k.Curve, keyLen[curve], len(k.Bytes))
		}
		id := keyID{walletID, k.Curve}
		if other, ok := pins[id]; ok && !bytes.Equal(other, k.Bytes) {
			return fmt.Errorf("client: two %s keys for wallet %s: it has one", k.Curve, walletID)
		}
		pins[id] = slices.Clone(k.Bytes)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, key := range pins {
		if known, ok := c.keys[id]; ok && !bytes.Equal(known, key) {
			return fmt.Errorf("client: wallet %s has another %s key: a wallet's keys never change", walletID, id.curve)
		}
	}
	maps.Copy(c.keys, pins)
	return nil
}

// key returns a wallet's public key. If the client does not know it yet, it is fetched from the service.
func (c *Client) key(ctx context.Context, walletID string, curve Curve) ([]byte, error) {
	id := keyID{walletID, curve}
	if k := c.knownKey(id); k != nil {
		return k, nil
	}
	if _, err := c.GetWallet(ctx, walletID); err != nil {
		return nil, err
	}
	k := c.knownKey(id)
	if k == nil {
		return nil, badAnswer("it has no %s key for wallet %s", curve, walletID)
	}
	return k, nil
}

func (c *Client) knownKey(id keyID) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys[id]
}

// wallet converts the service's answer about the wallet with the id into a Wallet, and pins its keys.
func (c *Client) wallet(p *mpcdv1.Wallet, id string) (*Wallet, error) {
	if p.GetWalletId() != id {
		return nil, badAnswer("it is about another wallet")
	}
	if canonical, err := ParseID(id); err != nil || canonical != id {
		return nil, badAnswer("its wallet's id is not a UUID in lower case")
	}
	w := &Wallet{
		ID: id, Owner: p.GetOwner(), CreateTime: timeOf(p.GetCreateTime()), HostedSince: timeOf(p.GetHostedSince()),
		LockTime: timeOf(p.GetLockTime()), Aborts: p.GetAborts(), SoftAborts: p.GetSoftAborts(),
	}
	for _, k := range p.GetPublicKeys() {
		w.PublicKeys = append(w.PublicKeys, PublicKey{Curve: curveOf(k.GetCurve()), Bytes: k.GetPublicKey()})
	}
	for _, s := range p.GetShareSets() {
		w.ShareSets = append(w.ShareSets, ShareSet{
			ID: s.GetShareSetId(), Purpose: purposeOf(s.GetPurpose()), Method: methodOf(s.GetBackupMethod()),
			State: stateOf(s.GetState()), ParentID: s.GetParentShareSetId(), DisplayName: s.GetDisplayName(),
			CreateTime: timeOf(s.GetCreateTime()), ExpireTime: timeOf(s.GetExpireTime()),
			RevokeTime: timeOf(s.GetRevokeTime()), LockTime: timeOf(s.GetLockTime()),
			Aborts: s.GetAborts(), SoftAborts: s.GetSoftAborts(), LimitedUntil: timeOf(s.GetLimitedUntil()),
		})
	}
	if err := c.pin(id, w.PublicKeys); err != nil {
		return nil, badAnswer("%w", err)
	}
	return w, nil
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
