package main

import (
	"context"
	"fmt"

	"github.com/mpcd/mpcd/client"
)

type provisionCmd struct {
	serviceFlags
	backupFlags
	Share  shareFile `help:"New file for this device's share." required:"" placeholder:"FILE"`
	Wallet id        `help:"The wallet that the backup must be of." placeholder:"ID"`
	Name   string    `help:"Name of this device, at most 128 characters." placeholder:"NAME"`
}

// Run provisions this device.
func (cmd *provisionCmd) Run(ctx context.Context) error { return cmd.run(ctx, nil) }

func (cmd *provisionCmd) run(ctx context.Context, revoke []string) error {
	text, err := cmd.cipherText()
	if err != nil {
		return err
	}
	password, err := cmd.password(ctx, false)
	if err != nil {
		return err
	}
	return cmd.call("provision", func(c *client.Client, report client.ProgressFunc) (any, string, error) {
		if err := cmd.checkWallet(ctx, c, text); err != nil {
			return nil, "", err
		}
		var s *client.Share
		if len(revoke) > 0 {
			s, err = c.RecoverWallet(ctx, text, cmd.Method, revoke, report)
		} else {
			s, err = c.ProvisionWallet(ctx, text, cmd.Method, report)
		}
		if err != nil {
			return nil, "", cmd.Share.explain(s, err)
		}
		result, out := madeShare(s, cmd.Share)
		return result, out, nil
	}, client.WithStore(cmd.Share.store), client.WithDisplayName(cmd.Name), password)
}

// checkWallet checks the backup's wallet against --wallet, if that is set.
func (cmd *provisionCmd) checkWallet(ctx context.Context, c *client.Client, text string) error {
	if cmd.Wallet == "" {
		return nil
	}
	s, err := c.DecryptBackup(ctx, text, cmd.Method)
	if err != nil {
		return err
	}
	defer s.Wipe()
	if s.WalletID() != string(cmd.Wallet) {
		return fmt.Errorf("the backup is of wallet %s, not of --wallet %s", s.WalletID(), cmd.Wallet)
	}
	return nil
}

type recoverCmd struct {
	provisionCmd
	Revoke []id `help:"SIGNING set of a lost device, to revoke after provisioning; repeatable." required:"" placeholder:"SET"`
}

// Run provisions this device and revokes the lost ones.
func (cmd *recoverCmd) Run(ctx context.Context) error {
	var sets []string
	for _, set := range cmd.Revoke {
		sets = append(sets, string(set))
	}
	return cmd.run(ctx, sets)
}
