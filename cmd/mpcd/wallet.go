package main

import (
	"context"
	"strings"

	"github.com/mpcd/mpcd/client"
)

// walletCmd groups the commands that call a running service. They store a device's share in a file of mode 0600, where
// an app would use the platform's key store.
type walletCmd struct {
	Create    createCmd    `cmd:"" help:"Create a wallet, and store its first share in a file."`
	Backup    backupCmd    `cmd:"" help:"Make an encrypted backup with a share."`
	Decrypt   decryptCmd   `cmd:"" help:"Decrypt a backup into a backup share; no service is called."`
	Provision provisionCmd `cmd:"" help:"Make a new share for another device from a backup."`
	Recover   recoverCmd   `cmd:"" help:"Provision, then revoke the sets of lost devices."`
	Sign      signCmd      `cmd:"" help:"Sign with a share."`
	Prewarm   prewarmCmd   `cmd:"" help:"Generate pre-params for later --device-held commands; no service is called."`
	Show      showCmd      `cmd:"" help:"Show a wallet, its keys and share sets."`
	List      listCmd      `cmd:"" help:"List wallets."`
	Revoke    revokeCmd    `cmd:"" help:"Revoke a share set and its descendants."`
	Release   releaseCmd   `cmd:"" help:"Unlock a share set that aborts have locked; needs scope wallets:admin."`
}

type createCmd struct {
	serviceFlags
	Share  shareFile      `help:"New file for the first device's share." required:"" placeholder:"FILE"`
	Owner  string         `help:"The wallet's owner, at most 256 characters; the caller by default." placeholder:"NAME"`
	Name   string         `help:"Name of this device, at most 128 characters." placeholder:"NAME"`
	Curves []client.Curve `help:"The wallet's curves; both by default." enum:"SECP256K1,ED25519" default:"SECP256K1,ED25519" placeholder:"CURVE"`
}

// Run creates a wallet.
func (cmd *createCmd) Run(ctx context.Context) error {
	return cmd.call("create", func(c *client.Client, report client.ProgressFunc) (any, string, error) {
		s, err := c.CreateWallet(ctx, report)
		if err != nil {
			return nil, "", cmd.Share.explain(s, err)
		}
		result, text := madeShare(s, cmd.Share)
		return result, text, nil
	}, client.WithStore(cmd.Share.store), client.WithOwner(cmd.Owner), client.WithDisplayName(cmd.Name),
		client.WithCurves(cmd.Curves...))
}

type showCmd struct {
	serviceFlags
	Wallet id `help:"The wallet's id." required:"" placeholder:"ID"`
}

// Run shows a wallet.
func (cmd *showCmd) Run(ctx context.Context) error {
	return cmd.callQuietly(func(c *client.Client) (any, string, error) {
		return walletResult(c.GetWallet(ctx, string(cmd.Wallet)))
	})
}

func walletResult(w *client.Wallet, err error) (any, string, error) {
	if err != nil {
		return nil, "", err
	}
	v := viewWallet(w)
	return v, v.text(), nil
}

type listCmd struct {
	serviceFlags
	Owner string `help:"The wallets' owner; the caller by default." placeholder:"NAME"`
}

// Run lists wallets.
func (cmd *listCmd) Run(ctx context.Context) error {
	return cmd.callQuietly(func(c *client.Client) (any, string, error) {
		views := []walletView{}
		var b strings.Builder
		for w, err := range c.ListWallets(ctx) {
			if err != nil {
				return nil, "", err
			}
			views = append(views, viewWallet(w))
			b.WriteString(views[len(views)-1].text())
		}
		return struct {
			Wallets []walletView `json:"wallets"`
		}{views}, b.String(), nil
	}, client.WithOwner(cmd.Owner))
}
