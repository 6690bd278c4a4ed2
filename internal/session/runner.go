package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mpcd/mpcd/internal/bucket"
)

// runner implements Service: it claims a request, begins its session, runs it, commits the result, and replays its
// end.
type runner struct {
	ports     Ports
	cfg       Config
	clock     clock
	admission *admission          // hosted runs
	devices   *admission          // device-held runs, separately: a slow device takes no slot from hosted runs
	unproven  unproven            // device-held runs whose device has not proved its share yet
	proofs    *bucket.Set[string] // by caller: hellos that failed their proof
	creates   *bucket.Set[string] // by caller: new device-held wallets that take pre-params
	recording recordingLimits     // by caller: requests that are being recorded
	waste     *bucket.Set[string] // by owner: runs that took pre-params without success
	parts     buffer              // received from devices and not processed yet

	// ctx is the context of all runs: the end of a caller's context ends its stream, not its run.
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // one for each run, and for the rest of its computation in tss-lib

	mu   sync.Mutex      // guards what follows
	live map[runKey]*Run // starting or running
	// takeovers are runs of other instances of a live run's device that may take it over.
	takeovers map[instanceKey]*Run
	// unrecorded are device-held runs whose session is not in the store yet, by session id.
	unrecorded map[string]*Run
	unstored   []*ending // ends that the store could not take yet
	closed     bool
}

func newRunner(ctx context.Context, ports Ports, cfg Config, steady clock) *runner {
	s := &runner{ports: ports, cfg: cfg, clock: steady}
	s.live, s.takeovers, s.unrecorded = make(map[runKey]*Run), make(map[instanceKey]*Run), make(map[string]*Run)
	s.proofs, s.creates = newBuckets(maxBadProofs, refillProofs), newBuckets(s.cfg.Creates, refillCreates)
	s.waste = newBuckets(s.cfg.Creates, refillCreates)
	s.admission, s.devices = newAdmission(s.cfg.Slots, s.cfg.Queue), newAdmission(s.cfg.DeviceRuns, s.cfg.Queue)
	s.admission.share, s.devices.share = s.cfg.QueueShare, s.cfg.QueueShare
	s.devices.maxCreates = max(1, s.cfg.DeviceRuns/2) // a silent device keeps its slot
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return s
}

// attachOrStart attaches to the live run of the same request, or starts one.
func (s *runner) attachOrStart(ctx context.Context, j job) (*Run, error) {
	r, mine, err := s.claim(j)
	if errors.Is(err, ErrShuttingDown) {
		return s.replayEnded(ctx, j)
	}
	if err != nil {
		return nil, err
	}
	if !mine {
		if r.failed() { // this call asks for the next attempt, which may begin after this one
			select {
			case <-r.released:
				return s.attachOrStart(ctx, j)
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		select {
		case <-r.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if r.isOfInstance(j.device) {
			return r, nil
		}
		return s.otherInstance(ctx, r, j)
	}
	defer s.wg.Done()
	started := false
	err = fmt.Errorf("%w: the beginning of a session panicked", ErrInternal)
	defer func() { // after a panic too: no caller may wait forever for a run that did not start
		if !started {
			if err != nil {
				r.end(nil, err)
			}
			s.releaseRun(r)
		}
		close(r.ready)
	}()
	// Other callers may be attached already: they must not fail because this one disconnects.
	if started, err = s.begin(context.WithoutCancel(ctx), j, r); err != nil {
		return nil, err
	}
	return r, nil
}

// claim returns the live run of the request; mine: there was none, and this call must start the returned one.
func (s *runner) claim(j job) (r *Run, mine bool, err error) {
	key := runKey{j.caller.Name, j.requestID}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.live[key]; ok {
		return r, false, r.checkFingerprint(j.fingerprint)
	}
	if s.closed {
		return nil, false, ErrShuttingDown
	}
	r = newRun(key, j.fingerprint)
	if j.op != OpSign && j.device == nil {
		r.walletID = j.walletID
	}
	s.live[key] = r
	s.wg.Add(1) // under mu, so that Drain waits for the run that this call starts
	return r, true, nil
}

// replayEnded returns a session that has ended. Repeating a result needs no run, so it works during a shutdown too.
func (s *runner) replayEnded(ctx context.Context, j job) (*Run, error) {
	there, err := s.ports.Sessions.ByRequest(ctx, j.caller.Name, j.requestID)
	if errors.Is(err, ErrSessionNotFound) || err == nil && (!there.State.Ended() || there.State == Interrupted) {
		return nil, ErrShuttingDown
	}
	if err != nil {
		return nil, err
	}
	r := newRun(runKey{j.caller.Name, j.requestID}, j.fingerprint)
	close(r.ready)
	return r, s.replay(ctx, r, there)
}

// countMaking counts the other live runs that make a set of a wallet.
func (s *runner) countMaking(walletID string, but runKey) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for key, r := range s.live {
		if key != but && r.walletID == walletID {
			n++
		}
	}
	return n
}

// releaseRun removes a run that is over, and makes its successor live.
func (s *runner) releaseRun(r *Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, r.key)
	if s.unrecorded[r.id] == r { // a run that did not start has no id
		delete(s.unrecorded, r.id)
	}
	if r.successor != nil {
		s.live[r.key] = r.successor
	}
	close(r.released)
}

// begin starts the run's goroutine, or fills r from a session that has already ended. The session is recorded first,
// except a device-held session's first attempt: it is only in memory until its device has proved its share, so that a
// token alone costs the store nothing. Later attempts are recorded at once: their numbers, which proofs are bound to,
// must never repeat.
func (s *runner) begin(ctx context.Context, j job, r *Run) (started bool, err error) {
	there, err := s.findSettled(ctx, j, r)
	if err != nil {
		return false, err
	}
	if there != nil && there.State != Interrupted {
		return false, s.replay(ctx, r, there)
	}
	if j.device != nil && j.device.Attempt != 0 { // it takes part in an attempt that is over
		return false, fmt.Errorf("%w: attempt %d is over", ErrInterrupted, j.device.Attempt)
	}
	p, err := s.prepareJob(ctx, j)
	if err != nil {
		return false, err
	}
	var ticket *ticket // a device-held run gets its ticket in awaitSlot
	if j.device == nil {
		ticket, err = s.admission.enqueue(j.caller.Name, j.op)
	} else { // nothing is recorded if the queue is full
		err = s.devices.checkCapacity(j.caller.Name, j.op)
	}
	if err != nil {
		p.wipe()
		return false, err
	}
	var rec *Session
	unproven := there == nil && j.device != nil
	if unproven {
		rec = s.newSession(j, p)
	} else {
		rec, there, err = s.record(ctx, j, p, there)
	}
	if rec == nil { // another process was first, or the store failed
		if ticket != nil {
			ticket.leave()
		}
		p.wipe()
		if err != nil {
			return false, err
		}
		return false, s.replay(ctx, r, there)
	}
	r.mu.Lock()
	r.id, r.created, r.attempt = rec.ID, time.Now(), rec.Attempt
	r.first = rec.Progress.Sequence
	r.mu.Unlock()
	if j.device != nil {
		r.connectDevice(j.device, s.cfg.DeviceSilence, &s.parts)
		if unproven {
			s.keepDraft(r, rec)
		}
		s.ports.Log.Debug("a session waits for its device's hello",
			"session_id", rec.ID, "attempt", rec.Attempt, "request_id", rec.RequestID)
		r.reportQueued(0) // tells the device the session and attempt, which its hello must contain
	} else if position := ticket.currentPosition(); position > 0 { // reported however short the wait is
		r.reportQueued(position)
	}
	s.wg.Go(func() { s.run(r, rec, p, ticket) }) // ends at the run's deadline, or with s.ctx
	return true, nil
}

// findSettled returns the request's session, which no run has, as it ended; nil: there is none.
func (s *runner) findSettled(ctx context.Context, j job, r *Run) (*Session, error) {
	there, err := s.ports.Sessions.ByRequest(ctx, j.caller.Name, j.requestID)
	if errors.Is(err, ErrSessionNotFound) {
		return nil, nil //nolint:nilnil // there is none
	}
	if err != nil {
		return nil, err
	}
	if err := (&Run{fingerprint: there.Fingerprint}).checkFingerprint(r.fingerprint); err != nil {
		return nil, err
	}
	return s.settle(ctx, there)
}

// settle marks a session as INTERRUPTED that is unfinished in the store although no run has it, because its end could
// not be stored. The caller has claimed the request, and a store belongs to one process.
func (s *runner) settle(ctx context.Context, there *Session) (*Session, error) {
	if there.State.Ended() {
		return there, nil
	}
	if end := s.unstoredEnd(there); end != nil {
		if _, err := s.storeEnd(ctx, end); err != nil {
			return nil, err
		}
		s.dropUnstored(end)
		return s.ports.Sessions.Session(ctx, there.ID)
	}
	there.State, there.Failure = Interrupted, failure(ErrInterrupted)
	err := s.ports.Sessions.Update(ctx, there, s.budget(), s.failureEntry(there, "session.end", ErrInterrupted))
	if errors.Is(err, ErrSuperseded) { // cancelled in the meantime
		return s.ports.Sessions.Session(ctx, there.ID)
	}
	return there, err
}

// record records a new session, or the next attempt of an interrupted one. If this call may not run it, rec is nil and
// there is the session in the store.
func (s *runner) record(ctx context.Context, j job, p *plan, interrupted *Session) (rec, there *Session, err error) {
	defer s.recording.acquire(j.caller.Name)()
	if interrupted == nil {
		rec = s.newSession(j, p)
		there, created, err := s.ports.Sessions.Begin(ctx, rec, s.auditEntry(rec, "session.begin"))
		if err != nil || !created {
			return nil, there, err
		}
		return rec, nil, nil
	}
	rec = interrupted
	// A process that was killed has not stored its last progress.
	rec.Attempt++
	rec.Progress = Progress{
		Status: StatusQueued, Sequence: s.sequenceBeyond(rec.Progress.Sequence), Attempt: rec.Attempt,
	}
	rec.State, rec.Failure, rec.ExpireTime, rec.Used = Queued, nil, s.expiry(), p.uses
	err = s.ports.Sessions.Restart(ctx, rec, s.auditEntry(rec, "session.restart"))
	if errors.Is(err, ErrSuperseded) {
		there, err = s.ports.Sessions.Session(ctx, rec.ID)
		return nil, there, err
	}
	if err != nil {
		return nil, nil, err
	}
	return rec, nil, nil
}

// newSession returns the first attempt of a session, not recorded yet.
func (s *runner) newSession(j job, p *plan) *Session {
	return &Session{
		ID: newID(), Caller: j.caller.Name, RequestID: j.requestID, Fingerprint: j.fingerprint,
		WalletID: p.walletID, Used: p.uses, Operation: j.op, State: Queued, Attempt: 1,
		CreateTime: s.clock.wallNow(), ExpireTime: s.expiry(),
	}
}

// expiry returns when the result of an attempt that begins now is erased.
func (s *runner) expiry() time.Time { return s.clock.now().Add(s.cfg.ResultTTL) }

// maxSteps is an upper bound of the progress entries of a run, except its reports from the queue.
const maxSteps = 256

// sequenceBeyond returns a sequence number that a run whose last stored progress had the given one cannot have
// reached: sequence numbers increase over all attempts.
func (s *runner) sequenceBeyond(sequence uint32) uint32 {
	waiting := uint32(s.cfg.RunTimeout / reportEvery) //nolint:gosec // G115: some minutes
	return sequence + waiting + maxSteps
}
