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

// CreateWallet creates a wallet and returns the share of its first SIGNING set, stored and
// confirmed. GetWallet has its public keys.
func (c *Client) CreateWallet(ctx context.Context, onProgress ProgressFunc) (*Share, error) {
	if c.store == nil {
		return nil, fmt.Errorf("client: %w", ErrNoStore)
	}
	curves, err := inOrder(c.curves)
	if err != nil {
		return nil, err
	}
	r := newReporter(onProgress, OperationCreate)
	share, err := run(ctx, c, want{purpose: PurposeSigning, curves: curves}, r, (*mpcdv1.CreateWalletResponse).GetOutcome,
		func(ctx context.Context, t ticket) (grpc.ServerStreamingClient[mpcdv1.CreateWalletResponse], error) {
			req := &mpcdv1.CreateWalletRequest{
				RequestId: t.requestID, SealTo: t.sealTo, AfterSequence: t.after, DisplayName: c.displayName, Owner: c.owner,
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
	share, _, err = c.keep(ctx, share, r)
	return share, err
}

// BackupWallet makes a backup from a signing share and returns it encrypted. It counts when
// ConfirmBackup was called with what the app stored and read back: until then the wallet
// cannot be provisioned from it, and after some time it is erased.
func (c *Client) BackupWallet(ctx context.Context, share *Share, method BackupMethod, onProgress ProgressFunc) (*Backup, error) {
	if err := share.of(PurposeSigning); err != nil {
		return nil, err
	}
	l, err := c.lockFor(method)
	if err != nil {
		return nil, err
	}
	defer l.wipe()
	r := newReporter(onProgress, OperationBackup)
	made, err := run(ctx, c, want{source: share, purpose: PurposeBackup, method: method, curves: share.curves}, r, (*mpcdv1.BackupWalletResponse).GetOutcome,
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
		CipherText: text, Method: method, WalletID: made.walletID, ShareSetID: made.shareSetID, hash: made.hash, report: r,
	}, nil
}

// ConfirmBackup makes a backup count. stored is what the app read back from where it stored
// CipherText: it is opened, with the key from the cloud storage where there is one, and must
// hold the share that was made. Otherwise it fails with ErrBackupNotStored, may be called
// again, and nothing has changed.
func (c *Client) ConfirmBackup(ctx context.Context, backup *Backup, stored string) error {
	if backup == nil || backup.report == nil {
		return fmt.Errorf("client: %w: it is not one that BackupWallet returned", ErrBackupNotStored)
	}
	share, err := c.DecryptBackup(ctx, stored, backup.Method)
	if err != nil {
		return fmt.Errorf("client: %w: %w", ErrBackupNotStored, err)
	}
	defer share.Wipe()
	if share.hash != backup.hash {
		return fmt.Errorf("client: %w: what was read is another backup, of share set %s", ErrBackupNotStored, share.shareSetID)
	}
	if _, err := c.Confirm(ctx, share); err != nil {
		return err
	}
	backup.report.step(StatusDone, 100)
	return nil
}

// ProvisionWallet makes one more SIGNING set from a backup, and returns its share, stored
// and confirmed. The backup and all older sets go on working. When the service could not be
// told that the share is stored, it returns the share with ErrNotConfirmed.
func (c *Client) ProvisionWallet(ctx context.Context, cipherText string, method BackupMethod, onProgress ProgressFunc) (*Share, error) {
	share, _, err := c.provision(ctx, cipherText, method, onProgress, func(*Share) error { return nil })
	return share, err
}

// RecoverWallet is ProvisionWallet for a user who has lost a device: when the new set is
// confirmed, it revokes the SIGNING sets that are named, and as Revoke does what was made
// from them. Where the new set itself was made from a named one, by way of the backup, only
// the named one is revoked: other sets that somebody made with the lost device stay, are
// shown by GetWallet, and can be named or revoked too.
//
// A set that is named and is not a SIGNING set of the wallet is an error before anything
// starts. When a set could not be revoked, it returns the new share with ErrNotRevoked.
func (c *Client) RecoverWallet(ctx context.Context, cipherText string, method BackupMethod, revoke []string, onProgress ProgressFunc) (*Share, error) {
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
		return share, fmt.Errorf("client: %w: %s: %w", ErrNotRevoked, strings.Join(failed, ", "), errors.Join(causes...))
	}
	return share, nil
}

// distinctIDs parses the ids of share sets; each stands in what it returns once.
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
			return fmt.Errorf("client: cannot revoke %q after the recovery: it is no SIGNING set of wallet %s", id, walletID)
		}
	}
	return nil
}

// provision opens the backup, lets ready look at it, and makes, stores and confirms the new
// set. The wallet is as the confirmation answered it.
func (c *Client) provision(
	ctx context.Context, cipherText string, method BackupMethod, onProgress ProgressFunc, ready func(backup *Share) error,
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
	if err := ready(backup); err != nil {
		return nil, nil, err
	}
	share, err := run(ctx, c, want{source: backup, purpose: PurposeSigning, curves: backup.curves}, r, (*mpcdv1.ProvisionWalletResponse).GetOutcome,
		func(ctx context.Context, t ticket) (grpc.ServerStreamingClient[mpcdv1.ProvisionWalletResponse], error) {
			req := &mpcdv1.ProvisionWalletRequest{
				WalletId: backup.walletID, RequestId: t.requestID, SealTo: t.sealTo, AfterSequence: t.after, DisplayName: c.displayName,
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
	return c.keep(ctx, share, r)
}

// keep hands a new signing share to the app, and only then confirms it: the other way round,
// a crash between the two would leave an ACTIVE set that nobody has.
func (c *Client) keep(ctx context.Context, share *Share, r *reporter) (*Share, *Wallet, error) {
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

// ResumePending finishes what a crash of the app interrupted between storing a new share
// and confirming it. Call it at the start with every signing share that the app has stored.
// It confirms the sets that are still PENDING, and returns the shares whose sets are gone,
// because they were not confirmed in time or were revoked: the app may drop those. Any
// other answer is an error, NOT_FOUND too: the wrong account or a database that was
// restored gives that, and a share that was dropped does not come back.
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

// Confirm tells the service that a share is stored for good, which makes its set ACTIVE, and
// answers the wallet. The operations do this by themselves: it is for a share that was stored
// when the call failed with ErrNotConfirmed. To confirm again changes nothing.
func (c *Client) Confirm(ctx context.Context, share *Share) (*Wallet, error) {
	if share == nil {
		return nil, fmt.Errorf("client: %w: there is none", ErrWrongShare)
	}
	req := &mpcdv1.ConfirmShareSetRequest{WalletId: share.walletID, ShareSetId: share.shareSetID, ShareSha256: share.hash[:]}
	resp, err := again(ctx, newPace(c.rest, shortly), func() (*mpcdv1.ConfirmShareSetResponse, error) { return c.service.ConfirmShareSet(ctx, req) })
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
