package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/service"
	"github.com/mpcd/mpcd/internal/session"
)

type demoCmd struct {
	JSON bool `help:"Print one JSON object and nothing else on standard output."`
}

// demoResult is what the demo did, in the shape that docs and checks rely on.
type demoResult struct {
	WalletID   string             `json:"walletId"`
	Progress   []demoProgress     `json:"progress"`
	Keys       []demoKey          `json:"keys"`
	ShareSets  []demoShareSet     `json:"shareSets"`
	CipherText string             `json:"cipherText"`
	Password   string             `json:"password"`
	Signatures []demoSignature    `json:"signatures"`
	Seconds    map[string]float64 `json:"seconds"`
}

type demoProgress struct {
	Status    string `json:"status"`
	Done      bool   `json:"done"`
	Percent   uint32 `json:"percent"`
	Operation string `json:"operation"`
	Curve     string `json:"curve,omitempty"`
	Round     uint32 `json:"round,omitempty"`
	Rounds    uint32 `json:"rounds,omitempty"`
}

type demoKey struct {
	Curve     client.Curve `json:"curve"`
	PublicKey string       `json:"publicKey"` // hex
}

type demoShareSet struct {
	ID      string         `json:"id"`
	Purpose client.Purpose `json:"purpose"`
	Device  string         `json:"device,omitempty"`
}

type demoSignature struct {
	ShareSetID string       `json:"shareSetId"`
	Curve      client.Curve `json:"curve"`
	Payload    string       `json:"payload"`   // hex; a digest for SECP256K1, the message for ED25519
	Signature  string       `json:"signature"` // hex, 64 bytes
	Verified   bool         `json:"verified"`
}

// Run plays a wallet's life in one process: a service on an embedded database, a first
// device, a backup, and a second device that has nothing but the backup and its password.
func (d *demoCmd) Run(ctx context.Context) (err error) {
	conn, stop, err := embedded(ctx)
	if ctx.Err() != nil && err != nil {
		return errInterrupted // its own words are the database's
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	show := newView(os.Stdout, false)
	if d.JSON {
		show = newView(os.Stderr, true)
	}
	p := &play{conn: conn, show: show, result: demoResult{Seconds: map[string]float64{}}}
	if err := p.all(ctx); ctx.Err() != nil {
		return errInterrupted
	} else if err != nil {
		return err
	}
	if d.JSON {
		return json.NewEncoder(os.Stdout).Encode(p.result) //nolint:gosec // G117: the demo shows its own password
	}
	return p.result.show()
}

// embedded starts a service in this process and connects to it through memory. Its
// database is in a temporary folder, its keyset nowhere.
func embedded(ctx context.Context) (conn *grpc.ClientConn, stop func() error, err error) {
	dir, err := os.MkdirTemp("", "mpcd-demo-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	keyset, err := seal.Ephemeral()
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	// No pool: each run makes its own pre-params, while somebody watches.
	svc, err := service.Open(ctx, service.Options{
		DB: "sqlite://" + filepath.Join(dir, "demo.db"), Keyset: keyset, Auth: service.DevCaller,
		Sessions: session.Config{RequireSealTo: true}, Pool: preparams.Config{MaxAge: time.Hour},
		Worker: workerConfig(0, workerMemory, workerCPU),
	}, log)
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	pipe := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() { served <- svc.Server.Serve(ctx, server.Listeners{GRPC: pipe}, time.Second) }() // ends with stop
	stop = func() error {
		cancel()
		return errors.Join(<-served, svc.Close(), remove())
	}
	conn, err = grpc.NewClient("passthrough:///demo",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // memory, not a network
	)
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	end := stop
	return conn, func() error { return errors.Join(conn.Close(), end()) }, nil
}

// play is the demo while it runs.
type play struct {
	conn   *grpc.ClientConn
	show   *view
	result demoResult
}

// device returns the SDK as one device would use it, and where its share will be.
func (p *play) device(name string) (*client.Client, *[]byte, error) {
	stored := new([]byte)
	c, err := client.New(p.conn, client.WithDisplayName(name), client.WithStore(func(_ context.Context, s *client.Share) error {
		*stored = s.Bytes() // an app would use the platform's key store
		return nil
	}))
	return c, stored, err
}

// operation times one operation and keeps its progress.
func (p *play) operation(name string, run func(client.ProgressFunc) error) error {
	report, end := p.show.operation(name)
	start := time.Now()
	err := run(func(pr client.Progress) {
		p.result.Progress = append(p.result.Progress, demoProgress{pr.Status, pr.Done, pr.Percent, pr.Operation, pr.Curve, pr.Round, pr.Rounds})
		report(pr)
	})
	end(err)
	p.result.Seconds[name] = time.Since(start).Seconds()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (p *play) all(ctx context.Context) error {
	first, firstShare, err := p.device("first")
	if err != nil {
		return err
	}
	second, secondShare, err := p.device("second")
	if err != nil {
		return err
	}
	p.result.Password = rand.Text()
	if err := errors.Join(first.SetPassword(p.result.Password), second.SetPassword(p.result.Password)); err != nil {
		return err
	}
	if err := p.create(ctx, first); err != nil {
		return err
	}
	if err := p.backup(ctx, first, *firstShare); err != nil {
		return err
	}
	// The second device has the ciphertext and the password, and nothing else.
	err = p.operation("provision", func(report client.ProgressFunc) error {
		share, err := second.ProvisionWallet(ctx, p.result.CipherText, client.MethodPassword, report)
		if err == nil {
			p.result.ShareSets = append(p.result.ShareSets, demoShareSet{share.ShareSetID(), share.Purpose(), "second"})
		}
		return err
	})
	if err != nil {
		return err
	}
	// The old set is as good as it was, now that there is a second one.
	start := time.Now()
	for _, d := range []struct {
		client *client.Client
		share  []byte
	}{{first, *firstShare}, {second, *secondShare}} {
		if err := p.sign(ctx, d.client, d.share); err != nil {
			return fmt.Errorf("sign: %w", err)
		}
	}
	p.result.Seconds["sign"] = time.Since(start).Seconds()
	return nil
}

func (p *play) create(ctx context.Context, first *client.Client) error {
	err := p.operation("create", func(report client.ProgressFunc) error {
		share, err := first.CreateWallet(ctx, report)
		if err == nil {
			p.result.WalletID = share.WalletID()
			p.result.ShareSets = append(p.result.ShareSets, demoShareSet{share.ShareSetID(), share.Purpose(), "first"})
		}
		return err
	})
	if err != nil {
		return err
	}
	w, err := first.GetWallet(ctx, p.result.WalletID)
	if err != nil {
		return err
	}
	for _, k := range w.PublicKeys {
		p.result.Keys = append(p.result.Keys, demoKey{k.Curve, hex.EncodeToString(k.Bytes)})
	}
	return nil
}

func (p *play) backup(ctx context.Context, first *client.Client, stored []byte) error {
	return p.operation("backup", func(report client.ProgressFunc) error {
		share, err := client.ParseShare(stored)
		if err != nil {
			return err
		}
		b, err := first.BackupWallet(ctx, share, client.MethodPassword, report)
		if err != nil {
			return err
		}
		p.result.CipherText = b.CipherText // an app would send it to its own API, and read it back
		p.result.ShareSets = append(p.result.ShareSets, demoShareSet{ID: b.ShareSetID, Purpose: client.PurposeBackup})
		return first.ConfirmBackup(ctx, b, p.result.CipherText)
	})
}

// sign signs with one device on all curves.
func (p *play) sign(ctx context.Context, c *client.Client, stored []byte) error {
	share, err := client.ParseShare(stored)
	if err != nil {
		return err
	}
	for _, curve := range share.Curves() {
		payload := []byte("mpcd demo: " + share.ShareSetID())
		if curve == client.CurveSecp256k1 {
			digest := sha256.Sum256(payload)
			payload = digest[:]
		}
		sig, err := c.Sign(ctx, share, curve, payload) // fails unless the signature verifies
		if err != nil {
			return err
		}
		p.result.Signatures = append(p.result.Signatures, demoSignature{
			sig.ShareSetID, curve, hex.EncodeToString(payload), hex.EncodeToString(sig.Bytes), true,
		})
	}
	return nil
}

func (r *demoResult) show() error {
	out := fmt.Sprintf("\nwallet %s\n", r.WalletID)
	for _, k := range r.Keys {
		out += fmt.Sprintf("  key  %-9s  %s\n", k.Curve, k.PublicKey)
	}
	for _, s := range r.ShareSets {
		out += strings.TrimRight(fmt.Sprintf("  set  %-9s  %s  %s", s.Purpose, s.ID, s.Device), " ") + "\n"
	}
	out += "signatures, made by both devices after the second was provisioned, verified under the wallet's keys:\n"
	for _, s := range r.Signatures {
		out += fmt.Sprintf("  set %s  %-9s  %s...\n", s.ShareSetID, s.Curve, s.Signature[:32])
	}
	out += fmt.Sprintf("backup: an age file, opened by the password %s\n", r.Password)
	out += fmt.Sprintf("seconds: create %.1f, backup %.1f, provision %.1f, %d signatures %.1f\n",
		r.Seconds["create"], r.Seconds["backup"], r.Seconds["provision"], len(r.Signatures), r.Seconds["sign"])
	_, err := fmt.Print(out)
	return err
}
