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
	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/session"
)

type demoCmd struct {
	JSON       bool `help:"Print one JSON object and nothing else on standard output."`
	DeviceHeld bool `help:"Run the client's side on the devices, and show after each step where shares were found."`
}

// demoResult is the demo's JSON output. Documents and tests rely on its form.
type demoResult struct {
	WalletID   string             `json:"walletId"`
	Progress   []demoProgress     `json:"progress"`
	Keys       []demoKey          `json:"keys"`
	ShareSets  []demoShareSet     `json:"shareSets"`
	CipherText string             `json:"cipherText"`
	Password   string             `json:"password"`
	Signatures []demoSignature    `json:"signatures"`
	Seconds    map[string]float64 `json:"seconds"`
	Held       []demoHeld         `json:"held,omitempty"` // with --device-held, after each step
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

// Run creates a wallet, backs it up, provisions a second device from nothing but the backup and its password, and
// signs, all in one process with an embedded service.
func (d *demoCmd) Run(ctx context.Context) (err error) {
	svc, err := startEmbedded(ctx)
	if ctx.Err() != nil && err != nil {
		return errInterrupted // err itself is the database's
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, svc.stop()) }()
	show := newView(os.Stdout, false)
	if d.JSON {
		show = newView(os.Stderr, true)
	}
	p := &demoRun{
		embedded: svc, deviceHeld: d.DeviceHeld, show: show, result: demoResult{Seconds: map[string]float64{}},
	}
	if err := p.run(ctx); ctx.Err() != nil {
		return errInterrupted
	} else if err != nil {
		return err
	}
	if d.JSON {
		return json.NewEncoder(os.Stdout).Encode(p.result) //nolint:gosec // G117: the demo shows its own password
	}
	return p.result.show()
}

// embedded is a service in this process, and an in-memory connection to it.
type embedded struct {
	*app.App
	conn *grpc.ClientConn
	dir  string // a temporary folder, with its database and the devices' folders
	stop func() error
}

func (e *embedded) database() string { return filepath.Join(e.dir, "demo.db") }

// startEmbedded starts a service. Its keyset exists only in memory.
func startEmbedded(ctx context.Context) (e *embedded, err error) {
	e = &embedded{}
	if e.dir, err = os.MkdirTemp("", "mpcd-demo-"); err != nil {
		return nil, err
	}
	remove := func() error { return os.RemoveAll(e.dir) }
	keyset, err := seal.Ephemeral()
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	// Without a pool each run generates its own pre-params, so that the demo does so before its user's eyes.
	e.App, err = app.Open(ctx, app.Options{
		DB: "sqlite://" + e.database(), Keyset: keyset, Auth: app.DevCaller,
		Sessions: session.Config{RequireSealTo: true}, Pool: preparams.Config{MaxAge: time.Hour},
		Worker: (&workerFlags{memory: workerMemory, cpu: workerCPU}).config(),
	}, log)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	pipe := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() { served <- e.Server.Serve(ctx, server.Listeners{GRPC: pipe}, time.Second) }() // ends with stop
	end := func() error {
		cancel()
		return errors.Join(<-served, e.Close(), remove())
	}
	e.conn, err = grpc.NewClient("passthrough:///demo",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // memory, not a network
	)
	if err != nil {
		return nil, errors.Join(err, end())
	}
	e.stop = func() error { return errors.Join(e.conn.Close(), end()) }
	return e, nil
}

// demoRun is the state of a running demo.
type demoRun struct {
	*embedded
	deviceHeld    bool
	first, second *demoDevice
	show          *view
	result        demoResult
}

// demoDevice is a simulated device.
type demoDevice struct {
	*client.Client
	name      string
	share     []byte       // an app would use the platform's key store
	preParams preParamsDir // empty: the device needs none
}

func (p *demoRun) device(name string) (*demoDevice, error) {
	d := &demoDevice{name: name}
	store := func(_ context.Context, s *client.Share) error {
		d.share = s.Bytes()
		return nil
	}
	opts := []client.Option{client.WithDisplayName(name), client.WithStore(store)}
	if p.deviceHeld {
		key, err := client.NewPreParamsKey() // an app would store it in the platform's key store
		if err != nil {
			return nil, err
		}
		d.preParams = preParamsDir(filepath.Join(p.dir, name))
		if err := os.Mkdir(string(d.preParams), 0o700); err != nil {
			return nil, err
		}
		opts = append(opts, client.WithDeviceHeldShares(), client.WithPreParamsStore(d.preParams, key))
	}
	var err error
	if d.Client, err = client.New(p.conn, opts...); err != nil {
		return nil, err
	}
	return d, d.SetPassword(p.result.Password)
}

func (p *demoRun) run(ctx context.Context) (err error) {
	p.result.Password = rand.Text()
	if p.first, err = p.device("first"); err != nil {
		return err
	}
	if p.second, err = p.device("second"); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"prewarm", p.prewarm}, {"create", p.create}, {"backup", p.backup}, {"provision", p.provision}, {"sign", p.sign},
	} {
		if s.name == "prewarm" && !p.deviceHeld {
			continue // both sides run in the service
		}
		start := time.Now()
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		p.result.Seconds[s.name] = time.Since(start).Seconds()
		if err := p.inspect(ctx, s.name); err != nil {
			return fmt.Errorf("after %s: %w", s.name, err)
		}
	}
	return nil
}

// operation runs one operation, shows its progress and records it.
func (p *demoRun) operation(name string, run func(client.ProgressFunc) error) error {
	report, end := p.show.operation(name)
	err := run(func(pr client.Progress) {
		p.result.Progress = append(p.result.Progress, demoProgress{
			pr.Status, pr.Done, pr.Percent, pr.Operation, pr.Curve, pr.Round, pr.Rounds,
		})
		report(pr)
	})
	end(err)
	return err
}

// prewarm generates the pre-params of each device: the first will make two new shares, the second one.
func (p *demoRun) prewarm(ctx context.Context) error {
	for _, d := range []struct {
		*demoDevice
		sets int
	}{{p.first, 2}, {p.second, 1}} {
		if _, _, err := prewarm(ctx, d.Client, d.sets, p.show); err != nil {
			return err
		}
	}
	return nil
}

func (p *demoRun) create(ctx context.Context) error {
	err := p.operation("create", func(report client.ProgressFunc) error {
		share, err := p.first.CreateWallet(ctx, report)
		if err == nil {
			p.result.WalletID = share.WalletID()
			set := demoShareSet{share.ShareSetID(), share.Purpose(), p.first.name}
			p.result.ShareSets = append(p.result.ShareSets, set)
		}
		return err
	})
	if err != nil {
		return err
	}
	w, err := p.first.GetWallet(ctx, p.result.WalletID)
	if err != nil {
		return err
	}
	for _, k := range w.PublicKeys {
		p.result.Keys = append(p.result.Keys, demoKey{k.Curve, hex.EncodeToString(k.Bytes)})
	}
	return nil
}

func (p *demoRun) backup(ctx context.Context) error {
	return p.operation("backup", func(report client.ProgressFunc) error {
		share, err := client.ParseShare(p.first.share)
		if err != nil {
			return err
		}
		b, err := p.first.BackupWallet(ctx, share, client.MethodPassword, report)
		if err != nil {
			return err
		}
		p.result.CipherText = b.CipherText // an app would send it to its own API, and read it back
		p.result.ShareSets = append(p.result.ShareSets, demoShareSet{ID: b.ShareSetID, Purpose: client.PurposeBackup})
		return p.first.ConfirmBackup(ctx, b, p.result.CipherText)
	})
}

// provision provisions the second device, which has only the ciphertext and the password.
func (p *demoRun) provision(ctx context.Context) error {
	return p.operation("provision", func(report client.ProgressFunc) error {
		share, err := p.second.ProvisionWallet(ctx, p.result.CipherText, client.MethodPassword, report)
		if err == nil {
			set := demoShareSet{share.ShareSetID(), share.Purpose(), p.second.name}
			p.result.ShareSets = append(p.result.ShareSets, set)
		}
		return err
	})
}

// sign signs with both devices on all curves: the old set is still valid after the second one was made.
func (p *demoRun) sign(ctx context.Context) error {
	for _, d := range []*demoDevice{p.first, p.second} {
		share, err := client.ParseShare(d.share)
		if err != nil {
			return err
		}
		for _, curve := range share.Curves() {
			payload := []byte("mpcd demo: " + share.ShareSetID())
			if curve == client.CurveSecp256k1 {
				digest := sha256.Sum256(payload)
				payload = digest[:]
			}
			sig, err := d.Sign(ctx, share, curve, payload) // fails unless the signature verifies
			if err != nil {
				return err
			}
			p.result.Signatures = append(p.result.Signatures, demoSignature{
				sig.ShareSetID, curve, hex.EncodeToString(payload), hex.EncodeToString(sig.Bytes), true,
			})
		}
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
	if s, ok := r.Seconds["prewarm"]; ok {
		out += fmt.Sprintf("seconds, before all that, for the devices' pre-params: %.1f\n", s)
	}
	out += fmt.Sprintf("seconds: create %.1f, backup %.1f, provision %.1f, %d signatures %.1f\n",
		r.Seconds["create"], r.Seconds["backup"], r.Seconds["provision"], len(r.Signatures), r.Seconds["sign"])
	_, err := fmt.Print(out)
	return err
}
