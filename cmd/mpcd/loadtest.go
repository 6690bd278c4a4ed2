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

// loadtestCmd groups the commands for load tests.
type loadtestCmd struct {
	Seed seedCmd `cmd:"" help:"Create wallets and backups, and data files with calls for ghz."`
}

type seedCmd struct {
	serviceFlags
	Wallets int            `help:"How many wallets to make." required:"" placeholder:"N"`
	Calls   int            `help:"How many ProvisionWallet calls the files must allow; more wallets are made if needed." placeholder:"N"`
	Out     shareFile      `help:"New file with ProvisionWallet requests. Sign and GetWallet requests go to files next to it: data-sign.json, data-get-wallet.json." required:"" placeholder:"FILE"`
	Curves  []client.Curve `help:"The wallets' curves; both by default." enum:"SECP256K1,ED25519" default:"SECP256K1,ED25519" placeholder:"CURVE"`
}

// Help describes the files.
func (s *seedCmd) Help() string {
	return `The files contain real shares in the clear: use them for load tests only, against a service
that is deleted afterwards. They are written with mode 0600 once all wallets are created.
Their request_id is {{newUUID}}, which ghz replaces in every call: a fixed one would measure
how fast calls attach to an existing session.

Each ProvisionWallet call leaves an unconfirmed share set. A wallet has at most 16 of them,
which expire after 15 minutes ("mpcd serve --pending-sets" and "--result-ttl" change these
limits); further calls fail with TOO_MANY_PENDING. The command prints how many calls the
files allow.`
}

// callsPerWallet is the default limit of unconfirmed sets of a wallet, and so the number of ProvisionWallet calls that
// a wallet allows before the first of these sets expires.
var callsPerWallet = session.DefaultConfig().PendingSets

// count returns how many wallets to create.
func (s *seedCmd) count() int {
	return max(s.Wallets, (s.Calls+callsPerWallet-1)/callsPerWallet)
}

// why explains, for the output, why more wallets are created than --wallets asks for. It returns "" if there are not.
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
	for _, f := range []shareFile{s.sibling("sign"), s.sibling("get-wallet")} {
		if err := f.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// sibling returns the file, in the same folder, for the requests of another RPC.
func (s *seedCmd) sibling(rpc string) shareFile {
	ext := filepath.Ext(string(s.Out))
	return shareFile(strings.TrimSuffix(string(s.Out), ext) + "-" + rpc + ext)
}

// ghzUUID is ghz's placeholder for a new UUID in every call.
const ghzUUID = "{{newUUID}}"

// The requests, in the API's JSON form. ghz sends them in turn.
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

// seeded has the requests for the wallets created so far.
type seeded struct {
	provision []provisionRequest
	sign      []signRequest
	getWallet []getWalletRequest
}

// Run creates the wallets and then writes the files.
func (s *seedCmd) Run(ctx context.Context) error {
	inMemory := func(context.Context, *client.Share) error { return nil } // the files are written at the end
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
			}{n, s.Out, n * callsPerWallet, s.sibling("sign"), s.sibling("get-wallet")},
			fmt.Sprintf("%d wallets%s\nProvisionWallet  %s  good for %d calls in 15 minutes, %d for each wallet\n"+
				"Sign             %s\nGetWallet        %s\n",
				n, s.why(), s.Out, n*callsPerWallet, callsPerWallet, s.sibling("sign"), s.sibling("get-wallet")),
			nil
	}, client.WithStore(inMemory), client.WithCurves(s.Curves...), client.WithDisplayName("loadtest"),
		client.WithCloudKey(seedMethod, new(seedKeys)))
}

// steps returns a function that reports the progress of the whole command, for step 0 or 1 of wallet i.
func (s *seedCmd) steps(i int, report client.ProgressFunc) func(step int, what string) {
	return func(step int, what string) {
		done := uint32(100 * (2*i + step) / (2 * s.count())) //nolint:gosec // G115: at most 100
		report(client.Progress{Status: fmt.Sprintf("%s %d of %d", what, i+1, s.count()), Percent: done})
	}
}

// wallet creates one wallet and its backup, and adds the requests for them.
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
			WalletID: id, RequestID: ghzUUID, SigningShare: share.Bytes(),
			Curve: "CURVE_" + string(curve), Payload: payload,
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
	}{{s.Out, made.provision}, {s.sibling("sign"), made.sign}, {s.sibling("get-wallet"), made.getWallet}} {
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

// seedMethod is not PASSWORD, whose key takes a second to derive.
const seedMethod = client.MethodCustom

// seedKeys keeps the backups' keys in memory.
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
