package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// rig is a running mpcd: the service as `mpcd serve --dev` wires it, with its own SQLite file and loopback port.
type rig struct {
	svc   *app.App
	addr  string
	stop  func() error
	keys  *cloud
	creds credentials.TransportCredentials
	token credentials.PerRPCCredentials // nil: callers name themselves
}

// setsPerRun is what a run on SECP256K1 takes from the pool: one set for each side.
const setsPerRun = 2

// openRig starts a service whose pool is filled in the background to the given depth; 0 leaves filling to stock. more
// modifies its options.
func openRig(ctx context.Context, fill int, more ...func(*app.Options)) (*rig, error) {
	dir, err := os.MkdirTemp("", "mpcbench-")
	if err != nil {
		return nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	keyset, err := seal.Ephemeral()
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	options := app.Options{
		DB: "sqlite://" + filepath.Join(dir, "bench.db"), Keyset: keyset, Auth: namedCaller,
		Sessions: session.Config{RequireSealTo: true, PendingSets: endless},
		Pool:     preparams.Config{Depth: fill, MaxAge: 24 * time.Hour},
	}
	for _, change := range more {
		change(&options)
	}
	svc, err := app.Open(ctx, options, log)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, svc.Close(), remove())
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- svc.Server.Serve(serving, server.Listeners{GRPC: lis}, time.Second) }()      // ends with cancel
	r := &rig{svc: svc, addr: lis.Addr().String(), creds: insecure.NewCredentials(), keys: new(cloud)} // loopback
	r.stop = func() error {
		cancel()
		return errors.Join(<-served, svc.Close(), remove())
	}
	return r, nil
}

// caller is one device with its own connection.
type caller struct {
	*client.Client
	meter *meter
	conn  *grpc.ClientConn
}

// dialAs connects a device of a caller, whose calls are metered.
func (r *rig) dialAs(ctx context.Context, who string, opts ...client.Option) (*caller, error) {
	m := new(meter)
	var token credentials.PerRPCCredentials = callerName(who)
	if r.token != nil {
		token = r.token
	}
	conn, err := grpc.NewClient("passthrough:///"+r.addr,
		grpc.WithTransportCredentials(r.creds),
		grpc.WithStatsHandler(m), grpc.WithContextDialer(m.dial), grpc.WithPerRPCCredentials(token),
	)
	if err != nil {
		return nil, err
	}
	kept := func(context.Context, *client.Share) error { return nil } // a device would write it to its key store
	c, err := client.New(conn, append(opts, client.WithStore(kept), client.WithCloudKey(method, r.keys))...)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// Connect now, so that no measured call includes it.
	for _, err := range c.ListWallets(ctx) {
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		break
	}
	return &caller{Client: c, meter: m, conn: conn}, nil
}

// method has a key that takes no time to derive: a password's would take longer than many a run.
const method = client.MethodCustom

// cloud is a user's cloud storage.
type cloud struct{ keys sync.Map }

// PutKey implements client.KeyStorage.
func (c *cloud) PutKey(_ context.Context, id, key string) error {
	c.keys.Store(id, key)
	return nil
}

// GetKey implements client.KeyStorage.
func (c *cloud) GetKey(_ context.Context, id string) (string, error) {
	if key, ok := c.keys.Load(id); ok {
		return fmt.Sprint(key), nil
	}
	return "", fmt.Errorf("no key for share set %s", id)
}

// wallet makes a wallet and returns the ciphertext of a backup of it.
func (r *rig) wallet(ctx context.Context, curves []client.Curve, more ...client.Option) (cipherText string, err error) {
	c, err := r.dial(ctx, append(more, client.WithCurves(curves...))...)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.conn.Close()) }()
	share, err := c.CreateWallet(ctx, nil)
	if err != nil {
		return "", fmt.Errorf("create a wallet: %w", err)
	}
	defer share.Wipe()
	backup, err := c.BackupWallet(ctx, share, method, nil)
	if err != nil {
		return "", fmt.Errorf("back a wallet up: %w", err)
	}
	if err := c.ConfirmBackup(ctx, backup, backup.CipherText); err != nil {
		return "", fmt.Errorf("back a wallet up: %w", err)
	}
	return backup.CipherText, nil
}

// provision makes one more share, from the ciphertext to the confirmed share set.
func (c *caller) provision(ctx context.Context, cipherText string) error {
	share, err := c.ProvisionWallet(ctx, cipherText, method, nil)
	if err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	share.Wipe()
	return nil
}

// depth returns how many sets the pool has.
func (r *rig) depth(ctx context.Context) (int, error) {
	st, err := r.svc.Pool.Status(ctx)
	return st.Depth(), err
}

// stock fills the pool to exactly n sets, half for each party; an odd one is the server's.
func (r *rig) stock(ctx context.Context, n int) error {
	if err := r.stockFor(ctx, tss.Client, n/2); err != nil {
		return err
	}
	return r.stockFor(ctx, tss.Server, (n+1)/2)
}

func (r *rig) stockFor(ctx context.Context, party tss.Party, n int) error {
	for {
		st, err := r.svc.Pool.Status(ctx)
		have := st.Sets[party]
		if err != nil || have == n {
			return err
		}
		if have > n {
			pp, err := r.svc.Pool.Claim(ctx, party)
			if err != nil {
				return err
			}
			pp.Wipe()
			continue
		}
		pp, err := tss.GeneratePreParams(ctx, 0)
		if err != nil {
			return err
		}
		if err := r.svc.Pool.Add(ctx, party, pp); err != nil {
			return err
		}
	}
}
