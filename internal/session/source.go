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

// source is the set that a run uses. In a hosted run, client is the client share, checked against the record;
// otherwise nil.
type source struct {
	set    *StoredSet
	record *tss.Record
	client *tss.Share
}

// clientSide says where the client's side of a run is: hosted, with the share from the request, or on a device that
// names the set.
type clientSide struct {
	share  secret.Bytes
	device *Device // nil: hosted
}

// findSource returns the set that a request uses, after checking that it belongs to the wallet and has the wanted
// purpose. The share in a hosted request proves the right to use the set and to learn its state. A device proves it
// with its hello; until then the set's state is not checked, so as not to reveal it.
func (s *runner) findSource(
	ctx context.Context, c Caller, a action, walletID string, want Purpose, from clientSide,
) (_ *Wallet, _ *source, err error) {
	wallet, err := s.wallet(ctx, c, a, walletID)
	if err != nil {
		return nil, nil, err
	}
	if from.device == nil {
		if err := wallet.checkHosted(); err != nil {
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
	} else if setID, err = src.parseShare(wallet, want, from.share); err != nil {
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
		if err := src.checkShare(from.share); err != nil {
			return nil, nil, err
		}
	}
	if err := wallet.checkRecord(setID, src.record); err != nil {
		return nil, nil, err
	}
	if from.device == nil {
		err = src.set.checkUsable()
	}
	return wallet, src, err
}

// parseShare parses a hosted client's share, and returns the id of its set.
func (src *source) parseShare(wallet *Wallet, want Purpose, share secret.Bytes) (setID string, err error) {
	if src.client, err = tss.ParseShare(share.Reveal()); err != nil {
		return "", fromTSS(err)
	}
	if src.client.WalletID != wallet.ID || src.client.Purpose != want {
		return "", fmt.Errorf("%w: the share is of purpose %v and wallet %s",
			ErrShareSetMismatch, src.client.Purpose, src.client.WalletID)
	}
	return src.client.ShareSetID, nil
}

// checkShare checks a hosted client's share, whose encoding is given, against the set's record. No computation uses a
// share that fails it.
func (src *source) checkShare(encoded secret.Bytes) error {
	if err := src.record.Check(src.client, tss.Client, src.set.Record); err != nil {
		if sha256.Sum256(encoded.Reveal()) == src.set.ClientShare {
			// The share is the one that the service handed out, so its record is wrong. Do not wrap: the client is not at fault.
			return fmt.Errorf("%w: record of set %s: %v", ErrDataCorrupted, src.set.ID, err) //nolint:errorlint // see above
		}
		return fromTSS(err)
	}
	if len(src.client.Keys) != len(src.record.Keys) {
		return fmt.Errorf("%w: the share lacks a curve of its set", ErrShareMalformed)
	}
	return nil
}

// checkHosted rejects hosted runs of a device-held wallet, which would bring its shares together for the first time.
func (w *Wallet) checkHosted() error {
	if w.HostedSince.IsZero() {
		return fmt.Errorf("%w: wallet %s", ErrDeviceHeldWallet, w.ID)
	}
	return nil
}

// checkRecord checks a set's record against the wallet's keys.
func (w *Wallet) checkRecord(setID string, record *tss.Record) error {
	for _, k := range record.Keys {
		if !slices.ContainsFunc(w.Keys, func(own PublicKey) bool {
			return own.Curve == k.Curve && bytes.Equal(own.Key, k.PublicKey)
		}) {
			return fmt.Errorf("%w: record of set %s names another public key than its wallet", ErrDataCorrupted, setID)
		}
	}
	return nil
}

// readServerShare fetches the server share of a set. Its custodian has checked it against the set's record, so that a
// corrupted row is not blamed on the client.
func (s *runner) readServerShare(ctx context.Context, owner string, src *source, w *work) (*tss.Share, error) {
	w.run.report(Progress{Status: StatusReadingShare, Percent: percentReading})
	share, err := s.custodianFor(src.set.Purpose).Fetch(ctx, owner, src.set)
	if err != nil {
		return nil, serverFault(fmt.Errorf("server share of set %s: %w", src.set.ID, err))
	}
	w.run.report(Progress{Status: StatusParsingShare, Percent: percentParsing})
	return share, nil
}

// serverFault returns DATA_CORRUPTED for an error that says that a share is malformed or of another set, if the caller
// is not at fault: the share is the server's, or a client's that was checked before. Other errors stay as they are.
func serverFault(err error) error {
	if reason := Reason(fromTSS(err)); reason == ErrShareMalformed.Reason || reason == ErrShareSetMismatch.Reason {
		return fmt.Errorf("%w: %v", ErrDataCorrupted, err) //nolint:errorlint // its sentinel would blame the client's share
	}
	return err
}

// custodianFor returns the custodian of the server shares of a purpose.
func (s *runner) custodianFor(p Purpose) Custodian {
	if p == Backup {
		return s.ports.Custodian
	}
	return s.ports.ServerShares
}
