package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mpcd/mpcd/client"
)

// shareFile is where a new share goes. It is refused before any work where it is there
// already, since a share that is overwritten is lost.
type shareFile string

// Validate is called by kong.
func (f shareFile) Validate() error {
	if _, err := os.Lstat(string(f)); err == nil {
		return fmt.Errorf("%s is there already, and may hold a share: name a new file", f)
	}
	if info, err := os.Stat(filepath.Dir(string(f))); err != nil || !info.IsDir() {
		return fmt.Errorf("there is no folder %s to write a file into", filepath.Dir(string(f)))
	}
	return nil
}

func (f shareFile) store(_ context.Context, s *client.Share) error {
	return writeNew(string(f), s.Bytes())
}

// writeNew writes a new file of mode 0600, which is durable when it returns nil.
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

// newShare is what is printed of a share that was made.
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

// kept adds to an error what became of the share where there is one.
func (f shareFile) kept(s *client.Share, err error) error {
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

var errUncounted = errors.New("the new share set is not confirmed")

// unconfirmed is an error after a file was written whose share set may not count.
func unconfirmed(err error, walletID, setID, file string) error {
	return fmt.Errorf("%w: %w\n%s is written, but the service may not count it. If \"mpcd wallet show --wallet %s\" has "+
		"set %s as ACTIVE, keep the file; otherwise delete it and run the command again",
		errUncounted, err, file, walletID, setID)
}
