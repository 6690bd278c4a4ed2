// Package custody keeps the server shares of share sets: sealed in mpcd's own database (Managed), or with an external
// custodian behind webhooks (Webhook).
//
// Managed keeps one ciphertext per curve in the set's own row, bound to its wallet, set, curve and party. A share
// that is read is checked against the set's public record before it can be used: someone able to write to the
// database can destroy a share, but can neither read nor replace it.
//
// The package stores nothing itself: what Deposit returns is committed with the set. It trusts its Sealer and nothing
// in the row: the record is authenticated by the sealed share, which commits to it. It cannot detect that a whole row
// was replaced by an older version of it. Authorisation is not its concern.
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

// Deposit implements session.Custodian. The caller keeps the share, and wipes it.
func (m *Managed) Deposit(
	_ context.Context, _ string, set *session.ShareSet, share *tss.Share,
) ([]session.Sealed, error) {
	if share.Party != tss.Server || share.SetID != setID(set) {
		return nil, fmt.Errorf("deposit for share set %s: the share is another set's or party's", set.ID)
	}
	if len(share.Keys) == 0 {
		return nil, fmt.Errorf("deposit for share set %s: the share has no keys", set.ID)
	}
	row := make([]session.Sealed, 0, len(share.Keys))
	for i := range share.Keys {
		c := share.Keys[i].Curve
		sealed, err := m.seal(set, share, c)
		if err != nil {
			return nil, fmt.Errorf("deposit for share set %s, %v: %w", set.ID, c, err)
		}
		row = append(row, session.Sealed{Curve: c, Ciphertext: sealed})
	}
	return row, nil
}

func (m *Managed) seal(set *session.ShareSet, share *tss.Share, c tss.Curve) ([]byte, error) {
	one, err := share.Only(c) // not wiped here: it has its secrets in common with share
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

// Fetch implements session.Custodian. It returns ErrShareSetRevoked for a set whose server share was erased.
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
	share := &tss.Share{SetID: rec.SetID, Party: tss.Server, RecordHash: tss.Hash(set.Record)}
	for i := range rec.Keys {
		k, err := m.open(set, rec, rec.Keys[i].Curve, &set.ServerShare[i])
		if err != nil {
			share.Wipe()
			return nil, err
		}
		share.Keys = append(share.Keys, *k)
	}
	return share, nil
}

// open returns one curve's key after checking it against the set's record.
func (m *Managed) open(set *session.StoredSet, rec *tss.Record, c tss.Curve, sealed *session.Sealed) (*tss.KeyShare, error) {
	if sealed.Curve != c {
		return nil, corrupted(set, fmt.Errorf("a ciphertext for %v in place of one for %v", sealed.Curve, c))
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

// corrupted returns the error for a damaged row. It does not wrap the cause: the sentinels of package tss would tell
// the caller that its own share is malformed.
func corrupted(set *session.StoredSet, cause error) error {
	return fmt.Errorf("fetch the server share of set %s: %w: %s", set.ID, session.ErrDataCorrupted, cause.Error())
}

func setID(set *session.ShareSet) tss.SetID {
	return tss.SetID{WalletID: set.WalletID, ShareSetID: set.ID, Purpose: set.Purpose}
}

func label(set *session.ShareSet, c tss.Curve) session.Label {
	return session.ServerShareLabel(set.WalletID, set.ID, c)
}
