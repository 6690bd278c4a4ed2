package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// source is the set that a run uses: its row and its public record. Where the run is hosted, client
// is the client's share of it, which was checked against that record.
type source struct {
	set    *StoredSet
	record *tss.Record
	client *tss.Share
}

// clientSide says where the client's side of a run is: its share comes with the request (hosted),
// or it stays on a device, which names the set.
type clientSide struct {
	share  secret.Bytes
	device *Device // nil: hosted
}

// source finds the set that a request uses, and checks that it is one of the wallet's, of the
// wanted purpose. A hosted request proves that it may by its share, and is told the set's state. A
// device proves it by its hello; until then nobody is told the set's state.
func (s *runner) source(
	ctx context.Context, c Caller, a action, walletID string, want Purpose, from clientSide,
) (_ *Wallet, _ *source, err error) {
	wallet, err := s.wallet(ctx, c, a, walletID)
	if err != nil {
		return nil, nil, err
	}
	if from.device == nil {
		if err := wallet.hosted(); err != nil {
			return nil, nil, err
		}
	}
	if want == Backup && len(wallet.Active(Backup)) == 0 {
		return nil, nil, fmt.Errorf("%w: wallet %s", ErrBackupNotFound, walletID)
	}
	src := new(source)
	defer func() {
		if err != nil {
			src.client.Wipe()
		}
	}()
	var setID string
	if from.device != nil {
		setID = from.device.ShareSetID
	} else if setID, err = src.read(wallet, want, from.share); err != nil {
		return nil, nil, err
	}
	if src.set, err = s.ports.Wallets.Set(ctx, wallet.ID, setID); err != nil {
		return nil, nil, err
	}
	if src.set.Purpose != want {
		return nil, nil, fmt.Errorf("%w: set %s is of purpose %v", ErrShareSetMismatch, setID, src.set.Purpose)
	}
	if src.record, err = tss.ParseRecord(src.set.Record); err != nil {
		return nil, nil, fmt.Errorf("record of set %s: %w", setID, fromTSS(err))
	}
	if from.device == nil {
		if err := src.check(from.share); err != nil {
			return nil, nil, err
		}
	}
	if err := wallet.has(setID, src.record); err != nil {
		return nil, nil, err
	}
	if from.device == nil {
		err = src.set.usable()
	}
	return wallet, src, err
}

// read parses a hosted client's share, and returns the set that it says it is of.
func (src *source) read(wallet *Wallet, want Purpose, share secret.Bytes) (setID string, err error) {
	if src.client, err = tss.ParseShare(share.Reveal()); err != nil {
		return "", fromTSS(err)
	}
	if src.client.WalletID != wallet.ID || src.client.Purpose != want {
		return "", fmt.Errorf("%w: the share is of purpose %v and wallet %s", ErrShareSetMismatch, src.client.Purpose, src.client.WalletID)
	}
	return src.client.ShareSetID, nil
}

// check checks a hosted client's share, which came as encoded, against the set's record: nothing is
// computed with a share that fails this.
func (src *source) check(encoded secret.Bytes) error {
	if err := src.record.Check(src.client, tss.Client, src.set.Record); err != nil {
		if sha256.Sum256(encoded.Reveal()) == src.set.ClientShare {
			// The share is the one that was handed out, so the fault is ours. Not with %w.
			return fmt.Errorf("%w: record of set %s: %v", ErrDataCorrupted, src.set.ID, err) //nolint:errorlint // see above
		}
		return fromTSS(err)
	}
	if len(src.client.Keys) != len(src.record.Keys) {
		return fmt.Errorf("%w: the share lacks a curve of its set", ErrShareMalformed)
	}
	return nil
}

// hosted refuses to bring both shares of a wallet together that never were.
func (w *Wallet) hosted() error {
	if w.HostedSince.IsZero() {
		return fmt.Errorf("%w: wallet %s", ErrDeviceHeldWallet, w.ID)
	}
	return nil
}

// has checks a set's record against the wallet's keys.
func (w *Wallet) has(setID string, record *tss.Record) error {
	for _, k := range record.Keys {
		if !slices.ContainsFunc(w.Keys, func(own PublicKey) bool { return own.Curve == k.Curve && bytes.Equal(own.Key, k.PublicKey) }) {
			return fmt.Errorf("%w: record of set %s names another public key than its wallet", ErrDataCorrupted, setID)
		}
	}
	return nil
}

// serverShare reads the server's share of a set from its keeper, which has checked it against the
// set's record: a row that has rotted is not blamed on the client.
func (s *runner) serverShare(ctx context.Context, owner string, src *source, w *work) (*tss.Share, error) {
	w.run.report(Progress{Status: StatusReadingShare, Percent: percentReading})
	share, err := s.keeper(src.set.Purpose).Fetch(ctx, owner, src.set)
	if err != nil {
		return nil, ours(err, "server share of set "+src.set.ID)
	}
	w.run.report(Progress{Status: StatusParsingShare, Percent: percentParsing})
	return share, nil
}

// ours says what is at fault where an error came up with a share that the caller is not to be
// blamed for: it is the server's, or a client's that was checked before.
func ours(err error, what string) error {
	if reason := Reason(fromTSS(err)); reason == ErrShareMalformed.Reason || reason == ErrShareSetMismatch.Reason {
		return fmt.Errorf("%w: %s: %v", ErrDataCorrupted, what, err) //nolint:errorlint // not with %w: the share at fault is ours
	}
	return fmt.Errorf("%s: %w", what, err)
}

// keeper returns who keeps the server's share of sets of a purpose.
func (s *runner) keeper(p Purpose) Custodian {
	if p == Backup {
		return s.ports.Custodian
	}
	return s.ports.ServerShares
}
