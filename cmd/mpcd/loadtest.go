package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/session"
)

// loadtestCmd groups what a load generator needs.
type loadtestCmd struct {
	Seed seedCmd `cmd:"" help:"Make wallets and backups, and the data files with which ghz calls for them."`
}

type seedCmd struct {
	serviceFlags
	Wallets int            `help:"How many wallets to make." required:"" placeholder:"N"`
	Calls   int            `help:"How many ProvisionWallet calls the files must be good for; more wallets are made where they need more." placeholder:"N"`
	Out     shareFile      `help:"New file with ProvisionWallet requests. Sign and GetWallet requests come into new files beside it, as in data-sign.json and data-get-wallet.json." required:"" placeholder:"FILE"`
	Curves  []client.Curve `help:"The wallets' curves; both by default." enum:"SECP256K1,ED25519" default:"SECP256K1,ED25519" placeholder:"CURVE"`
}

// Help says what flags alone do not.
func (s *seedCmd) Help() string {
	return `The files hold real shares, in the clear: for load tests only, against a service that is
thrown away afterwards. They are written with mode 0600 when all wallets are made. A
request_id stands in them as {{newUUID}}, which ghz replaces in every call: a fixed one
would measure how fast a call attaches to the session that is there.

Each ProvisionWallet call leaves a share set that nobody confirms. A wallet has at most 16 of
them for the 15 minutes until they expire ("mpcd serve --pending-sets" and "--result-ttl"
set other bounds); what goes beyond is answered TOO_MANY_PENDING. It is printed how many calls
the files are good for.`
}

// callsPerWallet is how many unconfirmed sets a wallet may have where the service is not told
// otherwise, and so how many ProvisionWallet calls it is good for before the first of them expires.
var callsPerWallet = session.DefaultConfig().PendingSets

// count is how many wallets to make.
func (s *seedCmd) count() int {
	return max(s.Wallets, (s.Calls+callsPerWallet-1)/callsPerWallet)
}

// why says that more wallets were made than --wallets asks for, or nothing.
func (s *seedCmd) why() string {
	if s.count() <= s.Wallets {
		return ""
	}
	return fmt.Sprintf(" (more than --wallets %d: a wallet is good for %d calls, and --calls %d needs %d wallets)",
		s.Wallets, callsPerWallet, s.Calls, s.count())
}

// Validate is called by kong.
func (s *seedCmd) Validate() error {
	if s.Wallets < 1 {
		return fmt.Errorf("--wallets %d: at least one is needed", s.Wallets)
	}
	if s.Calls < 0 {
		return fmt.Errorf("--calls %d: it is not negative", s.Calls)
	}
	for _, f := range []shareFile{s.beside("sign"), s.beside("get-wallet")} {
		if err := f.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// beside returns the file for the requests of another RPC.
func (s *seedCmd) beside(rpc string) shareFile {
	ext := filepath.Ext(string(s.Out))
	return shareFile(strings.TrimSuffix(string(s.Out), ext) + "-" + rpc + ext)
}

// ghzUUID is what ghz replaces by a new UUID in every call.
const ghzUUID = "{{newUUID}}"

// The requests, in the JSON form of the API; ghz goes through them in turn.
type (
	provisionRequest struct {
		WalletID    string `json:"wallet_id"`
		RequestID   string `json:"request_id"`
		BackupShare []byte `json:"backup_share"` // base64, as in the API
	}
	signRequest struct {
		WalletID     string `json:"wallet_id"`
		RequestID    string `json:"request_id"`
		SigningShare []byte `json:"signing_share"`
		Curve        string `json:"curve"`
		Payload      []byte `json:"payload"`
	}
	getWalletRequest struct {
		WalletID string `json:"wallet_id"`
	}
)

// seeded is what was made so far.
type seeded struct {
	provision []provisionRequest
	sign      []signRequest
	getWallet []getWalletRequest
}

// Run makes the wallets and then writes the files.
func (s *seedCmd) Run(ctx context.Context) error {
	keep := func(context.Context, *client.Share) error { return nil } // until the files are written
	return s.call("seed", func(c *client.Client, report client.ProgressFunc) (any, string, error) {
		var made seeded
		n := s.count()
		for i := range n {
			if err := made.wallet(ctx, c, s.steps(i, report)); err != nil {
				return nil, "", fmt.Errorf("wallet %d of %d: %w", i+1, n, err)
			}
		}
		if err := s.write(&made); err != nil {
			return nil, "", err
		}
		return struct {
				Wallets        int       `json:"wallets"`
				Provision      shareFile `json:"provision"`
				ProvisionCalls int       `json:"provisionCalls"`
				Sign           shareFile `json:"sign"`
				GetWallet      shareFile `json:"getWallet"`
			}{n, s.Out, n * callsPerWallet, s.beside("sign"), s.beside("get-wallet")},
			fmt.Sprintf("%d wallets%s\nProvisionWallet  %s  good for %d calls in 15 minutes, %d for each wallet\n"+
				"Sign             %s\nGetWallet        %s\n",
				n, s.why(), s.Out, n*callsPerWallet, callsPerWallet, s.beside("sign"), s.beside("get-wallet")),
			nil
	}, client.WithStore(keep), client.WithCurves(s.Curves...), client.WithDisplayName("loadtest"),
		client.WithCloudKey(seedMethod, new(seedKeys)))
}

// steps turns the two operations of wallet i into the progress of the whole.
func (s *seedCmd) steps(i int, report client.ProgressFunc) func(half int, what string) {
	return func(half int, what string) {
		done := uint32(100 * (2*i + half) / (2 * s.count())) //nolint:gosec // G115: at most 100
		report(client.Progress{Status: fmt.Sprintf("%s %d of %d", what, i+1, s.count()), Percent: done})
	}
}

// wallet makes one wallet and its backup, and adds the requests for them.
func (d *seeded) wallet(ctx context.Context, c *client.Client, step func(int, string)) error {
	step(0, "Wallet")
	share, err := c.CreateWallet(ctx, nil)
	if err != nil {
		return err
	}
	step(1, "Backup")
	b, err := c.BackupWallet(ctx, share, seedMethod, nil)
	if err != nil {
		return err
	}
	if err := c.ConfirmBackup(ctx, b, b.CipherText); err != nil {
		return err
	}
	backup, err := c.DecryptBackup(ctx, b.CipherText, seedMethod)
	if err != nil {
		return err
	}
	id := share.WalletID()
	d.provision = append(d.provision, provisionRequest{WalletID: id, RequestID: ghzUUID, BackupShare: backup.Bytes()})
	d.getWallet = append(d.getWallet, getWalletRequest{WalletID: id})
	for _, curve := range share.Curves() {
		payload := make([]byte, 32) // a digest, or a message
		if _, err := rand.Read(payload); err != nil {
			return err
		}
		d.sign = append(d.sign, signRequest{
			WalletID: id, RequestID: ghzUUID, SigningShare: share.Bytes(), Curve: "CURVE_" + string(curve), Payload: payload,
		})
	}
	return nil
}

// write writes the files, or none of them.
func (s *seedCmd) write(made *seeded) error {
	var written []string
	for _, f := range []struct {
		path shareFile
		data any
	}{{s.Out, made.provision}, {s.beside("sign"), made.sign}, {s.beside("get-wallet"), made.getWallet}} {
		b, err := json.MarshalIndent(f.data, "", "  ")
		if err == nil {
			err = writeNew(string(f.path), append(b, '\n'))
		}
		if err != nil {
			for _, path := range written {
				err = errors.Join(err, os.Remove(path))
			}
			return err
		}
		written = append(written, string(f.path))
	}
	return nil
}

// seedMethod is one whose key costs nothing to derive, where a password's takes a second.
const seedMethod = client.MethodCustom

// seedKeys keeps the backups' keys for as long as they are needed, in memory.
type seedKeys struct{ byID sync.Map }

// PutKey implements client.KeyStorage.
func (k *seedKeys) PutKey(_ context.Context, shareSetID, key string) error {
	k.byID.Store(shareSetID, key)
	return nil
}

// GetKey implements client.KeyStorage.
func (k *seedKeys) GetKey(_ context.Context, shareSetID string) (string, error) {
	if key, ok := k.byID.Load(shareSetID); ok {
		return fmt.Sprint(key), nil
	}
	return "", fmt.Errorf("no key for share set %s", shareSetID)
}
