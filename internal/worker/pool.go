package worker

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Limits are the resources that one worker may use.
type Limits struct {
	Memory int64         // in bytes: the Go runtime's soft limit; the process dies at twice as much
	CPU    time.Duration // over all cores
}

// args returns the arguments that tell a worker its limits.
func (l Limits) args() []string {
	return []string{"--memory=" + strconv.FormatInt(l.Memory, 10), "--cpu=" + l.CPU.String()}
}

// ParseLimits parses the arguments that a Pool adds to Config.Args, for programs without their own parser.
func ParseLimits(args []string) (l Limits, err error) {
	f := flag.NewFlagSet("worker", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Int64Var(&l.Memory, "memory", 0, "")
	f.DurationVar(&l.CPU, "cpu", 0, "")
	if err = f.Parse(args); err == nil && f.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return l, err
}

// headroom is how many times its memory limit a worker may use before it dies.
const headroom = 2

// Config configures a Pool.
type Config struct {
	// Args is the argument list, starting with the program's name, with which this program calls Main with Limits.
	Args   []string
	Limits Limits
	Warm   int // how many idle workers to keep; 0: each is started on demand
}

// Pool starts workers. Its methods are safe for concurrent use.
type Pool struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context // of the filler and of every worker
	cancel context.CancelFunc
	wg     sync.WaitGroup // the filler, and each worker's reaper
	low    chan struct{}  // signalled when a warm worker was taken

	mu    sync.Mutex // guards the fields below
	warm  []*child
	busy  int
	stats Stats
}

// Stats counts workers.
type Stats struct {
	Warm, Busy int // now
	Started    int // since the pool was created
	Died       int // of those, during a run and not killed by the pool
}

// NewPool returns a pool that starts its warm workers in the background. The caller closes it.
func NewPool(cfg Config, log *slog.Logger) *Pool {
	p := &Pool{cfg: cfg, log: log, low: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.low <- struct{}{}
	p.wg.Go(p.fill) // ends with Close
	return p
}

// Stats returns the counts.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Warm, s.Busy = len(p.warm), p.busy
	return s
}

// Close kills the workers, and returns once they have exited. Runs in progress fail.
func (p *Pool) Close() {
	p.cancel()
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.warm {
		c.hangUp()
	}
	p.warm = nil
}

// hint is advice for the operator when a worker does not start.
const hint = "device-held runs fail until one does; see the memory limit of workers (--worker-memory), and how many processes and how much memory the service's unit or container may have"

// fill keeps the number of warm workers up.
func (p *Pool) fill() {
	pause := backoff.NewExponentialBackOff() // after failures: up to a minute
	for {
		select {
		case <-p.low:
		case <-p.ctx.Done():
			return
		}
		for p.missing() {
			c, err := p.launch(p.ctx)
			if err == nil {
				p.put(c)
				pause.Reset()
				continue
			}
			if p.ctx.Err() != nil {
				return
			}
			p.log.Error("a worker process for device-held runs does not start", "error", err, "hint", hint)
			select {
			case <-time.After(pause.NextBackOff()):
			case <-p.ctx.Done():
				return
			}
		}
	}
}

// missing removes warm workers that were killed, and reports whether there are too few.
func (p *Pool) missing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	there := p.warm[:0]
	for _, c := range p.warm {
		if c.alive() {
			there = append(there, c)
		} else {
			c.hangUp()
		}
	}
	p.warm = there
	return len(there) < p.cfg.Warm
}

func (p *Pool) put(c *child) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warm = append(p.warm, c)
}

// take returns an idle worker: a warm one, or else a new one.
func (p *Pool) take(ctx context.Context) (*child, error) {
	p.mu.Lock()
	for len(p.warm) > 0 {
		c := p.warm[0]
		p.warm = p.warm[1:]
		if c.alive() {
			p.busy++
			p.mu.Unlock()
			offer(p.low, struct{}{})
			return c, nil
		}
		c.hangUp()
	}
	p.mu.Unlock()
	offer(p.low, struct{}{})
	c, err := p.launch(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.busy++
	p.mu.Unlock()
	return c, nil
}

// giveUp kills a worker that take returned, and waits for its exit.
func (p *Pool) giveUp(c *child) {
	c.hangUp()
	<-c.exited
	p.mu.Lock()
	p.busy--
	p.mu.Unlock()
}

var errNotReady = errors.New("another frame")

// readyWithin bounds a worker's start, which normally takes some 50 ms even on a loaded machine.
const readyWithin = 30 * time.Second

// launch starts a worker and waits until it is ready.
func (p *Pool) launch(ctx context.Context) (*child, error) {
	if p.ctx.Err() != nil {
		return nil, errors.New("the pool of workers is closed")
	}
	c, err := start(p.ctx, &p.wg, p.cfg)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.stats.Started++
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	stop := context.AfterFunc(ctx, c.kill)
	defer stop()
	f, err := c.next()
	if err == nil && f.GetReady() != nil {
		return c, nil
	}
	if err == nil {
		err = errNotReady
	}
	c.hangUp()
	<-c.exited
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, fmt.Errorf("a worker did not say that it is ready (%w); it ended with %s", err, c.state())
}
