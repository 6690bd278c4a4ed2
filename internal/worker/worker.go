// Package worker runs the service's side of a device-held run in a separate process.
//
// tss-lib panics in goroutines that cannot be recovered, and cannot be stopped during a computation (docs/adr/0005).
// Every message is checked before it; if a check has a gap, a hostile device breaks only its own worker: a Pool
// starts one process per run, limits its memory and CPU time, and kills it when the run is cancelled. Main is what
// runs in it.
//
// Both are the same program. They talk through pipes, which are the only way for shares and pre-params: a worker has
// no arguments but its limits, an empty environment, and nothing on disk. It serves one run, and exits when the pipe
// is closed, so that it cannot outlive the service. The service does not trust its results: they are parsed and
// checked against the record again.
package worker

import (
	"context"
	"errors"
	"io"
	"math/big"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/wire"

	workerv1 "github.com/mpcd/mpcd/gen/mpcd/worker/v1"
)

// Main serves one run, which it reads from in, and returns when the result is written to out. It exits the process
// when in is closed: then the service is gone.
func Main(in io.Reader, out io.Writer, limits Limits) error {
	// The service decides when a worker ends: signals to the whole process group are for the service.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := limits.apply(); err != nil {
		return err
	}
	p := &process{
		out: out, start: make(chan *workerv1.Start, 1), parts: make(chan tss.Part, tss.MaxParts), answers: make(chan *workerv1.Answer, 1),
	}
	go p.read(in) // ends the process
	if err := p.say(&workerv1.FromWorker{What: &workerv1.FromWorker_Ready{Ready: &workerv1.Ready{}}}); err != nil {
		return err
	}
	return p.run(context.Background(), <-p.start)
}

// process is the worker's end of the pipes.
type process struct {
	start   chan *workerv1.Start
	parts   chan tss.Part
	answers chan *workerv1.Answer

	stopped bool // parts is closed; used by the reader only

	asking sync.Mutex // one request at a time
	mu     sync.Mutex // guards out
	out    io.Writer
}

// exitOrphan is the exit code of a worker whose service is gone, or sent an invalid frame.
const exitOrphan = 3

func (p *process) read(in io.Reader) {
	for {
		var f workerv1.ToWorker
		if read(in, &f) != nil || !p.take(&f) {
			os.Exit(exitOrphan) // immediately, whatever tss-lib is computing
		}
	}
}

// take delivers a frame. It returns false for one that is invalid or that nothing waits for.
func (p *process) take(f *workerv1.ToWorker) bool {
	switch what := f.GetWhat().(type) {
	case *workerv1.ToWorker_Start:
		return offer(p.start, what.Start)
	case *workerv1.ToWorker_Part:
		part, err := wire.Part(what.Part)
		return err == nil && !p.stopped && offer(p.parts, part)
	case *workerv1.ToWorker_Stop:
		if p.stopped {
			return false
		}
		p.stopped = true
		close(p.parts)
		return true
	case *workerv1.ToWorker_Answer:
		return offer(p.answers, what.Answer)
	}
	return false
}

func offer[T any](to chan<- T, v T) bool {
	select {
	case to <- v:
		return true
	default:
		return false
	}
}

func (p *process) say(f *workerv1.FromWorker) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return write(p.out, f)
}

// Send implements tss.Link.
func (p *process) Send(_ context.Context, part tss.Part) error {
	return p.say(&workerv1.FromWorker{What: &workerv1.FromWorker_Part{Part: wire.Message(part)}})
}

// Recv implements tss.Link.
func (p *process) Recv(ctx context.Context) (tss.Part, error) {
	select {
	case part, more := <-p.parts:
		if !more {
			return tss.Part{}, tss.ErrStopped
		}
		return part, nil
	case <-ctx.Done():
		return tss.Part{}, context.Cause(ctx)
	}
}

// errRefused stands for a reason that the service knows.
var errRefused = errors.New("the service refused")

// ask sends a request to the service. It fails with errRefused if the service refuses it, and with tss.ErrStopped if
// the run was stopped.
func (p *process) ask(ctx context.Context, q *workerv1.Ask) (*workerv1.Answer, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	if err := p.say(&workerv1.FromWorker{What: &workerv1.FromWorker_Ask{Ask: q}}); err != nil {
		return nil, err
	}
	select {
	case a := <-p.answers:
		switch {
		case a.GetStopped():
			return nil, tss.ErrStopped
		case !a.GetOk():
			return nil, errRefused
		}
		return a, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *process) preParams(ctx context.Context) (*tss.PreParams, error) {
	a, err := p.ask(ctx, &workerv1.Ask{What: &workerv1.Ask_PreParams{PreParams: &workerv1.PreParams{}}})
	if err != nil {
		return nil, err
	}
	encoded := secret.New(a.GetPreParams())
	defer encoded.Wipe()
	return tss.ParsePreParams(encoded)
}

// run executes a run.
func (p *process) run(ctx context.Context, s *workerv1.Start) error {
	f := &workerv1.FromWorker{}
	done, err := p.compute(ctx, s)
	if err == nil {
		defer clear(done.GetShare())
		f.What = &workerv1.FromWorker_Done{Done: done}
	} else {
		f.What = &workerv1.FromWorker_Failed{Failed: failed(err)}
	}
	return p.say(f)
}

// compute runs the side.
func (p *process) compute(ctx context.Context, s *workerv1.Start) (*workerv1.Done, error) {
	j := &tss.Operation{
		Party: tss.Server, Kind: s.GetOperation(), SessionID: s.GetSessionId(), Attempt: s.GetAttempt(), Purpose: tss.Purpose(s.GetPurpose()), //nolint:gosec // G115: a number of package tss's
		Payload: s.GetPayload(), WalletID: s.GetWalletId(), ShareSetID: s.GetShareSetId(), Record: s.GetRecord(),
		PreParams: p.preParams,
		CheckModuli: func(n, nTilde *big.Int) error {
			_, err := p.ask(ctx, &workerv1.Ask{What: &workerv1.Ask_Fresh{Fresh: &workerv1.Moduli{N: n.Bytes(), NTilde: nTilde.Bytes()}}})
			return err
		},
		BeforeRelease: func(ctx context.Context, g tss.ReleasePoint) error {
			_, err := p.ask(ctx, &workerv1.Ask{What: &workerv1.Ask_Gate{Gate: &workerv1.Gate{Message: uint32(g)}}})
			return err
		},
		Progress: func(c tss.Curve, k, n int) {
			// An error means that the service is gone: the reader then ends the process.
			_ = p.say(&workerv1.FromWorker{What: &workerv1.FromWorker_Step{Step: &workerv1.Step{Curve: uint32(c), Round: uint32(k), Rounds: uint32(n)}}}) //nolint:gosec // G115: some rounds
		},
	}
	for _, c := range s.GetCurves() {
		j.Curves = append(j.Curves, tss.Curve(c)) //nolint:gosec // G115: a number of package tss's
	}
	if len(s.GetShare()) > 0 {
		share, err := tss.ParseShare(s.GetShare())
		clear(s.GetShare())
		if err != nil {
			return nil, err
		}
		defer share.Wipe()
		j.Share = share
	}
	out, err := j.Run(ctx, p)
	if err != nil {
		return nil, err
	}
	return done(out)
}

// done encodes the result of a successful run for the service.
func done(out *tss.Output) (*workerv1.Done, error) {
	if sig := out.Signature; sig != nil {
		return &workerv1.Done{Signature: sig.Bytes[:], RecoveryId: uint32(sig.RecoveryID)}, nil
	}
	defer out.Share.Wipe()
	share, err := out.Share.Encode()
	if err != nil {
		return nil, err
	}
	return &workerv1.Done{Record: out.Record, Share: share.Reveal(), ShareHash: out.ShareHash[:]}, nil
}

func failed(err error) *workerv1.Failed {
	var p *tss.ProtocolError
	if errors.As(err, &p) {
		return &workerv1.Failed{
			Device: p.Culprit == tss.Client, Curve: uint32(p.Curve), Round: uint32(p.Round), Text: p.Err.Error(), //nolint:gosec // G115: some rounds
		}
	}
	return &workerv1.Failed{Text: err.Error(), Stopped: errors.Is(err, tss.ErrStopped)}
}
