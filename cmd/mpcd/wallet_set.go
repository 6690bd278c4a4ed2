package main

import (
	"context"

	"github.com/mpcd/mpcd/client"
)

type revokeCmd struct {
	serviceFlags
	Wallet          id   `help:"The wallet's id." required:"" placeholder:"ID"`
	Set             id   `help:"The share set's id." required:"" placeholder:"ID"`
	KeepDescendants bool `help:"Do not revoke the sets that were made from it."`
	AllowLast       bool `help:"Revoke even the last usable set of its purpose; needs scope wallets:admin."`
}

// Run revokes a share set.
func (cmd *revokeCmd) Run(ctx context.Context) error {
	var opts []client.RevokeOption
	if cmd.KeepDescendants {
		opts = append(opts, client.KeepDescendants())
	}
	if cmd.AllowLast {
		opts = append(opts, client.AllowLast())
	}
	return cmd.callQuietly(func(c *client.Client) (any, string, error) {
		return walletResult(c.Revoke(ctx, string(cmd.Wallet), string(cmd.Set), opts...))
	})
}

type releaseCmd struct {
	serviceFlags
	Wallet id `help:"The wallet's id." required:"" placeholder:"ID"`
	Set    id `help:"The share set's id." required:"" placeholder:"ID"`
}

// Run releases a share set.
func (cmd *releaseCmd) Run(ctx context.Context) error {
	return cmd.callQuietly(func(c *client.Client) (any, string, error) {
		return walletResult(c.Release(ctx, string(cmd.Wallet), string(cmd.Set)))
	})
}
