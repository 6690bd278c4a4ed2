package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mpcd/mpcd/client"
	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// crash is a SIGKILL at one moment of a provision: a random time after an event that the client sees.
type crash struct {
	name  string
	event string
	// after returns how long after the event the service is killed, given the duration of a run. nil: at once, while the
	// client waits.
	after  func(run time.Duration) time.Duration
	times  int  // how many kills, each in another attempt
	queued bool // another run has the only slot
}

// The events in addition to the API's statuses.
const (
	atCall       = "call"      // before the request is sent
	atStore      = "store"     // the app has stored the share; nothing is confirmed
	atConfirm    = "confirm"   // before ConfirmShareSet is sent
	atConfirmed  = "confirmed" // it was answered
	atGenerating = "STATUS_GENERATING_SHARE"
)

// upTo returns a random time below d.
func upTo(d time.Duration) func(time.Duration) time.Duration {
	return func(time.Duration) time.Duration { return rand.N(d) }
}

// within returns a random time below a fraction of the run's duration.
func within(part float64) func(time.Duration) time.Duration {
	return func(run time.Duration) time.Duration { return rand.N(time.Duration(part*float64(run)) + 1) }
}

// crashes has a crash for each persisted state of a provision (QUEUED, RUNNING, SUCCEEDED with a PENDING set, ACTIVE),
// for the transitions between them, and for arbitrary moments.
var crashes = []crash{
	{name: "any moment", event: atCall, after: within(1.3), times: 1},
	{name: "queued", event: "STATUS_QUEUED", after: upTo(30 * time.Millisecond), times: 1, queued: true},
	{name: "running", event: atGenerating, after: within(1), times: 1},
	{name: "running, and again in the next attempt", event: atGenerating, after: within(0.4), times: 2},
	{name: "at the commit", event: "STATUS_STORING_SHARE", after: upTo(15 * time.Millisecond), times: 1},
	{name: "pending: stored by the app, not confirmed", event: atStore, times: 1},
	{name: "at the confirmation", event: atConfirm, after: upTo(5 * time.Millisecond), times: 1},
	{name: "active: just confirmed", event: atConfirmed, times: 1},
}

// crashRig is a service that is killed and restarted at the same address.
type crashRig struct {
	t    *testing.T
	dir  string
	addr string
	conn *grpc.ClientConn

	mu     sync.Mutex // guards what follows
	svc    *running
	logs   []string
	armed  *crash
	left   int           // kills still to come
	run    time.Duration // duration of a run
	killed chan struct{} // closed when the last kill is over and the service is back
	kills  int
	held   map[string]*client.Share // what the devices have stored, by set
	calls  int
}

// crashWallet is a wallet with a backup.
type crashWallet struct {
	*client.Client
	id, backup string
	curves     []client.Curve
	takes      time.Duration // duration of a provision without a crash
}

// crashCloud stores the backups' keys.
type crashCloud struct{ keys sync.Map }

// PutKey implements client.KeyStorage.
func (c *crashCloud) PutKey(_ context.Context, id, key string) error {
	c.keys.Store(id, key)
	return nil
}

// GetKey implements client.KeyStorage.
func (c *crashCloud) GetKey(_ context.Context, id string) (string, error) {
	if key, ok := c.keys.Load(id); ok {
		return fmt.Sprint(key), nil
	}
	return "", errors.New("no such key")
}

func newCrashRig(t *testing.T) *crashRig {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &crashRig{t: t, dir: t.TempDir(), addr: l.Addr().String(), held: map[string]*client.Share{}}
	require.NoError(t, l.Close())
	require.NoError(t, seed(t.Context(), c.dir, crashSets))
	require.NoError(t, c.start())
	t.Cleanup(func() { c.svc.kill() })
	c.conn, err = grpc.NewClient("passthrough:///"+c.addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5,
			MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second}),
		grpc.WithUnaryInterceptor(c.unary), grpc.WithStreamInterceptor(c.stream))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.conn.Close() })
	return c
}

// crashSets is the initial number of sets of pre-params: those for the first wallets, and more than the pool's depth,
// so that the service begins to fill its pool during the kills.
const crashSets = 8

// start starts the service. It fills its pool, so that this is interrupted by the kills too.
func (c *crashRig) start() (err error) {
	c.svc, err = startService(c.dir, "mpcd", os.Environ(), "--dev", "--grpc-addr="+c.addr, "--slots=1",
		"--preparams-depth=2")
	if err == nil {
		c.logs = append(c.logs, c.svc.log.Name())
	}
	return err
}

func (c *crashRig) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
	invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	confirm := method == pb.WalletService_ConfirmShareSet_FullMethodName
	if confirm {
		c.at(atConfirm)
	}
	err := invoker(ctx, method, req, reply, cc, opts...)
	if confirm && err == nil {
		c.at(atConfirmed)
	}
	return err
}

func (c *crashRig) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
	streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c.at(atCall)
	s, err := streamer(ctx, desc, cc, method, opts...)
	return &crashStream{s, c}, err
}

type crashStream struct {
	grpc.ClientStream
	rig *crashRig
}

// RecvMsg implements grpc.ClientStream.
func (s *crashStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if r, ok := m.(*pb.ProvisionWalletResponse); ok && err == nil && r.GetProgress() != nil {
		s.rig.at(r.GetProgress().GetStatus().String())
	}
	return err
}

// arm schedules a kill for the next event of the crash's kind.
func (c *crashRig) arm(k *crash, run time.Duration) (killed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.left, c.run, c.killed = k, k.times, run, make(chan struct{})
	return c.killed
}

// at is called with every event. It kills the service, or schedules that, if a kill is armed for the event.
func (c *crashRig) at(event string) {
	c.mu.Lock()
	k := c.armed
	if k == nil || k.event != event {
		c.mu.Unlock()
		return
	}
	c.armed = nil
	run := c.run
	c.mu.Unlock()
	if k.after == nil {
		c.kill(k)
		return
	}
	time.AfterFunc(k.after(run), func() { c.kill(k) }) // the test waits for c.killed
}

// kill kills the process with SIGKILL, and starts it again.
func (c *crashRig) kill(k *crash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.svc.kill()
	c.kills++
	if err := c.start(); err != nil {
		c.t.Error(err)
		c.left = 1
	}
	if c.left--; c.left > 0 {
		c.armed = k
		return
	}
	close(c.killed)
}

// wallet creates a wallet with a backup.
func (c *crashRig) wallet(curves ...client.Curve) *crashWallet {
	t, w := c.t, &crashWallet{curves: curves}
	var err error
	w.Client, err = client.New(c.conn, client.WithCurves(curves...),
		client.WithCloudKey(client.MethodCustom, new(crashCloud)), client.WithStore(c.store))
	require.NoError(t, err)
	first, err := w.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	w.id = first.WalletID()
	backup, err := w.BackupWallet(t.Context(), first, client.MethodCustom, nil)
	require.NoError(t, err)
	require.NoError(t, w.ConfirmBackup(t.Context(), backup, backup.CipherText))
	w.backup = backup.CipherText
	start := time.Now()
	c.provision(w)
	w.takes = time.Since(start)
	return w
}

func (c *crashRig) store(_ context.Context, s *client.Share) error {
	c.mu.Lock()
	c.held[s.ShareSetID()] = s
	c.mu.Unlock()
	c.at(atStore)
	return nil
}

// provision does what an app does: one call of the SDK, which retries by itself, and ResumePending, as after a restart,
// if the share could not be confirmed.
func (c *crashRig) provision(w *crashWallet) {
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
	share, err := w.ProvisionWallet(c.t.Context(), w.backup, client.MethodCustom, nil)
	if errors.Is(err, client.ErrNotConfirmed) {
		var gone []*client.Share
		gone, err = w.ResumePending(c.t.Context(), share)
		if len(gone) > 0 {
			err = errors.New("the set of a share that was stored in time is gone")
		}
	}
	if err != nil {
		c.t.Errorf("provision: %v", err) // not FailNow: this may not be the test's goroutine
		return
	}
	c.signs(w, share)
}

// signs requires that a share signs, on the last of its wallet's curves: ED25519.
func (c *crashRig) signs(w *crashWallet, share *client.Share) {
	digest := sha256.Sum256([]byte(share.ShareSetID()))
	if _, err := w.Sign(c.t.Context(), share, w.curves[len(w.curves)-1], digest[:]); err != nil {
		c.t.Errorf("set %s does not sign: %v", share.ShareSetID(), err)
	}
}

// strike provisions with one crash meanwhile.
func (c *crashRig) strike(k *crash, w, other *crashWallet) {
	killed := c.arm(k, w.takes)
	var wg sync.WaitGroup
	if k.queued { // the later of the two waits in the queue
		wg.Go(func() { c.provision(other) })
	}
	c.provision(w)
	wg.Wait()
	for range 20 { // if a run ends before all kills have happened, the rest happen in the next run
		select {
		case <-killed:
			return
		case <-time.After(2 * w.takes):
			c.provision(w)
		}
	}
	require.FailNow(c.t, "the event did not occur", k.name)
}

// TestCrash kills the service with SIGKILL at random moments and in each persisted state of a provision; the same call
// must continue. MPCD_CRASH_KILLS sets the minimum number of kills, and MPCD_CRASH_REPORT a file for a report. Without
// either it uses ED25519 only: TestLongCrash has both curves.
func TestCrash(t *testing.T) {
	t.Parallel()
	want, report, curves := len(crashes)+1, startedWith["MPCD_CRASH_REPORT"], []client.Curve{client.CurveEd25519}
	if s := startedWith["MPCD_CRASH_KILLS"]; s != "" {
		var err error
		want, err = strconv.Atoi(s)
		require.NoError(t, err)
		curves = []client.Curve{client.CurveSecp256k1, client.CurveEd25519}
	}
	crashed(t, want, report, curves...)
}

// crashed kills the service want times, with one wallet on ED25519 and another one on curves.
func crashed(t *testing.T, want int, report string, curves ...client.Curve) {
	t.Helper()
	c := newCrashRig(t)
	quick, both := c.wallet(client.CurveEd25519), c.wallet(curves...)
	started, done := time.Now(), map[string]int{}
	for i := 0; c.kills < want && !t.Failed(); i++ {
		k, w, other := &crashes[i%len(crashes)], quick, both
		// With many kills every second round is on both curves; otherwise one is.
		if round := i / len(crashes); report != "" && round%2 == 1 || i == 2 {
			w, other = both, quick
		}
		c.strike(k, w, other)
		done[k.name] += k.times
		t.Logf("%d kills of %d: %s", c.kills, want, k.name)
	}
	require.False(t, t.Failed())
	for _, w := range []*crashWallet{quick, both} {
		c.everySetSigns(w)
	}
	require.NoError(t, c.svc.stop())
	seen := c.inspect(len(curves) == 2)
	t.Log(seen)
	if report != "" {
		require.NoError(t, os.WriteFile(report, []byte(c.report(started, done, seen)), 0o600))
	}
}

// everySetSigns requires that each ACTIVE set's share is on a device, that no set is PENDING, and that all sets can
// sign.
func (c *crashRig) everySetSigns(w *crashWallet) {
	t := c.t
	wallet, err := w.GetWallet(t.Context(), w.id)
	require.NoError(t, err)
	for _, set := range wallet.ShareSets {
		require.Equal(t, client.StateActive, set.State, set.ID)
		if set.Purpose != client.PurposeSigning {
			continue
		}
		share := c.held[set.ID]
		require.NotNil(t, share, "set %s is ACTIVE, but no device has its share", set.ID)
		c.signs(w, share)
		if len(w.curves) == 2 {
			digest := sha256.Sum256([]byte(set.ID))
			_, err := w.Sign(t.Context(), share, w.curves[0], digest[:])
			require.NoError(t, err)
		}
	}
	for id, share := range c.held {
		require.True(t, share.WalletID() != w.id || wallet.ShareSet(id) != nil,
			"a device has set %s, and the service has not", id)
	}
}

// inspect checks the stopped service's database and logs. If runs were on SECP256K1 too, pre-params must have been
// used.
func (c *crashRig) inspect(ecdsa bool) string {
	t := c.t
	path := filepath.Join(c.dir, "mpcd.db")
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	count := func(query string) (n int) {
		require.NoError(t, db.QueryRowContext(t.Context(), query).Scan(&n), query)
		return n
	}
	require.Zero(t, count("SELECT count(*) FROM sessions WHERE state NOT IN (3, 7)"),
		"no session is stuck, and none failed")
	require.Equal(t, c.calls, count("SELECT count(*) FROM sessions WHERE operation = 3"), "one session for each call")
	require.Equal(t, len(c.held), count("SELECT count(*) FROM share_sets WHERE purpose = 1 AND state = 2"))
	require.Zero(t, count("SELECT count(*) FROM (SELECT sha256 FROM wallet_moduli GROUP BY sha256 HAVING count(*) > 1)"),
		"a modulus was used in two wallets")
	moduli := count("SELECT count(*) FROM wallet_moduli")
	require.Equal(t, ecdsa, moduli > 0)
	for _, log := range c.logs {
		text, err := os.ReadFile(log)
		require.NoError(t, err)
		require.NotContains(t, string(text), "came a second time", "pre-params were used twice")
		require.NotContains(t, string(text), droppedPool, "a kill must not be taken for a restored database")
		require.NotContains(t, string(text), "panic")
	}
	out, err := exec.CommandContext(t.Context(), "mpcd", "audit", "verify", "--db", "sqlite://"+path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	var attempts []string
	for n := 1; n <= count("SELECT max(attempt) FROM sessions"); n++ {
		attempts = append(attempts, fmt.Sprintf("%d sessions took %d",
			count("SELECT count(*) FROM sessions WHERE attempt = "+strconv.Itoa(n)), n))
	}
	return fmt.Sprintf("%d provisions, %d SIGNING sets, all ACTIVE, each held by a device, each signed; attempts: %s; "+
		"%d moduli reserved, none twice; no session stuck.\nmpcd audit verify: %s",
		c.calls, len(c.held), strings.Join(attempts, ", "), moduli, strings.TrimSpace(string(out)))
}

func (c *crashRig) report(started time.Time, done map[string]int, seen string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The crash test\n\nWritten by `make test-crash`: `mpcd serve` is killed with SIGKILL, started "+
		"again, and the same call goes on.\n\n")
	fmt.Fprintf(&b, "%d kills in %.0f s, %s, %d cores, %s.\n\n", c.kills, time.Since(started).Seconds(),
		started.UTC().Format("2006-01-02 15:04 MST"), runtime.NumCPU(), runtime.Version())
	fmt.Fprintf(&b, "| when | kills |\n| --- | --- |\n")
	names := make([]string, 0, len(done))
	for name := range done {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "| %s | %d |\n", name, done[name])
	}
	fmt.Fprintf(&b, "\n%s\n", seen)
	return b.String()
}
