package main

import (
	"context"
	"fmt"
	"os"

	"github.com/mpcd/mpcd/client"
)

type backupCmd struct {
	serviceFlags
	passwordFlags
	Share string    `help:"File with a signing share." required:"" placeholder:"FILE"`
	Out   shareFile `help:"New file for the encrypted backup, an age file." required:"" placeholder:"FILE"`

	WorkFactor int `help:"Cost of each guess at the password: scrypt with N = 2^LOGN, 15 to 20 (default: ${default}). Making and opening the backup take N KiB of memory (15: 32 MiB, 18: 256 MiB, 20: 1 GiB); each step doubles the time." default:"18" enum:"15,16,17,18,19,20" placeholder:"LOGN"`
}

// Run makes a backup, writes it, reads it back, and only then confirms it.
func (cmd *backupCmd) Run(ctx context.Context) error {
	s, err := readShare(cmd.Share)
	if err != nil {
		return err
	}
	password, err := cmd.password(ctx, true)
	if err != nil {
		return err
	}
	return cmd.call("backup", func(c *client.Client, report client.ProgressFunc) (any, string, error) {
		b, err := c.BackupWallet(ctx, s, cmd.Method, report)
		if err != nil {
			return nil, "", err
		}
		if err := writeNew(string(cmd.Out), []byte(b.CipherText)); err != nil {
			return nil, "", err
		}
		stored, err := os.ReadFile(string(cmd.Out))
		if err != nil {
			return nil, "", err
		}
		if err := c.ConfirmBackup(ctx, b, string(stored)); err != nil {
			return nil, "", unconfirmed(err, b.WalletID, b.ShareSetID, string(cmd.Out))
		}
		return newShare{b.WalletID, b.ShareSetID, client.PurposeBackup, string(cmd.Out)},
			fmt.Sprintf("wallet %s\nset    %s  BACKUP  encrypted in %s\n", b.WalletID, b.ShareSetID, cmd.Out), nil
	}, password, client.WithWorkFactor(cmd.WorkFactor))
}

// backupFlags are the flags for an existing backup and its password.
type backupFlags struct {
	passwordFlags
	Backup string `help:"File with the encrypted backup, an age file, binary or armored." required:"" placeholder:"FILE"`
}

func (f *backupFlags) cipherText() (string, error) {
	b, err := os.ReadFile(f.Backup)
	return string(b), err
}

type decryptCmd struct {
	callFlags
	backupFlags
	Out shareFile `help:"New file for the decrypted backup share." required:"" placeholder:"FILE"`
}

// Run decrypts a backup. It does not call the service.
func (cmd *decryptCmd) Run(ctx context.Context) error {
	text, err := cmd.cipherText()
	if err != nil {
		return err
	}
	password, err := cmd.password(ctx, false)
	if err != nil {
		return err
	}
	c, err := client.New(noConnection{}, password)
	if err != nil {
		return err
	}
	s, err := c.DecryptBackup(ctx, text, cmd.Method)
	if err != nil {
		return err
	}
	if err := cmd.Out.store(ctx, s); err != nil {
		return err
	}
	return cmd.print(madeShare(s, cmd.Out))
}
