package worker

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"

	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/wire"

	workerv1 "github.com/mpcd/mpcd/gen/mpcd/worker/v1"
)

// Run is j.Run in a separate process, with the same results. It returns immediately when ctx ends; when the link is
// stopped, it returns once the worker has processed what arrived. If a worker dies after it received something from
// the device, the device is blamed with a *tss.ProtocolError; if it died before, the error is session.ErrInterrupted.
// The process has exited when Run returns.
func (p *Pool) Run(ctx context.Context, j *tss.Operation, link tss.Link) (*tss.Output, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{operation: j, link: link}
	first, err := r.begin(ctx, p)
	if err != nil {
		return nil, err
	}
	defer p.giveUp(r.child)
	defer context.AfterFunc(ctx, r.child.kill)()
	relayed := make(chan struct{})
	go func() { // ends with ctx
		defer close(relayed)
		r.relayed = r.relay(ctx)
		switch {
		case errors.Is(r.relayed, tss.ErrStopped):
			_ = r.child.tell(&workerv1.ToWorker{What: &workerv1.ToWorker_Stop{Stop: &workerv1.Stop{}}}) // the listener finds out how it ended
		case r.relayed != nil:
			cancel(r.relayed)
		}
	}()
	out, err := r.listen(ctx, first)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause // the first error: the others follow from it
	} else if errors.Is(err, errDied) {
		err = r.died(p)
	}
	cancel(nil)
	<-relayed
	if errors.Is(err, tss.ErrStopped) && errors.Is(r.relayed, tss.ErrStopped) {
		err = r.relayed // it has the reason
	}
	return out, err
}

// begin hands the run to a worker, and returns the worker's first frame. A worker that was killed while idle is
// replaced by another: this is safe because nothing from the device reaches a worker before that frame.
func (r *run) begin(ctx context.Context, p *Pool) (first *workerv1.FromWorker, err error) {
	for range startTries {
		if r.child, err = p.take(ctx); err != nil {
			break
		}
		stop := context.AfterFunc(ctx, r.child.kill)
		if first, err = r.open(); err == nil {
			stop()
			return first, nil
		}
		stop()
		p.giveUp(r.child)
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
	}
	return nil, fmt.Errorf("%w: no worker: %w", session.ErrInterrupted, err)
}

// startTries is how many workers may die before one begins.
const startTries = 3

// open sends the worker its run.
func (r *run) open() (*workerv1.FromWorker, error) {
	start, err := r.start()
	if err != nil {
		return nil, err
	}
	err = r.child.tell(start)
	clear(start.GetStart().GetShare())
	if err != nil {
		return nil, err
	}
	return r.child.next()
}

// run is one run, as the service sees it.
type run struct {
	operation *tss.Operation
	link      tss.Link
	child     *child
	heard     atomic.Bool // the worker received something from the device
	at        tss.ProtocolError
	own       error // why the service refused the worker's request

	relayed error // how the relay ended; owned by its goroutine until that has ended
}

func (r *run) start() (*workerv1.ToWorker, error) {
	j := r.operation
	s := &workerv1.Start{
		Operation: j.Kind, SessionId: j.SessionID, Attempt: j.Attempt, Purpose: uint32(j.Purpose), Payload: j.Payload,
		WalletId: j.WalletID, ShareSetId: j.ShareSetID, Record: j.Record,
	}
	for _, c := range j.Curves {
		s.Curves = append(s.Curves, uint32(c))
	}
	if j.Share != nil {
		share, err := j.Share.Encode()
		if err != nil {
			return nil, err
		}
		s.Share = share.Reveal()
	}
	return &workerv1.ToWorker{What: &workerv1.ToWorker_Start{Start: s}}, nil
}

// relay sends the worker what the device sends, until ctx is done or the worker has exited.
func (r *run) relay(ctx context.Context) error {
	for {
		part, err := r.link.Recv(ctx)
		if err != nil {
			return err
		}
		r.heard.Store(true)
		err = r.child.tell(&workerv1.ToWorker{What: &workerv1.ToWorker_Part{Part: wire.Message(part)}})
		if errors.Is(err, errFrame) {
			return &tss.ProtocolError{Culprit: tss.Client, Err: err}
		}
		if err != nil {
			return nil //nolint:nilerr // the listener finds out how it ended
		}
	}
}

var errDied = errors.New("the worker has died")

// listen handles the worker's frames, f being the first, until the run's result.
func (r *run) listen(ctx context.Context, f *workerv1.FromWorker) (*tss.Output, error) {
	for ; ; f = nil {
		if f == nil {
			var err error
			if f, err = r.child.next(); err != nil {
				r.child.kill() // if it is still alive, its output is unreadable
				return nil, errDied
			}
		}
		switch what := f.GetWhat().(type) {
		case *workerv1.FromWorker_Part:
			part, err := wire.Part(what.Part)
			if err != nil {
				return nil, fmt.Errorf("a worker's part: %w", err)
			}
			if err := r.link.Send(ctx, part); err != nil {
				return nil, err
			}
		case *workerv1.FromWorker_Step:
			r.step(what.Step)
		case *workerv1.FromWorker_Ask:
			r.answer(ctx, what.Ask)
		case *workerv1.FromWorker_Done:
			return r.done(what.Done)
		case *workerv1.FromWorker_Failed:
			return nil, r.failed(what.Failed)
		default:
			return nil, errors.New("a worker sent an unexpected frame")
		}
	}
}

func (r *run) step(s *workerv1.Step) {
	r.at.Curve, r.at.Round = tss.Curve(s.GetCurve()), int(s.GetRound()) //nolint:gosec // G115: a number of package tss's
	if r.operation.Progress != nil {
		r.operation.Progress(r.at.Curve, r.at.Round, int(s.GetRounds()))
	}
}

// answer answers a request of the worker's as the operation's own ports would. If the device broke the run meanwhile,
// the worker may have exited: its last frame is still in the pipe.
func (r *run) answer(ctx context.Context, q *workerv1.Ask) {
	a, err := r.resolve(ctx, q)
	switch {
	case errors.Is(err, tss.ErrStopped):
		a = &workerv1.Answer{Stopped: true}
	case err != nil:
		r.own, a = err, &workerv1.Answer{}
	}
	_ = r.child.tell(&workerv1.ToWorker{What: &workerv1.ToWorker_Answer{Answer: a}}) // the listener finds out how it ended
	clear(a.GetPreParams())
}

func (r *run) resolve(ctx context.Context, q *workerv1.Ask) (*workerv1.Answer, error) {
	switch what := q.GetWhat().(type) {
	case *workerv1.Ask_PreParams:
		pp, err := r.operation.PreParams(ctx)
		if err != nil {
			return nil, err
		}
		defer pp.Wipe()
		encoded, err := pp.Encode()
		if err != nil {
			return nil, err
		}
		return &workerv1.Answer{Ok: true, PreParams: encoded.Reveal()}, nil
	case *workerv1.Ask_Fresh:
		if r.operation.CheckModuli != nil {
			if err := r.operation.CheckModuli(new(big.Int).SetBytes(what.Fresh.GetN()), new(big.Int).SetBytes(what.Fresh.GetNTilde())); err != nil {
				return nil, err
			}
		}
		return &workerv1.Answer{Ok: true}, nil
	case *workerv1.Ask_Gate:
		if r.operation.BeforeRelease != nil {
			if err := r.operation.BeforeRelease(ctx, tss.ReleasePoint(what.Gate.GetMessage())); err != nil { //nolint:gosec // G115: a number of package tss's
				return nil, err
			}
		}
		return &workerv1.Answer{Ok: true}, nil
	}
	return nil, errors.New("a worker sent an unexpected request")
}

// done checks the worker's result against its record before it is used.
func (r *run) done(d *workerv1.Done) (*tss.Output, error) {
	out := &tss.Output{WalletID: r.operation.WalletID}
	if r.operation.Kind == tss.OperationSign {
		var err error
		out.Signature, err = r.signature(d)
		return out, err
	}
	defer clear(d.GetShare())
	record, err := tss.ParseRecord(d.GetRecord())
	if err != nil {
		return nil, fmt.Errorf("a worker's record: %w", err)
	}
	if out.Share, err = tss.ParseShare(d.GetShare()); err != nil {
		return nil, fmt.Errorf("a worker's share: %w", err)
	}
	if err = record.Check(out.Share, tss.Server, d.GetRecord()); err == nil && copy(out.ShareHash[:], d.GetShareHash()) != len(out.ShareHash) {
		err = errors.New("no hash of the device's share")
	}
	if err != nil {
		out.Share.Wipe()
		return nil, fmt.Errorf("a worker's share: %w", err)
	}
	out.Record, out.Keys = d.GetRecord(), record.Keys
	return out, nil
}

func (r *run) signature(d *workerv1.Done) (*tss.Signature, error) {
	sig := &tss.Signature{RecoveryID: uint8(d.GetRecoveryId())} //nolint:gosec // G115: 0 to 3, as Verify sees to
	if len(d.GetSignature()) != len(sig.Bytes) {
		return nil, errors.New("a worker's signature has another length")
	}
	copy(sig.Bytes[:], d.GetSignature())
	record, err := tss.ParseRecord(r.operation.Record)
	if err != nil {
		return nil, err
	}
	key, ok := record.Key(r.operation.Curves[0])
	if !ok {
		return nil, errors.New("a worker's signature is on no curve of the set")
	}
	return sig, tss.Verify(key.Curve, key.PublicKey, r.operation.Payload, sig)
}

func (r *run) failed(f *workerv1.Failed) error {
	switch {
	case f.GetStopped():
		return tss.ErrStopped
	case f.GetDevice(): // even if the service refused a request meanwhile
		return &tss.ProtocolError{Curve: tss.Curve(f.GetCurve()), Round: int(f.GetRound()), Culprit: tss.Client, Err: errors.New(f.GetText())} //nolint:gosec // G115: a number of package tss's
	case r.own != nil:
		return r.own
	}
	return fmt.Errorf("a worker failed: %s", f.GetText())
}

// died returns the error for a worker's death, with the party at fault.
func (r *run) died(p *Pool) error {
	p.mu.Lock()
	p.stats.Died++
	p.mu.Unlock()
	state := r.child.state()
	if !r.heard.Load() || p.ctx.Err() != nil {
		return fmt.Errorf("%w: the worker was killed, or died before it heard from the device: %s", session.ErrInterrupted, state)
	}
	at := r.at
	at.Culprit, at.Err = tss.Client, fmt.Errorf("the worker died: %s", state)
	return &at
}
