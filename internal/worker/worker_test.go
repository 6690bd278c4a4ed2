package worker_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
	"github.com/mpcd/mpcd/internal/worker"
)

// The roles of this test binary when it is started as another process. All but "parent" are real workers; some fail
// once they have the device's hello.
var roles = map[string]func(){
	"worker": func() {},
	"panics": func() {
		go func() { // not recoverable, as in tss-lib
			panic("what a device sent")
		}()
	},
	"spins": func() {
		go func() { // an unbounded exponent
			n := new(big.Int).Lsh(big.NewInt(1), 1<<20)
			new(big.Int).Exp(big.NewInt(3), n, n.Add(n, big.NewInt(1)))
		}()
	},
	"grows": func() {
		go func() {
			var all [][]byte
			for {
				all = append(all, bytes.Repeat([]byte{1}, 1<<20))
				_ = all
				time.Sleep(100 * time.Microsecond)
			}
		}()
	},
	"mute": nil,
}

// hellos is a worker's input. Its third read, after the length and bytes of the first frame, is the length of the
// second: the device's hello has arrived, and then is called.
type hellos struct {
	in    io.Reader
	reads int
	then  func()
}

func (h *hellos) Read(b []byte) (int, error) {
	n, err := h.in.Read(b)
	if h.reads++; h.reads == 3 && err == nil {
		h.then()
	}
	return n, err
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "parent" {
		parent()
		return
	}
	if len(os.Args) > 1 {
		if fault, ok := roles[os.Args[1]]; ok {
			if fault == nil {
				select {}
			}
			limits, err := worker.ParseLimits(os.Args[2:])
			if err == nil {
				err = worker.Main(&hellos{in: os.Stdin, then: fault}, os.Stdout, limits)
			}
			if err != nil {
				os.Exit(1)
			}
			return
		}
	}
	// tss-lib's logger starts it, for good.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

const mib = 1 << 20

func newPool(t *testing.T, role string, warm int) *worker.Pool {
	t.Helper()
	p := worker.NewPool(worker.Config{
		Args: []string{"mpcd", role}, Warm: warm, Limits: worker.Limits{Memory: 256 * mib, CPU: time.Minute},
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(p.Close)
	return p
}

func TestParseLimits(t *testing.T) {
	t.Parallel()
	l, err := worker.ParseLimits([]string{"--memory=268435456", "--cpu=1m30s"})
	require.NoError(t, err)
	require.Equal(t, worker.Limits{Memory: 256 * mib, CPU: 90 * time.Second}, l)
	for _, bad := range []string{"--memory=much", "--cpu=90", "--disk=1", "more"} {
		_, err := worker.ParseLimits([]string{"--memory=1", bad})
		require.Error(t, err, bad)
	}
}

// link is one end of a link in memory.
type link struct {
	in  <-chan tss.Part
	out chan<- tss.Part
}

func (l link) Send(_ context.Context, p tss.Part) error {
	l.out <- p
	return nil
}

func (l link) Recv(ctx context.Context) (tss.Part, error) {
	select {
	case p := <-l.in:
		return p, nil
	case <-ctx.Done():
		return tss.Part{}, context.Cause(ctx)
	}
}

func wire() (client, server link) {
	up, down := make(chan tss.Part, tss.MaxParts), make(chan tss.Part, tss.MaxParts)
	return link{down, up}, link{up, down}
}

// set is a share set as the two machines have it.
type set struct {
	record []byte
	shares [2]*tss.Share
}

// pair makes both sides of a run.
func pair(operation string, from *set, curves ...tss.Curve) (client, server *tss.Operation) {
	id, source := uuid.NewString(), tsstest.NewSource()
	both := [2]*tss.Operation{}
	for p := range both {
		both[p] = &tss.Operation{
			Party: tss.Party(p), Kind: operation, SessionID: id, Attempt: 1, Curves: curves, Purpose: tss.Signing, PreParams: source.PreParams,
		}
		if operation == "BACKUP" {
			both[p].Purpose = tss.Backup
		}
		if operation == tss.OperationSign {
			both[p].Payload = bytes.Repeat([]byte{7}, 32)
		}
		if from != nil {
			both[p].Share = from.shares[p]
		}
	}
	server = both[tss.Server]
	server.WalletID = uuid.NewString()
	if operation != tss.OperationSign {
		server.ShareSetID = uuid.NewString()
	}
	if from != nil {
		server.WalletID, server.Record = from.shares[0].WalletID, from.record
	}
	return both[tss.Client], server
}

// together runs the client's side here and the server's in a worker.
func together(ctx context.Context, p *worker.Pool, client, server *tss.Operation) (out [2]*tss.Output, errs [2]error) {
	var busy sync.WaitGroup // computations of tss-lib that continue here after the run
	defer busy.Wait()
	client.Observer.Busy = &busy
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, b := wire()
	var wg sync.WaitGroup
	wg.Go(func() { out[tss.Client], errs[tss.Client] = client.Run(ctx, a) })
	wg.Go(func() {
		if out[tss.Server], errs[tss.Server] = p.Run(ctx, server, b); errs[tss.Server] != nil {
			cancel()
		}
	})
	wg.Wait()
	return out, errs
}

func made(t *testing.T, p *worker.Pool, client, server *tss.Operation) *set {
	t.Helper()
	out, errs := together(t.Context(), p, client, server)
	require.NoError(t, errors.Join(errs[:]...))
	require.Equal(t, out[tss.Client].Record, out[tss.Server].Record)
	require.Equal(t, out[tss.Client].ShareHash, out[tss.Server].ShareHash)
	s := &set{record: out[tss.Server].Record}
	for i := range out {
		s.shares[i] = out[i].Share
	}
	return s
}

// A wallet's lifecycle with the service's side in workers: each is used once, and none is left.
func TestLife(t *testing.T) {
	t.Parallel()
	pool := newPool(t, "worker", 1)
	var rounds []string
	client, server := pair("CREATE", nil, tss.Ed25519)
	server.Progress = func(c tss.Curve, k, n int) { rounds = append(rounds, fmt.Sprintf("%v %d/%d", c, k, n)) }
	first := made(t, pool, client, server)
	require.Equal(t, []string{"ED25519 1/3", "ED25519 2/3", "ED25519 3/3"}, rounds)
	client, server = pair("BACKUP", first, tss.Ed25519)
	backup := made(t, pool, client, server)
	client, server = pair("PROVISION", backup, tss.Ed25519)
	second := made(t, pool, client, server)
	for _, s := range []*set{first, second} {
		client, server := pair(tss.OperationSign, s, tss.Ed25519)
		var asked []tss.ReleasePoint
		server.BeforeRelease = func(_ context.Context, g tss.ReleasePoint) error { asked = append(asked, g); return nil }
		out, errs := together(t.Context(), pool, client, server)
		require.NoError(t, errors.Join(errs[:]...))
		require.Equal(t, out[0].Signature, out[1].Signature)
		require.Equal(t, []tss.ReleasePoint{tss.Disarm}, asked)
	}
	require.Zero(t, pool.Stats().Busy)
	require.Zero(t, pool.Stats().Died)
	require.GreaterOrEqual(t, pool.Stats().Started, 5)
}

// On SECP256K1 the worker requests pre-params, and a check that the device's moduli are new. Its memory suffices for
// the largest run.
func TestECDSA(t *testing.T) {
	t.Parallel()
	pool := newPool(t, "worker", 0)
	client, server := pair("CREATE", nil, tss.Secp256k1)
	var n, nTilde *big.Int
	server.CheckModuli = func(a, b *big.Int) error { n, nTilde = a, b; return nil }
	s := made(t, pool, client, server)
	record, err := tss.ParseRecord(s.record)
	require.NoError(t, err)
	key, _ := record.Key(tss.Secp256k1)
	require.Zero(t, n.Cmp(key.Parties[tss.Client].PaillierN))
	require.Zero(t, nTilde.Cmp(key.Parties[tss.Client].NTilde))
}

// A refusal of the service's returns the service's own error, and the other side gets nothing.
func TestServiceRefuses(t *testing.T) {
	t.Parallel()
	pool := newPool(t, "worker", 0)
	no := errors.New("no")
	client, server := pair("CREATE", nil, tss.Ed25519)
	from := made(t, pool, client, server)
	for name, x := range map[string]struct {
		operation string
		curve     tss.Curve
		refuse    func(*tss.Operation)
	}{
		"pre-params":    {"CREATE", tss.Secp256k1, func(j *tss.Operation) { j.PreParams = func(context.Context) (*tss.PreParams, error) { return nil, no } }},
		"moduli":        {"CREATE", tss.Secp256k1, func(j *tss.Operation) { j.CheckModuli = func(*big.Int, *big.Int) error { return no } }},
		"the signature": {tss.OperationSign, tss.Ed25519, func(j *tss.Operation) { j.BeforeRelease = func(context.Context, tss.ReleasePoint) error { return no } }},
	} {
		var source *set
		if x.operation == tss.OperationSign {
			source = from
		}
		client, server := pair(x.operation, source, x.curve)
		x.refuse(server)
		out, errs := together(t.Context(), pool, client, server)
		require.ErrorIs(t, errs[tss.Server], no, name)
		require.Error(t, errs[tss.Client], name)
		require.Nil(t, out[tss.Client], name)
	}
	require.Zero(t, pool.Stats().Died)
}

// A device's fault in the protocol is reported as without a worker.
func TestDeviceFault(t *testing.T) {
	t.Parallel()
	pool := newPool(t, "worker", 0)
	a, b := wire()
	_, server := pair("CREATE", nil, tss.Ed25519)
	require.NoError(t, a.Send(t.Context(), tss.Part{MAC: make([]byte, 32)}))
	_, err := pool.Run(t.Context(), server, b)
	var p *tss.ProtocolError
	require.ErrorAs(t, err, &p)
	require.Equal(t, tss.Client, p.Culprit)
	require.EqualError(t, p.Err, "a part out of order")
}

// A part larger than a frame is the device's fault too, and is not ignored.
func TestPartThatIsTooLong(t *testing.T) {
	t.Parallel()
	pool := newPool(t, "worker", 0)
	a, b := wire()
	_, server := pair("CREATE", nil, tss.Ed25519)
	require.NoError(t, a.Send(t.Context(), tss.Part{MAC: make([]byte, 1<<20)}))
	_, err := pool.Run(t.Context(), server, b)
	var p *tss.ProtocolError
	require.ErrorAs(t, err, &p)
	require.Equal(t, tss.Client, p.Culprit)
	require.EqualError(t, p.Err, "a frame that is too long")
}

// hello is a device that sends its hello and nothing more.
func hello(ctx context.Context) (server *tss.Operation, end link) {
	client, server := pair("CREATE", nil, tss.Ed25519)
	up, down := make(chan tss.Part, tss.MaxParts), make(chan tss.Part, tss.MaxParts)
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = client.Run(ctx, link{make(chan tss.Part), up}) }) // its hello is discarded
	up <- <-up
	stop()
	wg.Wait()
	return server, link{up, down}
}

// What breaks a worker breaks its session: the error names the device, and where the worker was, but not what it
// received. The next run has another worker.
func TestDeaths(t *testing.T) {
	t.Parallel()
	for role, x := range map[string]struct {
		limits worker.Limits
		says   string
	}{
		"panics": {worker.Limits{Memory: 256 * mib, CPU: time.Minute}, `worker_test\.init\.func2`},
		"spins":  {worker.Limits{Memory: 256 * mib, CPU: time.Second}, "signal: killed after "},
		"grows":  {worker.Limits{Memory: 256 * mib, CPU: time.Minute}, "exit status (2|66) after "}, // the race detector's: 66
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			pool := worker.NewPool(worker.Config{Args: []string{"mpcd", role}, Limits: x.limits}, slog.New(slog.DiscardHandler))
			defer pool.Close()
			server, end := hello(t.Context())
			out, err := pool.Run(t.Context(), server, end)
			require.Nil(t, out)
			var p *tss.ProtocolError
			require.ErrorAs(t, err, &p)
			require.Equal(t, tss.Client, p.Culprit)
			require.Regexp(t, x.says, err.Error())
			require.NotContains(t, err.Error(), "what a device sent")
			require.Equal(t, 1, pool.Stats().Died)
			require.Zero(t, pool.Stats().Busy)
		})
	}
}

// killed returns the error of a run whose worker is killed from outside.
func killed(t *testing.T, after func(link)) error {
	t.Helper()
	pool := newPool(t, "worker", 0)
	_, server := pair("CREATE", nil, tss.Ed25519)
	a, b := wire()
	ended := make(chan error, 1)
	go func() {
		_, err := pool.Run(t.Context(), server, b)
		ended <- err
	}()
	<-a.in // the worker's hello: it has started
	after(a)
	for _, pid := range servertest.Children(t, os.Getpid()) {
		cmd, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && bytes.HasPrefix(cmd, []byte("mpcd\x00worker\x00")) {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	return <-ended
}

// Not parallel: it kills every worker of this process.
func TestKilled(t *testing.T) {
	err := killed(t, func(link) {})
	require.ErrorIs(t, err, session.ErrInterrupted, "it received nothing, so no party is to blame")
	require.NotErrorAs(t, err, new(*tss.ProtocolError))
	err = killed(t, func(a link) {
		_, end := hello(t.Context())
		require.NoError(t, a.Send(t.Context(), <-end.in))
		<-a.in // it responds
	})
	var p *tss.ProtocolError
	require.ErrorAs(t, err, &p)
	require.Equal(t, tss.Client, p.Culprit)
	require.ErrorContains(t, err, "signal: killed")

	// A worker that dies while idle costs nothing.
	pool := newPool(t, "worker", 1)
	require.Eventually(t, func() bool { return pool.Stats().Warm == 1 }, 2*time.Minute, 5*time.Millisecond)
	for _, pid := range servertest.Children(t, os.Getpid()) {
		require.NoError(t, syscall.Kill(pid, syscall.SIGTERM), "a signal that is for the service")
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	require.Eventually(t, func() bool { return len(servertest.Children(t, os.Getpid())) == 0 }, 2*time.Minute, 5*time.Millisecond)
	client, server := pair("CREATE", nil, tss.Ed25519)
	made(t, pool, client, server)
}

// A cancelled run's worker has exited when Run returns, whatever it was computing. Not parallel: it counts processes.
func TestCancel(t *testing.T) {
	pool := newPool(t, "spins", 0)
	server, end := hello(t.Context())
	cause := errors.New("cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	down := make(chan tss.Part, tss.MaxParts)
	ended := make(chan error, 1)
	go func() {
		_, err := pool.Run(ctx, server, link{end.in, down})
		ended <- err
	}()
	<-down
	require.Len(t, servertest.Children(t, os.Getpid()), 1)
	cancel(cause)
	require.ErrorIs(t, <-ended, cause)
	require.Empty(t, servertest.Children(t, os.Getpid()))
	require.Zero(t, pool.Stats().Died)
}

// SIGTERM to the whole process group, as sent by systemd and terminals, is for the service, which lets runs end. Not
// parallel.
func TestSignalsAreForTheService(t *testing.T) {
	pool := newPool(t, "worker", 1)
	require.Eventually(t, func() bool { return pool.Stats().Warm == 1 }, 2*time.Minute, 5*time.Millisecond)
	for _, pid := range servertest.Children(t, os.Getpid()) {
		for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
			require.NoError(t, syscall.Kill(pid, s))
		}
	}
	client, server := pair("CREATE", nil, tss.Ed25519)
	made(t, pool, client, server)
	require.Zero(t, pool.Stats().Died)
}

// A worker's arguments are its limits, and its environment is empty: it gets everything through its pipes. Not
// parallel.
func TestWorkerEnvironment(t *testing.T) {
	t.Setenv("MPCD_SECRET", "hunter2")
	pool := newPool(t, "worker", 1)
	require.Eventually(t, func() bool { return pool.Stats().Warm == 1 }, 2*time.Minute, 5*time.Millisecond)
	pids := servertest.Children(t, os.Getpid())
	require.Len(t, pids, 1)
	read := func(name string) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pids[0], name))
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, "mpcd\x00worker\x00--memory=268435456\x00--cpu=1m0s\x00", read("cmdline"))
	require.Equal(t, "GOTRACEBACK=single\x00", read("environ"))
	limits := read("limits")
	require.Regexp(t, `Max cpu time +60 +60 `, limits)
	require.Regexp(t, `Max data size +536870912 +536870912 `, limits)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pids[0]))
	require.NoError(t, err)
	for _, f := range files {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pids[0], f.Name()))
		require.NoError(t, err)
		require.NotContains(t, to, "socket:", "its only open files are its pipes")
	}
}

// A worker that does not become ready is given up, and the caller does not wait for it.
func TestWorkerThatNeverStarts(t *testing.T) {
	t.Parallel()
	pool := newPool(t, "mute", 1)
	server, end := hello(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := pool.Run(ctx, server, end)
	require.ErrorIs(t, err, session.ErrInterrupted)
	none := worker.NewPool(worker.Config{Args: []string{"mpcd", "--no-such-flag"}, Warm: 1}, slog.New(slog.DiscardHandler))
	defer none.Close()
	server, end = hello(t.Context())
	_, err = none.Run(t.Context(), server, end)
	require.ErrorIs(t, err, session.ErrInterrupted)
	require.ErrorContains(t, err, "exit status")
}

// parent is a service with one idle worker and one in a run.
func parent() {
	pool := worker.NewPool(worker.Config{Args: []string{"mpcd", "spins"}, Warm: 1, Limits: worker.Limits{Memory: 256 * mib, CPU: time.Minute}}, slog.New(slog.DiscardHandler))
	server, end := hello(context.Background())
	said := make(chan tss.Part)
	go func() { _, _ = pool.Run(context.Background(), server, link{end.in, said}) }()
	<-said // its hello
	<-said // it has the device's, and spins
	for pool.Stats().Warm == 0 {
		time.Sleep(time.Millisecond)
	}
	_, _ = os.Stdout.WriteString("ready\n")
	select {}
}

// No worker outlives its service, even if the service was killed, and the worker is in a computation that cannot be
// stopped.
func TestOrphans(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "parent")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pids := servertest.Children(t, cmd.Process.Pid)
	require.Len(t, pids, 2)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	servertest.Gone(t, pids)
}
