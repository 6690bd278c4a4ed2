package session

import (
	"context"
	"fmt"
	"time"
)

// errTakenOver ends an attempt whose device restarted as another instance.
var errTakenOver = fmt.Errorf("%w: another instance of the device has taken over", ErrInterrupted)

// instanceKey identifies another instance of a live session's device.
type instanceKey struct{ sessionID, instance string }

// isOfInstance reports whether a call may attach to the run: it is from the instance at the run's other end, or the
// run has no device.
func (r *Run) isOfInstance(d *Device) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d == nil || r.ended || r.device == nil { // an end is sent to every instance
		return true
	}
	return r.device.instance == d.Instance && (d.Attempt == 0 || d.Attempt == r.attempt)
}

// otherInstance returns the run of another instance of a live run's device. The instance is told the next attempt, and
// takes over when its hello has proved its share: until then the live run continues.
func (s *runner) otherInstance(ctx context.Context, r *Run, j job) (*Run, error) {
	key := instanceKey{r.SessionID(), j.device.Instance}
	s.mu.Lock()
	there := s.takeovers[key]
	s.mu.Unlock()
	if attempt := j.device.Attempt; attempt != 0 && (there == nil || attempt != there.attempt) {
		return nil, fmt.Errorf("%w: attempt %d is over", ErrInterrupted, attempt)
	}
	if there != nil { // it attaches again
		return there, nil
	}
	p, err := s.prepareJob(context.WithoutCancel(ctx), j)
	if err != nil {
		return nil, err
	}
	n := newRun(r.key, r.fingerprint)
	n.id, n.created, n.attempt = key.sessionID, time.Now(), r.attempt+1
	n.first = s.sequenceBeyond(r.lastProgress().Sequence)
	n.connectDevice(j.device, s.cfg.DeviceSilence, &s.parts)
	n.reportQueued(0)
	close(n.ready)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		p.wipe()
		return nil, ErrShuttingDown
	}
	if there = s.takeovers[key]; there != nil { // from a concurrent call
		p.wipe()
		return there, nil
	}
	s.takeovers[key] = n
	s.wg.Go(func() { s.runTakeover(n, r, j, p) }) // ends with proofTime, or as a run does
	return n, nil
}

// runTakeover runs n, from its takeover of r to its end.
func (s *runner) runTakeover(n, r *Run, j job, p *plan) {
	rec, err := s.takeOver(n, r, j, p)
	s.mu.Lock()
	delete(s.takeovers, instanceKey{n.id, n.device.instance})
	mine := s.live[n.key] == n
	s.mu.Unlock()
	switch {
	case rec != nil:
		s.run(n, rec, p, nil)
		return
	case err != nil:
		err = s.classify(err, false)
		s.auditRefusal(s.ctx, Entry{
			Caller: j.caller.Name, Action: "session.takeover", WalletID: p.walletID, ShareSetID: p.uses, SessionID: n.id,
			Detail: j.op.String(),
		}, err)
		n.end(nil, err)
	}
	n.device.close()
	p.wipe()
	if mine {
		s.releaseRun(n)
	}
}

// takeOver waits for the proof of n's device, ends the live run r, and records the next attempt. If the session has
// ended for good, it sets the end of n and returns nil without an error.
func (s *runner) takeOver(n, r *Run, j job, p *plan) (rec *Session, err error) {
	defer func() {
		if v := recover(); v != nil {
			// The value may hold a secret; its type is enough.
			rec, err = nil, fmt.Errorf("%w: a takeover panicked with a %T", ErrInternal, v)
		}
	}()
	ctx, stop := context.WithCancelCause(s.ctx)
	defer stop(nil)
	n.setStop(stop)
	over := make(chan struct{})
	go func() { // ends with the hello, or with the run
		select {
		case <-r.released:
			stop(fmt.Errorf("%w: the previous attempt has ended", ErrInterrupted))
		case <-over:
		}
	}()
	draft := s.newSession(j, p)
	draft.ID, draft.Attempt = n.id, n.attempt
	draft.Progress = Progress{Status: StatusQueued, Sequence: n.first, Attempt: n.attempt}
	err = s.authoriseDevice(ctx, n, draft, p)
	close(over)
	if err == nil {
		err = s.setSuccessor(n, r, draft)
	}
	if err != nil {
		return nil, err
	}
	r.cancel(errTakenOver)
	<-r.released // soon: its computation is killed or abandoned
	ctx = context.WithoutCancel(ctx)
	there, err := s.findSettled(ctx, j, n)
	if err == nil && there == nil { // the previous attempt was not recorded
		s.keepDraft(n, draft)
		return draft, nil
	}
	s.dropDraft(n)
	switch {
	case err != nil:
		return nil, err
	case there.State == Interrupted && there.Attempt+1 == n.attempt:
		rec, there, err = s.record(ctx, j, p, there)
	}
	if rec == nil && err == nil {
		return nil, s.replay(ctx, n, there)
	}
	if rec != nil {
		n.mu.Lock()
		n.first = rec.Progress.Sequence
		n.mu.Unlock()
	}
	return rec, err
}

// setSuccessor makes n the live run once r is over. Only the first instance that proved its share succeeds. If the
// session of r is not recorded yet, that of n is found in its place.
func (s *runner) setSuccessor(n, r *Run, draft *Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrShuttingDown
	case s.live[r.key] != r || r.successor != nil:
		return errTakenOver
	}
	r.successor = n
	if r.draft != nil {
		rec := *draft
		n.draft, s.unrecorded[n.id] = &rec, n
	}
	return nil
}
