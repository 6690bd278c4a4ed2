package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mpcd/mpcd/client"
)

// shareFile is the path of a file for a new share. An existing file is rejected before any work: overwriting a share
// would lose it.
type shareFile string

// Validate is called by kong.
func (f shareFile) Validate() error {
	if _, err := os.Lstat(string(f)); err == nil {
		return fmt.Errorf("%s exists already, and may contain a share: name a new file", f)
	}
	if info, err := os.Stat(filepath.Dir(string(f))); err != nil || !info.IsDir() {
		return fmt.Errorf("there is no folder %s to write a file into", filepath.Dir(string(f)))
	}
	return nil
}

func (f shareFile) store(_ context.Context, s *client.Share) error {
	return writeNew(string(f), s.Bytes())
}

// writeNew writes a new file of mode 0600. The file is durable once writeNew has returned nil.
func writeNew(path string, b []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(b)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return syncDir(filepath.Dir(path))
}

func readShare(path string) (*client.Share, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	s, err := client.ParseShare(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// newShare is a new share as it is printed.
type newShare struct {
	WalletID   string         `json:"walletId"`
	ShareSetID string         `json:"shareSetId"`
	Purpose    client.Purpose `json:"purpose"`
	File       string         `json:"file"`
}

func madeShare(s *client.Share, file shareFile) (any, string) {
	return newShare{s.WalletID(), s.ShareSetID(), s.Purpose(), string(file)},
		fmt.Sprintf("wallet %s\nset    %s  %s  kept in %s\n", s.WalletID(), s.ShareSetID(), s.Purpose(), file)
}

// explain adds to an error what to do with the share, if one was stored.
func (f shareFile) explain(s *client.Share, err error) error {
	switch {
	case s == nil:
		return err
	case errors.Is(err, client.ErrNotRevoked):
		return fmt.Errorf("%w\nThe new share is kept in %s. Revoke the rest with "+
			"\"mpcd wallet revoke --wallet %s --set SET\"", err, f, s.WalletID())
	default:
		return unconfirmed(err, s.WalletID(), s.ShareSetID(), string(f))
	}
}

var errUnconfirmed = errors.New("the new share set is not confirmed")

// unconfirmed adds to err what to do with a file whose share set may not be confirmed.
func unconfirmed(err error, walletID, setID, file string) error {
	return fmt.Errorf("%w: %w\n%s is written, but its share set may not be confirmed. "+
		"If \"mpcd wallet show --wallet %s\" shows set %s as ACTIVE, keep the file; "+
		"otherwise delete it and run the command again",
		errUnconfirmed, err, file, walletID, setID)
}
