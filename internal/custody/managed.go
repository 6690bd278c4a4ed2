// Package custody keeps the server's share of share sets: in mpcd's own database, sealed
// (Managed), or with a customer, behind his webhooks (Webhook).
//
// A managed half is kept as one ciphertext for each curve, in the set's own row, bound to its
// wallet, set, curve and party. What comes back is held against the set's public record
// before anybody can compute with it: whoever can write to the database can destroy a
// half, and can neither read it nor put another in its place.
//
// It never stores anything itself: what Deposit returns is committed with the set. It
// trusts its Sealer and nothing in the row: the record is the one that the sealed half
// commits to. What it cannot see is an old row put back as a whole. Who may use a set
// is not asked here.
package custody

import (
	"context"
	"errors"
	"fmt"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// Managed is mpcd as its own custodian. It is safe for concurrent use.
type Managed struct {
	sealer session.Sealer
}

var _ session.Custodian = (*Managed)(nil)

// NewManaged returns a custodian that seals with sealer.
func NewManaged(sealer session.Sealer) *Managed { return &Managed{sealer} }

// Deposit implements session.Custodian. The half stays the caller's, who wipes it.
func (m *Managed) Deposit(_ context.Context, _ string, set *session.ShareSet, half *tss.Share) ([]session.Sealed, error) {
	if half.Party != tss.Server || half.SetID != setID(set) {
		return nil, fmt.Errorf("deposit for share set %s: the share is another set's or party's", set.ID)
	}
	if len(half.Keys) == 0 {
		return nil, fmt.Errorf("deposit for share set %s: the share has no keys", set.ID)
	}
	row := make([]session.Sealed, 0, len(half.Keys))
	for i := range half.Keys {
		c := half.Keys[i].Curve
		sealed, err := m.seal(set, half, c)
		if err != nil {
			return nil, fmt.Errorf("deposit for share set %s, %v: %w", set.ID, c, err)
		}
		row = append(row, session.Sealed{Curve: c, Ciphertext: sealed})
	}
	return row, nil
}

func (m *Managed) seal(set *session.ShareSet, half *tss.Share, c tss.Curve) ([]byte, error) {
	one, err := half.Only(c) // not wiped here: it shares its secrets with half
	if err != nil {
		return nil, err
	}
	var encoded secret.Bytes
	if encoded, err = one.Encode(); err != nil {
		return nil, err
	}
	defer encoded.Wipe()
	return m.sealer.Seal(encoded, label(set, c))
}

// Fetch implements session.Custodian. It returns ErrShareSetRevoked for a set whose half
// was erased.
func (m *Managed) Fetch(_ context.Context, _ string, set *session.StoredSet) (*tss.Share, error) {
	if set.State == session.SetRevoked {
		return nil, fmt.Errorf("fetch the server share of set %s: %w", set.ID, session.ErrShareSetRevoked)
	}
	if len(set.ServerShare) == 0 && set.Purpose == session.Backup {
		return nil, corrupted(set, errors.New("its server share is not here: was it deposited with a custodian (--custodian-url)?"))
	}
	rec, err := tss.ParseRecord(set.Record)
	if err != nil {
		return nil, corrupted(set, err)
	}
	if rec.SetID != setID(&set.ShareSet) {
		return nil, corrupted(set, fmt.Errorf("its record is another set's"))
	}
	if len(set.ServerShare) != len(rec.Keys) {
		return nil, corrupted(set, fmt.Errorf("its server share has %d curves, its record %d", len(set.ServerShare), len(rec.Keys)))
	}
	half := &tss.Share{SetID: rec.SetID, Party: tss.Server, RecordHash: tss.Hash(set.Record)}
	for i := range rec.Keys {
		k, err := m.open(set, rec, rec.Keys[i].Curve, &set.ServerShare[i])
		if err != nil {
			half.Wipe()
			return nil, err
		}
		half.Keys = append(half.Keys, *k)
	}
	return half, nil
}

// open returns one curve's key after every check that its set's record allows.
func (m *Managed) open(set *session.StoredSet, rec *tss.Record, c tss.Curve, sealed *session.Sealed) (*tss.KeyShare, error) {
	if sealed.Curve != c {
		return nil, corrupted(set, fmt.Errorf("a ciphertext for %v stands where its record has %v", sealed.Curve, c))
	}
	encoded, err := m.sealer.Open(sealed.Ciphertext, label(&set.ShareSet, c))
	if err != nil {
		return nil, fmt.Errorf("fetch the server share of set %s: %w", set.ID, err)
	}
	defer encoded.Wipe()
	one, err := tss.ParseShare(encoded.Reveal())
	if err != nil {
		return nil, corrupted(set, err)
	}
	if err := rec.Check(one, tss.Server, set.Record); err != nil {
		one.Wipe()
		return nil, corrupted(set, err)
	}
	if len(one.Keys) != 1 || one.Keys[0].Curve != c {
		one.Wipe()
		return nil, corrupted(set, fmt.Errorf("a ciphertext for %v holds other keys", c))
	}
	return &one.Keys[0], nil
}

// corrupted says what is wrong with a row. The cause is not wrapped: the sentinels of
// package tss would tell the caller that its own share is malformed.
func corrupted(set *session.StoredSet, cause error) error {
	return fmt.Errorf("fetch the server share of set %s: %w: %s", set.ID, session.ErrDataCorrupted, cause.Error())
}

func setID(set *session.ShareSet) tss.SetID {
	return tss.SetID{WalletID: set.WalletID, ShareSetID: set.ID, Purpose: set.Purpose}
}

func label(set *session.ShareSet, c tss.Curve) session.Label {
	return session.ServerShareLabel(set.WalletID, set.ID, c)
}
