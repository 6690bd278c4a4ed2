package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mpcd/mpcd/internal/bucket"
)

// runner takes sessions through their lives: it claims a request, begins its session, runs it,
// commits what it made and replays how it ended.
type runner struct {
	ports     Ports
	cfg       Config
	clock     clock
	admission *admission          // of hosted runs
	devices   *admission          // of device-held ones: a device that is slow takes no slot from those that compute
	unproven  unproven            // device-held ones whose device has not shown its share yet
	proofs    *bucket.Set[string] // of each caller, for hellos that prove nothing
	creates   *bucket.Set[string] // of each caller, for new device-held wallets that take pre-params
	recording turns               // of each caller, to record what it asks for
	waste     *bucket.Set[string] // of each owner, for runs that take pre-params and do not succeed
	parts     buffer              // what devices sent and no run has taken yet

	// ctx is the context of every run: a caller's context ends its stream, not its run.
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // one for each run, and for what tss-lib still computes of it

	mu   sync.Mutex      // guards what follows
	live map[runKey]*Run // runs that are starting or running
	// takeovers are runs of other instances of a live run's device, which may take it over.
	takeovers map[instanceKey]*Run
	// unrecorded are device-held runs that stand in no database yet, by session id.
	unrecorded map[string]*Run
	unstored   []*ending // of runs whose end the store did not take
	closed     bool
}

func newRunner(ctx context.Context, ports Ports, cfg Config, steady clock) *runner {
	s := &runner{ports: ports, cfg: cfg, clock: steady}
	s.live, s.takeovers, s.unrecorded = make(map[runKey]*Run), make(map[instanceKey]*Run), make(map[string]*Run)
	s.proofs, s.creates = newBuckets(maxBadProofs, refillProofs), newBuckets(s.cfg.Creates, refillCreates)
	s.waste = newBuckets(s.cfg.Creates, refillCreates)
	s.admission, s.devices = newAdmission(s.cfg.Slots, s.cfg.Queue), newAdmission(s.cfg.DeviceRuns, s.cfg.Queue)
	s.admission.share, s.devices.share = s.cfg.QueueShare, s.cfg.QueueShare
	s.devices.anew = max(1, s.cfg.DeviceRuns/2) // a silent device holds its slot
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return s
}

// start attaches to the run of the same request where there is one, and starts one
// where there is none.
func (s *runner) start(ctx context.Context, j job) (*Run, error) {
	r, mine, err := s.claim(j)
	if errors.Is(err, ErrShuttingDown) {
		return s.replayEnded(ctx, j)
	}
	if err != nil {
		return nil, err
	}
	if !mine {
		if r.failed() { // what this call asks for is the next attempt, which may begin when that one is gone
			select {
			case <-r.released:
				return s.start(ctx, j)
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
	defer func() { // after a panic too: nobody may wait for ever on a run that never began
		if !started {
			if err != nil {
				r.end(nil, err)
			}
			s.release(r)
		}
		close(r.ready)
	}()
	// Others may be attached already: that this caller goes away must not be their error.
	if started, err = s.begin(context.WithoutCancel(ctx), j, r); err != nil {
		return nil, err
	}
	return r, nil
}

// claim finds the live run of the request, or makes this call the one that starts it.
func (s *runner) claim(j job) (r *Run, mine bool, err error) {
	key := runKey{j.caller.Name, j.requestID}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.live[key]; ok {
		return r, false, r.sameRequest(j.fingerprint)
	}
	if s.closed {
		return nil, false, ErrShuttingDown
	}
	r = newRun(key, j.fingerprint)
	if j.op != OpSign && j.device == nil {
		r.walletID = j.walletID
	}
	s.live[key] = r
	s.wg.Add(1) // the claimant's, under mu, so that Close waits for what it may start
	return r, true, nil
}

// replayEnded answers with a session that has ended, where there is one: to repeat a result
// needs no run, so that a service that shuts down still does it.
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

// making counts the other live runs that make a set of a wallet.
func (s *runner) making(walletID string, but runKey) int {
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

func (s *runner) release(r *Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, r.key)
	if s.unrecorded[r.id] == r { // a run that never began has no id
		delete(s.unrecorded, r.id)
	}
	if r.successor != nil {
		s.live[r.key] = r.successor
	}
	close(r.released)
}

// begin starts the session's goroutine, or fills r from the session that is there already. The
// session is recorded, but for a device-held one's first attempt: until its device has shown its
// share it is in memory alone, where a token costs the store nothing. What is recorded already
// stays in order: its attempts have numbers, which proofs are bound to and which never come twice.
func (s *runner) begin(ctx context.Context, j job, r *Run) (started bool, err error) {
	there, err := s.find(ctx, j, r)
	if err != nil {
		return false, err
	}
	if there != nil && there.State != Interrupted {
		return false, s.replay(ctx, r, there)
	}
	if j.device != nil && j.device.Attempt != 0 { // its parties are of one that is over
		return false, fmt.Errorf("%w: attempt %d is over", ErrInterrupted, j.device.Attempt)
	}
	p, err := s.prepared(ctx, j)
	if err != nil {
		return false, err
	}
	var ticket *ticket // a device-held run gets its own when its device has shown its share
	if j.device == nil {
		ticket, err = s.admission.enqueue(j.caller.Name, j.op)
	} else { // where there is no room, nothing is recorded
		err = s.devices.hasPlace(j.caller.Name, j.op)
	}
	if err != nil {
		p.end()
		return false, err
	}
	var rec *Session
	unproven := there == nil && j.device != nil
	if unproven {
		rec = s.newSession(j, p)
	} else {
		rec, there, err = s.record(ctx, j, p, there)
	}
	if rec == nil { // another process was faster, or the store failed
		if ticket != nil {
			ticket.leave()
		}
		p.end()
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
		r.join(j.device, s.cfg.DeviceSilence, &s.parts)
		if unproven {
			s.remember(r, rec)
		}
		s.ports.Log.Debug("a session waits for its device's hello",
			"session_id", rec.ID, "attempt", rec.Attempt, "request_id", rec.RequestID)
		r.queued(0) // by which the device learns session and attempt, which its hello is about
	} else if position := ticket.at(); position > 0 { // whoever has to wait is told so, however short it is
		r.queued(position)
	}
	s.wg.Go(func() { s.run(r, rec, p, ticket) }) // ends by the run's deadline, or with s.ctx
	return true, nil
}

// find returns the request's session as it stands, which no run has, or nil where there is none.
func (s *runner) find(ctx context.Context, j job, r *Run) (*Session, error) {
	there, err := s.ports.Sessions.ByRequest(ctx, j.caller.Name, j.requestID)
	if errors.Is(err, ErrSessionNotFound) {
		return nil, nil //nolint:nilnil // there is none
	}
	if err != nil {
		return nil, err
	}
	if err := (&Run{fingerprint: there.Fingerprint}).sameRequest(r.fingerprint); err != nil {
		return nil, err
	}
	return s.settle(ctx, there)
}

// settle marks a session as INTERRUPTED that stands as unfinished in the store, although
// nobody runs it: its end could not be stored. The caller holds the request's claim, and
// a store belongs to one process.
func (s *runner) settle(ctx context.Context, there *Session) (*Session, error) {
	if there.State.Ended() {
		return there, nil
	}
	if end := s.endOf(there); end != nil {
		if _, err := s.storeEnd(ctx, end); err != nil {
			return nil, err
		}
		s.stored(end)
		return s.ports.Sessions.Session(ctx, there.ID)
	}
	there.State, there.Failure = Interrupted, failure(ErrInterrupted)
	err := s.ports.Sessions.Update(ctx, there, s.budget(), s.ended(there, "session.end", ErrInterrupted))
	if errors.Is(err, ErrSuperseded) { // cancelled in the meantime
		return s.ports.Sessions.Session(ctx, there.ID)
	}
	return there, err
}

// record begins a new session, or the next attempt of one that was interrupted. rec is
// nil where this call may not run it: there is the session as it stands then.
func (s *runner) record(ctx context.Context, j job, p *plan, interrupted *Session) (rec, there *Session, err error) {
	defer s.recording.take(j.caller.Name)()
	if interrupted == nil {
		rec = s.newSession(j, p)
		there, created, err := s.ports.Sessions.Begin(ctx, rec, s.entry(rec, "session.begin"))
		if err != nil || !created {
			return nil, there, err
		}
		return rec, nil, nil
	}
	rec = interrupted
	// A process that was killed has not stored how far it came.
	rec.Progress = Progress{Status: StatusQueued, Sequence: s.beyond(rec.Progress.Sequence), Attempt: rec.Attempt + 1}
	rec.State, rec.Failure, rec.Attempt, rec.ExpireTime, rec.Used = Queued, nil, rec.Attempt+1, s.expiry(), p.uses
	err = s.ports.Sessions.Restart(ctx, rec, s.entry(rec, "session.restart"))
	if errors.Is(err, ErrSuperseded) {
		there, err = s.ports.Sessions.Session(ctx, rec.ID)
		return nil, there, err
	}
	if err != nil {
		return nil, nil, err
	}
	return rec, nil, nil
}

// newSession returns the first attempt of a session, as it will be recorded.
func (s *runner) newSession(j job, p *plan) *Session {
	return &Session{
		ID: newID(), Caller: j.caller.Name, RequestID: j.requestID, Fingerprint: j.fingerprint,
		WalletID: p.walletID, Used: p.uses, Operation: j.op, State: Queued, Attempt: 1,
		CreateTime: s.clock.wallNow(), ExpireTime: s.expiry(),
	}
}

// expiry is when the result of an attempt that begins now is erased.
func (s *runner) expiry() time.Time { return s.clock.now().Add(s.cfg.ResultTTL) }

// maxSteps is more than the steps of any run, but for its reports from the queue.
const maxSteps = 256

// beyond returns a sequence that a run cannot have reached which had come so far: sequences rise
// over all attempts.
func (s *runner) beyond(sequence uint32) uint32 {
	waiting := uint32(s.cfg.RunTimeout / reportEvery) //nolint:gosec // G115: some minutes
	return sequence + waiting + maxSteps
}
