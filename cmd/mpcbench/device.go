package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/worker"
)

// Device compares a provision whose client's side runs on the device with a hosted one of the same service, which
// runs in a separate process. Times are in seconds.
type Device struct {
	Curves string     `json:"curves"`
	Held   []Sample   `json:"held"`   // CPU: of the service and its workers
	Hosted []Sample   `json:"hosted"` // each measured right after one of Held
	Wall   Comparison `json:"wall"`
	CPU    Comparison `json:"cpu"`

	Delay   float64   `json:"delay"` // of the network, each way
	Near    []float64 `json:"near"`  // wall time of a provision on SECP256K1, without delay
	Far     []float64 `json:"far"`   // with delay, each measured right after one of Near
	NearSum Summary   `json:"nearSummary"`
	FarSum  Summary   `json:"farSummary"`

	Ready Summary `json:"ready"` // from the start of a worker process until it is ready

	Wire    []float64 `json:"wire"` // bytes of TCP payload, both directions, of provisions on SECP256K1
	Own     []float64 `json:"own"`  // bytes of tss-lib's own messages in them
	OwnSum  Summary   `json:"ownSummary"`
	WireSum Summary   `json:"wireSummary"`
}

// delay is a byte's one-way latency in the far samples.
const delay = 100 * time.Millisecond

// remote is a service in a separate process: this program, as roleService.
type remote struct {
	*rig
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// The roles of this program, by its first argument.
const (
	roleService = "service"
	roleWorker  = "worker"
)

// role runs a role of a section, if this process was started for one.
func role(ctx context.Context, args []string) (played bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	switch args[0] {
	case roleService:
		return true, serveRole(ctx, os.Stdin, os.Stdout)
	case roleWorker:
		return true, workerRole(args[1:])
	}
	return false, nil
}

func workerRole(args []string) error {
	limits, err := worker.ParseLimits(args)
	if err != nil {
		return err
	}
	return worker.Main(os.Stdin, os.Stdout, limits)
}

// serveRole runs a service that prints its address, and for each line it reads stocks that many sets of pre-params.
func serveRole(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	r, err := openRig(ctx, 0, func(o *app.Options) {
		// As in mpcd serve.
		o.Worker = worker.Config{Args: []string{os.Args[0], roleWorker}, Warm: 1,
			Limits: worker.Limits{Memory: 256 << 20, CPU: time.Minute}}
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	if _, err := fmt.Fprintln(out, r.addr); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		if err := r.stock(ctx, n); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, "stocked"); err != nil {
			return err
		}
	}
	return nil
}

func openRemote(ctx context.Context) (*remote, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &remote{cmd: exec.CommandContext(ctx, self, roleService)} //nolint:gosec // G204: this program
	r.cmd.Stderr = os.Stderr
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	r.out = bufio.NewReader(out)
	addr, err := r.out.ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the service did not print its address: %w", err), r.cmd.Wait())
	}
	r.rig = &rig{addr: strings.TrimSpace(addr), creds: insecure.NewCredentials(), keys: new(cloud)} // loopback
	return r, nil
}

func (r *remote) close() error { return errors.Join(r.in.Close(), r.cmd.Wait()) }

// stock fills the service's pool to n sets, as rig.stock does.
func (r *remote) stock(n int) error {
	if _, err := fmt.Fprintln(r.in, n); err != nil {
		return err
	}
	_, err := r.out.ReadString('\n')
	return err
}

// cpu returns what the service has used so far, with all its workers that have ended (proc(5): stat, fields 14 to 17,
// in ticks of 10 ms).
func (r *remote) cpu() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest) // from the third on
	var ticks float64
	for _, f := range fields[11:15] {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return ticks / 100, nil
}

// far returns the same service behind a network with latency.
func (r *remote) far(ctx context.Context) (*rig, func(), error) {
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { // ends with lis
		for {
			near, err := lis.Accept()
			if err != nil {
				return
			}
			there, err := new(net.Dialer).DialContext(ctx, "tcp", r.addr)
			if err != nil {
				_ = near.Close()
				continue
			}
			wg.Go(func() { late(near, there) }) // end with the connections
			wg.Go(func() { late(there, near) })
		}
	})
	stop := func() {
		cancel()
		_ = lis.Close()
		wg.Wait()
	}
	return &rig{addr: lis.Addr().String(), creds: r.creds, keys: r.keys}, stop, nil
}

// late copies bytes from one connection to another, each after the delay, and closes both when one ends.
func late(from, to net.Conn) {
	type chunk struct {
		due time.Time
		b   []byte
	}
	chunks := make(chan chunk, 1<<12)
	go func() { // ends with from
		defer close(chunks)
		for {
			b := make([]byte, 32<<10)
			n, err := from.Read(b)
			if n > 0 {
				chunks <- chunk{time.Now().Add(delay), b[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range chunks {
		time.Sleep(time.Until(c.due))
		if _, err := to.Write(c.b); err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close() // there is nobody to report an error to
	for range chunks {              // so that the reader ends
	}
}

// device measures device-held provisions.
func (b *bench) device(ctx context.Context) (err error) {
	r, err := openRemote(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	d := &Device{Curves: named(b.plan.curves), Delay: delay.Seconds()}
	for _, step := range []func(context.Context, *remote, *Device) error{b.heldAndHosted, b.nearAndFar, b.ready} {
		if err := step(ctx, r, d); err != nil {
			return err
		}
	}
	b.report.Device = d
	return nil
}

// deviceHeld returns a device that keeps its shares, and the wallet's backup that it provisions from.
func (r *rig) deviceHeld(ctx context.Context, stock func(int) error, curves []client.Curve) (*caller, string, error) {
	if err := stock(setsPerRun * needs(curves)); err != nil { // for the wallet and for its backup
		return nil, "", err
	}
	cipherText, err := r.wallet(ctx, curves, client.WithDeviceHeldShares())
	if err != nil {
		return nil, "", err
	}
	dev, err := r.dial(ctx, client.WithDeviceHeldShares())
	return dev, cipherText, err
}

// provisionAt measures one provision: its wall time, and the service's CPU.
func (r *remote) provisionAt(ctx context.Context, c *caller, cipherText string) (Sample, error) {
	before, err := r.cpu()
	if err != nil {
		return Sample{}, err
	}
	s, err := measure(func() error { return c.provision(ctx, cipherText) })
	if err != nil {
		return Sample{}, err
	}
	after, err := r.cpu()
	s.CPU = after - before
	return s, err
}

// prepare generates pre-params for one device-held provision: one set there, one on the device.
func (r *remote) prepare(ctx context.Context, dev *caller, curves []client.Curve) error {
	sets := needs(curves) / setsPerRun
	if err := r.stock(sets); err != nil {
		return err
	}
	return dev.Prewarm(ctx, sets, nil)
}

func (b *bench) heldAndHosted(ctx context.Context, r *remote, d *Device) error {
	curves := b.plan.curves
	b.log.step("device: makes two wallets and their backups")
	dev, held, err := r.deviceHeld(ctx, r.stock, curves)
	if err != nil {
		return err
	}
	defer func() { _ = dev.conn.Close() }() // its calls are over
	hosted, err := r.wallet(ctx, curves)
	if err != nil {
		return err
	}
	user, err := r.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = user.conn.Close() }() // as above
	for i := range b.plan.samples {
		if err := r.prepare(ctx, dev, curves); err != nil {
			return err
		}
		x, err := r.provisionAt(ctx, dev, held)
		if err != nil {
			return fmt.Errorf("device-held: %w", err)
		}
		if err := r.stock(needs(curves)); err != nil {
			return err
		}
		y, err := r.provisionAt(ctx, user, hosted)
		if err != nil {
			return fmt.Errorf("hosted: %w", err)
		}
		d.Held, d.Hosted = append(d.Held, x), append(d.Hosted, y)
		b.log.step("device %d/%d: device-held %s s, CPU %s s; hosted %s s, CPU %s s", i+1, b.plan.samples, number(x.Wall),
			number(x.CPU), number(y.Wall), number(y.CPU))
	}
	d.Wall = compared(d.Held, d.Hosted, func(s Sample) float64 { return s.Wall })
	d.CPU = compared(d.Held, d.Hosted, func(s Sample) float64 { return s.CPU })
	return nil
}

// nearAndFar measures provisions on SECP256K1, with and without a slow network, and the bytes that those without
// send.
func (b *bench) nearAndFar(ctx context.Context, r *remote, d *Device) error {
	curves := b.plan.curves[:1]
	slow, stop, err := r.far(ctx)
	if err != nil {
		return err
	}
	defer stop()
	near, held, err := r.deviceHeld(ctx, r.stock, curves)
	if err != nil {
		return err
	}
	defer func() { _ = near.conn.Close() }() // its calls are over
	far, err := slow.dial(ctx, client.WithDeviceHeldShares())
	if err != nil {
		return err
	}
	defer func() { _ = far.conn.Close() }() // as above
	for i := range b.plan.slow {
		if err := r.prepare(ctx, near, curves); err != nil {
			return err
		}
		near.meter.own.Store(0)
		before := near.meter.sent.Load() + near.meter.received.Load()
		x, err := r.provisionAt(ctx, near, held)
		if err != nil {
			return fmt.Errorf("device-held, near: %w", err)
		}
		d.Wire = append(d.Wire, float64(near.meter.sent.Load()+near.meter.received.Load()-before))
		d.Own = append(d.Own, float64(near.meter.own.Load()))
		if err := r.prepare(ctx, far, curves); err != nil {
			return err
		}
		y, err := r.provisionAt(ctx, far, held)
		if err != nil {
			return fmt.Errorf("device-held, far: %w", err)
		}
		d.Near, d.Far = append(d.Near, x.Wall), append(d.Far, y.Wall)
		b.log.step("device %d/%d: %s s, with %v each way %s s", i+1, b.plan.slow, number(x.Wall), delay, number(y.Wall))
	}
	d.NearSum, d.FarSum, d.WireSum, d.OwnSum = summarize(d.Near), summarize(d.Far), summarize(d.Wire), summarize(d.Own)
	return nil
}

// ready measures how long mpcd's own worker takes from its start until it is ready.
func (b *bench) ready(ctx context.Context, _ *remote, d *Device) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	mpcd := filepath.Join(filepath.Dir(self), "mpcd")
	if _, err := os.Stat(mpcd); err != nil {
		return fmt.Errorf("the worker that is measured is mpcd's: build it beside this program (make bench does): %w", err)
	}
	var all []float64
	for range b.plan.fast {
		start := time.Now()
		//nolint:gosec // G204: built beside this one
		cmd := exec.CommandContext(ctx, mpcd, roleWorker, "--memory=268435456", "--cpu=1m")
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			return fmt.Errorf("a worker did not become ready: %w", err)
		}
		all = append(all, time.Since(start).Seconds())
		_ = in.Close()
		_ = cmd.Wait() // it exits because its pipe is closed
	}
	d.Ready = summarize(all)
	return nil
}
