package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/mpcd/mpcd/client"
)

// walletCmd groups the commands that call a running service. A device's share is kept
// in a file of mode 0600: good enough for a laptop, where an app uses the platform's
// key store.
type walletCmd struct {
	Create    createCmd    `cmd:"" help:"Create a wallet; keep its first share in a file."`
	Backup    backupCmd    `cmd:"" help:"Make an encrypted backup with a share."`
	Decrypt   decryptCmd   `cmd:"" help:"Decrypt a backup into a backup share, for calls by hand; no service is called."`
	Provision provisionCmd `cmd:"" help:"Make a new share for another device from a backup."`
	Recover   recoverCmd   `cmd:"" help:"Provision, then revoke the sets of lost devices."`
	Sign      signCmd      `cmd:"" help:"Sign with a share."`
	Prewarm   prewarmCmd   `cmd:"" help:"Make a device's pre-params ahead, for commands with --device-held; no service is called."`
	Show      showCmd      `cmd:"" help:"Show a wallet, its keys and share sets."`
	List      listCmd      `cmd:"" help:"List wallets."`
	Revoke    revokeCmd    `cmd:"" help:"Revoke a share set and what was made from it."`
	Release   releaseCmd   `cmd:"" help:"Unlock a share set whose client broke too many sessions; needs scope wallets:admin."`
}

// callFlags are those of every wallet command, also of those that call nobody: a script may
// pass the same to all.
type callFlags struct {
	Addr string `help:"The service's gRPC address (default: ${default})." default:"127.0.0.1:9090" env:"MPCD_ADDR" placeholder:"ADDR"`
	JSON bool   `help:"Print one JSON object on standard output."`
	connectionFlags
}

// serviceFlags are those of every command that calls the service.
type serviceFlags struct {
	callFlags
	// DeviceHeld is for the commands that run a protocol; the others have no use for it.
	DeviceHeld bool `help:"Run this device's side of the protocol here: its share is not sent. A wallet that is created so refuses everything else." env:"MPCD_DEVICE_HELD"`
	// Ahead is for those of them that make a share, with DeviceHeld.
	Ahead ahead `embed:"" prefix:"preparams-"`
}

// id is a flag that names a wallet or a share set, in the one form that ids have.
type id string

// UnmarshalText is called by kong.
func (i *id) UnmarshalText(text []byte) error {
	parsed, err := client.ParseID(string(text))
	*i = id(parsed)
	return err
}

// dial connects to the service.
func (f *serviceFlags) dial(opts ...client.Option) (*client.Client, func() error, error) {
	host, _, err := net.SplitHostPort(f.Addr)
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("--addr %q is not HOST:PORT", f.Addr)}
	}
	how, err := f.dialOptions(host)
	if err != nil {
		return nil, nil, usageError{err}
	}
	opts, err = f.deviceHeld(opts)
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+f.Addr, how...)
	if err != nil {
		return nil, nil, err
	}
	c, err := client.New(conn, opts...)
	if err != nil {
		return nil, nil, errors.Join(usageError{err}, conn.Close())
	}
	return c, conn.Close, nil
}

// deviceHeld adds to the options what --device-held asks for.
func (f *serviceFlags) deviceHeld(opts []client.Option) ([]client.Option, error) {
	if !f.DeviceHeld {
		return opts, nil
	}
	opts = append(opts, client.WithDeviceHeldShares())
	if err := f.Ahead.check("preparams-"); err != nil || f.Ahead.Dir == "" {
		return opts, err
	}
	store, err := f.Ahead.option()
	return append(opts, store), err
}

// call connects, shows the progress of one operation and prints its result: as JSON, or
// as text.
func (f *serviceFlags) call(name string, run func(*client.Client, client.ProgressFunc) (result any, text string, err error), opts ...client.Option) (err error) {
	return f.quiet(func(c *client.Client) (any, string, error) {
		report, end := newView(os.Stderr, f.JSON).operation(name)
		result, text, err := run(c, report)
		end(err)
		return result, text, err
	}, opts...)
}

// quiet is call for what is over in a moment.
func (f *serviceFlags) quiet(run func(*client.Client) (any, string, error), opts ...client.Option) (err error) {
	c, closeConn, err := f.dial(opts...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeConn()) }()
	result, text, err := run(c)
	if err != nil {
		return f.explain(err)
	}
	return f.print(result, text)
}

func (f *callFlags) print(result any, text string) error {
	if f.JSON {
		return json.NewEncoder(os.Stdout).Encode(result)
	}
	_, err := fmt.Print(text)
	return err
}

// explain says what to do next where the service could not be reached, or the command
// was interrupted.
func (f *serviceFlags) explain(err error) error {
	e := new(client.Error)
	switch {
	case errors.Is(err, errUncounted), errors.Is(err, client.ErrNotRevoked):
		return err // something was made: it says what to do itself
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w; what was not confirmed is of no use, and the service erases it", errInterrupted)
	case errors.As(err, &e) && e.Code == codes.Unavailable && e.Reason == "":
		return fmt.Errorf("no mpcd service answers at %s. Start one with \"mpcd serve --dev\", or name another with --addr; one with TLS needs --tls-ca\n(%w)", f.Addr, err)
	}
	return err
}

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

type createCmd struct {
	serviceFlags
	Share  shareFile      `help:"New file for the first device's share." required:"" placeholder:"FILE"`
	Owner  string         `help:"Whose wallet it is; the caller's by default. At most 256 characters." placeholder:"NAME"`
	Name   string         `help:"Name of this device, at most 128 characters." placeholder:"NAME"`
	Curves []client.Curve `help:"The wallet's curves; both by default." enum:"SECP256K1,ED25519" default:"SECP256K1,ED25519" placeholder:"CURVE"`
}

// Run creates a wallet.
func (cmd *createCmd) Run(ctx context.Context) error {
	return cmd.call("create", func(c *client.Client, report client.ProgressFunc) (any, string, error) {
		s, err := c.CreateWallet(ctx, report)
		if err != nil {
			return nil, "", cmd.Share.kept(s, err)
		}
		result, text := madeShare(s, cmd.Share)
		return result, text, nil
	}, client.WithStore(cmd.Share.store), client.WithOwner(cmd.Owner), client.WithDisplayName(cmd.Name), client.WithCurves(cmd.Curves...))
}

type backupCmd struct {
	serviceFlags
	passwordFlags
	Share string    `help:"File with a signing share." required:"" placeholder:"FILE"`
	Out   shareFile `help:"New file for the encrypted backup, an age file." required:"" placeholder:"FILE"`

	WorkFactor int `help:"Work of each guess at the password: scrypt with N = 2^LOGN, 15 to 20 (default: ${default}). Making and opening the backup take as many KiB of memory: 15 takes 32 MiB, 18 takes 256 MiB, 20 takes 1 GiB; each step doubles the time." default:"18" enum:"15,16,17,18,19,20" placeholder:"LOGN"`
}

// Run makes a backup, writes it, reads it back, and only then makes it count.
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

// kept adds to an error what became of the share where there is one.
func (f shareFile) kept(s *client.Share, err error) error {
	switch {
	case s == nil:
		return err
	case errors.Is(err, client.ErrNotRevoked):
		return fmt.Errorf("%w\nThe new share is kept in %s. Revoke the rest with \"mpcd wallet revoke --wallet %s --set SET\"", err, f, s.WalletID())
	default:
		return unconfirmed(err, s.WalletID(), s.ShareSetID(), string(f))
	}
}

var errUncounted = errors.New("the new share set is not confirmed")

// unconfirmed is an error after a file was written whose share set may not count.
func unconfirmed(err error, walletID, setID, file string) error {
	return fmt.Errorf("%w: %w\n%s is written, but the service may not count it. If \"mpcd wallet show --wallet %s\" has set %s as ACTIVE, keep the file; otherwise delete it and run the command again",
		errUncounted, err, file, walletID, setID)
}

// backupFlags name an existing backup and what opens it.
type backupFlags struct {
	passwordFlags
	Backup string `help:"File with the encrypted backup: an age file, binary or in ASCII armor." required:"" placeholder:"FILE"`
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

// Run decrypts a backup. It calls nobody.
func (cmd *decryptCmd) Run(ctx context.Context) error {
	text, err := cmd.cipherText()
	if err != nil {
		return err
	}
	password, err := cmd.password(ctx, false)
	if err != nil {
		return err
	}
	c, err := client.New(nowhere{}, password)
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

// nowhere is the connection of a command that makes no call.
type nowhere struct{ grpc.ClientConnInterface }

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
		if err := cmd.sameWallet(ctx, c, text); err != nil {
			return nil, "", err
		}
		var s *client.Share
		if len(revoke) > 0 {
			s, err = c.RecoverWallet(ctx, text, cmd.Method, revoke, report)
		} else {
			s, err = c.ProvisionWallet(ctx, text, cmd.Method, report)
		}
		if err != nil {
			return nil, "", cmd.Share.kept(s, err)
		}
		result, out := madeShare(s, cmd.Share)
		return result, out, nil
	}, client.WithStore(cmd.Share.store), client.WithDisplayName(cmd.Name), password)
}

// sameWallet holds the backup against --wallet, where that is given.
func (cmd *provisionCmd) sameWallet(ctx context.Context, c *client.Client, text string) error {
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
	Revoke []id `help:"SIGNING set of a lost device, revoked once this device is provisioned; repeatable." required:"" placeholder:"SET"`
}

// Run provisions this device and revokes the lost ones.
func (cmd *recoverCmd) Run(ctx context.Context) error {
	var sets []string
	for _, set := range cmd.Revoke {
		sets = append(sets, string(set))
	}
	return cmd.run(ctx, sets)
}

type signCmd struct {
	serviceFlags
	Share   string       `help:"File with a signing share." required:"" placeholder:"FILE"`
	Curve   client.Curve `help:"SECP256K1 or ED25519." required:"" enum:"SECP256K1,ED25519" placeholder:"CURVE"`
	Payload string       `help:"In hex: a 32-byte digest for SECP256K1, the message for ED25519." required:"" placeholder:"HEX"`
}

// Run signs.
func (cmd *signCmd) Run(ctx context.Context) error {
	payload, err := hex.DecodeString(cmd.Payload)
	if err != nil {
		return usageError{errors.New("--payload is not hex")}
	}
	s, err := readShare(cmd.Share)
	if err != nil {
		return err
	}
	return cmd.quiet(func(c *client.Client) (any, string, error) {
		sig, err := c.Sign(ctx, s, cmd.Curve, payload)
		if err != nil {
			return nil, "", err
		}
		return struct {
			ShareSetID string       `json:"shareSetId"`
			Curve      client.Curve `json:"curve"`
			PublicKey  string       `json:"publicKey"`
			Payload    string       `json:"payload"`
			Signature  string       `json:"signature"`
			RecoveryID uint32       `json:"recoveryId"`
		}{sig.ShareSetID, cmd.Curve, hex.EncodeToString(sig.PublicKey), cmd.Payload, hex.EncodeToString(sig.Bytes), sig.RecoveryID}, hex.EncodeToString(sig.Bytes) + "\n", nil
	})
}

type showCmd struct {
	serviceFlags
	Wallet id `help:"The wallet's id." required:"" placeholder:"ID"`
}

// Run shows a wallet.
func (cmd *showCmd) Run(ctx context.Context) error {
	return cmd.quiet(func(c *client.Client) (any, string, error) {
		return printed(c.GetWallet(ctx, string(cmd.Wallet)))
	})
}

func printed(w *client.Wallet, err error) (any, string, error) {
	if err != nil {
		return nil, "", err
	}
	v := viewWallet(w)
	return v, v.text(), nil
}

type listCmd struct {
	serviceFlags
	Owner string `help:"Whose wallets; the caller's by default." placeholder:"NAME"`
}

// Run lists wallets.
func (cmd *listCmd) Run(ctx context.Context) error {
	return cmd.quiet(func(c *client.Client) (any, string, error) {
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

type revokeCmd struct {
	serviceFlags
	Wallet          id   `help:"The wallet's id." required:"" placeholder:"ID"`
	Set             id   `help:"The share set's id." required:"" placeholder:"ID"`
	KeepDescendants bool `help:"Leave the sets alone that were made from it."`
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
	return cmd.quiet(func(c *client.Client) (any, string, error) {
		return printed(c.Revoke(ctx, string(cmd.Wallet), string(cmd.Set), opts...))
	})
}

type releaseCmd struct {
	serviceFlags
	Wallet id `help:"The wallet's id." required:"" placeholder:"ID"`
	Set    id `help:"The share set's id." required:"" placeholder:"ID"`
}

// Run releases a share set.
func (cmd *releaseCmd) Run(ctx context.Context) error {
	return cmd.quiet(func(c *client.Client) (any, string, error) {
		return printed(c.Release(ctx, string(cmd.Wallet), string(cmd.Set)))
	})
}
