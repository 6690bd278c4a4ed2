package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// CreateWallet creates a wallet, stores and confirms the share of its first SIGNING set, and returns the share.
// GetWallet returns the wallet's public keys. If the share could not be confirmed, it returns the share with
// ErrNotConfirmed.
func (c *Client) CreateWallet(ctx context.Context, onProgress ProgressFunc) (*Share, error) {
	if c.store == nil {
		return nil, fmt.Errorf("client: %w", ErrNoStore)
	}
	curves, err := canonicalCurves(c.curves)
	if err != nil {
		return nil, err
	}
	r := newReporter(onProgress, OperationCreate)
	w := want{purpose: PurposeSigning, curves: curves}
	share, err := run[mpcdv1.CreateWalletResponse, *mpcdv1.CreateWalletResult](ctx, c, w, r,
		func(ctx context.Context, t ticket) (grpc.ServerStreamingClient[mpcdv1.CreateWalletResponse], error) {
			req := &mpcdv1.CreateWalletRequest{
				RequestId: t.requestID, SealTo: t.sealTo, AfterSequence: t.after,
				DisplayName: c.displayName, Owner: c.owner,
			}
			if t.device != nil {
				req.ClientSide = &mpcdv1.CreateWalletRequest_Device{Device: t.device}
			}
			for _, curve := range c.curves {
				req.Curves = append(req.Curves, curve.proto())
			}
			return c.service.CreateWallet(ctx, req)
		})
	if err != nil {
		return nil, err
	}
	share, _, err = c.storeAndConfirm(ctx, share, r)
	return share, err
}

// BackupWallet makes a backup from a signing share and returns it encrypted. The app stores it, reads it back and calls
// ConfirmBackup: until then the wallet cannot be provisioned from the backup, and if that does not happen in time, the
// backup's share set is erased.
func (c *Client) BackupWallet(
	ctx context.Context, share *Share, method BackupMethod, onProgress ProgressFunc,
) (*Backup, error) {
	if err := share.checkPurpose(PurposeSigning); err != nil {
		return nil, err
	}
	l, err := c.lockFor(method)
	if err != nil {
		return nil, err
	}
	defer l.wipe()
	r := newReporter(onProgress, OperationBackup)
	w := want{source: share, purpose: PurposeBackup, method: method, curves: share.curves}
	made, err := run[mpcdv1.BackupWalletResponse, *mpcdv1.BackupWalletResult](ctx, c, w, r,
		func(ctx context.Context, t ticket) (grpc.ServerStreamingClient[mpcdv1.BackupWalletResponse], error) {
			req := &mpcdv1.BackupWalletRequest{
				WalletId: share.walletID, RequestId: t.requestID, SealTo: t.sealTo, AfterSequence: t.after,
				DisplayName: c.displayName, BackupMethod: method.proto(),
			}
			if t.device != nil {
				req.ClientSide = &mpcdv1.BackupWalletRequest_Device{Device: t.device}
			} else {
				req.ClientSide = &mpcdv1.BackupWalletRequest_SigningShare{SigningShare: share.encoded.Reveal()}
			}
			return c.service.BackupWallet(ctx, req)
		})
	if err != nil {
		return nil, err
	}
	defer made.Wipe()
	r.step(StatusEncrypting, percentEncrypting)
	text, err := seal(ctx, l, made)
	if err != nil {
		return nil, err
	}
	r.step(StatusStoring, percentStoring)
	return &Backup{
		CipherText: text, Method: method, WalletID: made.walletID, ShareSetID: made.shareSetID,
		hash: made.hash, report: r,
	}, nil
}

// ConfirmBackup confirms a backup, which makes it usable. stored is the ciphertext as the app read it back from where
// it stored CipherText. It is decrypted, with the key from the cloud storage if the method has one, and must contain
// the share that was made. Otherwise ConfirmBackup changes nothing and fails with ErrBackupNotStored; it may be called
// again.
func (c *Client) ConfirmBackup(ctx context.Context, backup *Backup, stored string) error {
	if backup == nil || backup.report == nil {
		return fmt.Errorf("client: %w: it was not returned by BackupWallet", ErrBackupNotStored)
	}
	share, err := c.DecryptBackup(ctx, stored, backup.Method)
	if err != nil {
		return fmt.Errorf("client: %w: %w", ErrBackupNotStored, err)
	}
	defer share.Wipe()
	if share.hash != backup.hash {
		return fmt.Errorf("client: %w: the text that was read is another backup, of share set %s",
			ErrBackupNotStored, share.shareSetID)
	}
	if _, err := c.Confirm(ctx, share); err != nil {
		return err
	}
	backup.report.step(StatusDone, 100)
	return nil
}

// ProvisionWallet makes a new SIGNING set from a backup, stores and confirms its share, and returns the share. The
// backup and all existing sets stay valid. If the share could not be confirmed, it returns the share with
// ErrNotConfirmed.
func (c *Client) ProvisionWallet(
	ctx context.Context, cipherText string, method BackupMethod, onProgress ProgressFunc,
) (*Share, error) {
	share, _, err := c.provision(ctx, cipherText, method, onProgress, func(*Share) error { return nil })
	return share, err
}

// RecoverWallet is ProvisionWallet for a user who has lost a device. Once the new set is confirmed, it revokes the
// SIGNING sets in revoke and, as Revoke does, their descendants. The exception is a set that the new set itself
// descends from, by way of the backup: only that set is revoked, and its other descendants, which may have been made
// with the lost device, stay. GetWallet lists them, and they can be revoked separately.
//
// If an id in revoke is not that of a SIGNING set of the wallet, it fails before anything starts. If a set could not be
// revoked, it returns the new share with ErrNotRevoked.
func (c *Client) RecoverWallet(
	ctx context.Context, cipherText string, method BackupMethod, revoke []string, onProgress ProgressFunc,
) (*Share, error) {
	revoke, err := distinctIDs(revoke)
	if err != nil {
		return nil, err
	}
	share, wallet, err := c.provision(ctx, cipherText, method, onProgress, func(backup *Share) error {
		return c.checkRevocable(ctx, backup.walletID, revoke)
	})
	if err != nil {
		return share, err
	}
	var failed []string
	var causes []error
	for _, id := range revoke {
		var opts []RevokeOption
		if wallet.descends(share.shareSetID, id) {
			opts = append(opts, KeepDescendants())
		}
		if _, err := c.Revoke(ctx, share.walletID, id, opts...); err != nil {
			failed = append(failed, id)
			causes = append(causes, err)
		}
	}
	if len(failed) > 0 {
		return share, fmt.Errorf("client: %w: %s: %w",
			ErrNotRevoked, strings.Join(failed, ", "), errors.Join(causes...))
	}
	return share, nil
}

// distinctIDs parses the ids of share sets, and drops duplicates.
func distinctIDs(ids []string) ([]string, error) {
	var out []string
	for _, s := range ids {
		id, err := parseID("a share set to revoke", s)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out, nil
}

func (c *Client) checkRevocable(ctx context.Context, walletID string, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	w, err := c.GetWallet(ctx, walletID)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if set := w.ShareSet(id); set == nil || set.Purpose != PurposeSigning {
			return fmt.Errorf("client: cannot revoke %q after the recovery: it is not a SIGNING set of wallet %s",
				id, walletID)
		}
	}
	return nil
}

// provision decrypts the backup, calls check with its share before anything starts, and makes, stores and confirms the
// new set. It returns the wallet as of the confirmation.
func (c *Client) provision(
	ctx context.Context, cipherText string, method BackupMethod, onProgress ProgressFunc,
	check func(backup *Share) error,
) (*Share, *Wallet, error) {
	if c.store == nil {
		return nil, nil, fmt.Errorf("client: %w", ErrNoStore)
	}
	r := newReporter(onProgress, OperationProvision)
	backup, err := c.open(ctx, cipherText, method, r)
	if err != nil {
		return nil, nil, err
	}
	defer backup.Wipe()
	if err := check(backup); err != nil {
		return nil, nil, err
	}
	w := want{source: backup, purpose: PurposeSigning, curves: backup.curves}
	share, err := run[mpcdv1.ProvisionWalletResponse, *mpcdv1.ProvisionWalletResult](ctx, c, w, r,
		func(ctx context.Context, t ticket) (grpc.ServerStreamingClient[mpcdv1.ProvisionWalletResponse], error) {
			req := &mpcdv1.ProvisionWalletRequest{
				WalletId: backup.walletID, RequestId: t.requestID, SealTo: t.sealTo, AfterSequence: t.after,
				DisplayName: c.displayName,
			}
			if t.device != nil {
				req.ClientSide = &mpcdv1.ProvisionWalletRequest_Device{Device: t.device}
			} else {
				req.ClientSide = &mpcdv1.ProvisionWalletRequest_BackupShare{BackupShare: backup.encoded.Reveal()}
			}
			return c.service.ProvisionWallet(ctx, req)
		})
	if err != nil {
		return nil, nil, err
	}
	return c.storeAndConfirm(ctx, share, r)
}

// storeAndConfirm passes a new signing share to the app's StoreFunc, and confirms it after that: in the other order, a
// crash between the two would leave an ACTIVE set whose client share is lost.
func (c *Client) storeAndConfirm(ctx context.Context, share *Share, r *reporter) (*Share, *Wallet, error) {
	r.step(StatusStoring, percentStoring)
	if err := c.store(ctx, share); err != nil {
		share.Wipe()
		return nil, nil, fmt.Errorf("client: %w: %w", ErrNotStored, err)
	}
	wallet, err := c.Confirm(ctx, share)
	if err != nil {
		return share, nil, fmt.Errorf("client: %w: %w", ErrNotConfirmed, err)
	}
	r.step(StatusDone, 100)
	return share, wallet, nil
}

// ResumePending confirms shares that the app stored but could not confirm because it crashed. Call it when the app
// starts, with every signing share that the app has stored. It confirms the sets that are still PENDING, and returns
// the shares whose sets are gone, because they were not confirmed in time or were revoked: the app may delete those.
// Any other answer is an error, even NOT_FOUND: that may be due to the wrong account or a restored database, and a
// deleted share cannot be recovered.
func (c *Client) ResumePending(ctx context.Context, stored ...*Share) (gone []*Share, err error) {
	for _, s := range stored {
		_, err := c.Confirm(ctx, s) // changes nothing where the set is ACTIVE
		switch Reason(err) {
		case ReasonSessionExpired, ReasonShareSetRevoked:
			gone = append(gone, s)
		default:
			if err != nil {
				return gone, err
			}
		}
	}
	return gone, nil
}

// Confirm tells the service that a share is stored durably, which makes its set ACTIVE, and returns the wallet. The
// operations do this themselves: Confirm is for a share that was stored when a call failed with ErrNotConfirmed. It is
// idempotent.
func (c *Client) Confirm(ctx context.Context, share *Share) (*Wallet, error) {
	if share == nil {
		return nil, fmt.Errorf("client: %w: it is empty", ErrWrongShare)
	}
	req := &mpcdv1.ConfirmShareSetRequest{
		WalletId: share.walletID, ShareSetId: share.shareSetID, ShareSha256: share.hash[:],
	}
	resp, err := call(ctx, c, req, c.service.ConfirmShareSet)
	if err != nil {
		return nil, err
	}
	w, err := c.wallet(resp.GetWallet(), share.walletID)
	if err != nil {
		return nil, err
	}
	if set := w.ShareSet(share.shareSetID); set == nil || set.State != StateActive {
		return nil, badAnswer("the share set is not ACTIVE after it was confirmed")
	}
	return w, nil
}
