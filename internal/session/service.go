package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/mpcd/mpcd/internal/bucket"
	"github.com/mpcd/mpcd/internal/tss"
)

// Config holds the settings of a Service. Zero values mean those of DefaultConfig.
type Config struct {
	RunTimeout time.Duration // a run's deadline, waiting for a slot included
	ResultTTL  time.Duration // how long a set waits for its confirmation
	SessionTTL time.Duration // how long an ended session is remembered
	Slots      int           // how many runs compute at once; 0: one for each core
	DeviceRuns int           // how many device-held runs are under way at once; 0: 8 for each core, since they mostly wait
	Queue      int           // how many runs wait for a slot at most, hosted and device-held
	QueueShare int           // how many of them may be one caller's; 0: a quarter of Queue, at least 2
	// Creates is how many device-held wallets of SECP256K1 one caller may begin where pre-params are
	// not plenty (see refillCreates), and how many of an owner's runs may waste some.
	Creates       int
	PendingSets   int           // how many unconfirmed sets a wallet has at most
	Aborts        int           // what a set may cost, see Budget
	DeviceSilence time.Duration // how long a device may say nothing while its run waits for it
	RequireSealTo bool          // refuse requests whose result would come back in plaintext
	// Wall is the clock on the wall; time.Now. Tests make it jump.
	Wall func() time.Time
}

// DefaultConfig returns the settings of a Service for which nothing else is said. What is 0 in it
// follows from others, or from the machine.
func DefaultConfig() Config {
	return Config{
		RunTimeout:    10 * time.Minute,
		ResultTTL:     15 * time.Minute,
		SessionTTL:    30 * 24 * time.Hour,
		Queue:         256,
		Creates:       8,
		PendingSets:   16,
		Aborts:        5,
		DeviceSilence: 2 * time.Minute,
	}
}

func (c Config) withDefaults() Config {
	def := DefaultConfig()
	c.RunTimeout = cmp.Or(c.RunTimeout, def.RunTimeout)
	c.ResultTTL = cmp.Or(c.ResultTTL, def.ResultTTL)
	c.SessionTTL = cmp.Or(c.SessionTTL, def.SessionTTL)
	c.Slots = cmp.Or(c.Slots, runtime.GOMAXPROCS(0))
	c.DeviceRuns = cmp.Or(c.DeviceRuns, 8*runtime.GOMAXPROCS(0))
	c.Queue = cmp.Or(c.Queue, def.Queue)
	c.QueueShare = cmp.Or(c.QueueShare, quarter(c.Queue))
	c.Creates = cmp.Or(c.Creates, def.Creates)
	c.PendingSets = cmp.Or(c.PendingSets, def.PendingSets)
	c.Aborts = cmp.Or(c.Aborts, def.Aborts)
	c.DeviceSilence = cmp.Or(c.DeviceSilence, def.DeviceSilence)
	if c.Wall == nil {
		c.Wall = time.Now
	}
	return c
}

// Ports are the parts that a Service works with. All but Policy are needed.
type Ports struct {
	Wallets   Wallets
	Sessions  Sessions
	Budgets   Budgets
	Keeping   Housekeeper
	Sealer    Sealer
	Halves    Custodian // keeps the server's share of SIGNING sets
	Custodian Custodian // keeps the server's share of BACKUP sets
	PreParams PreParams
	Log       *slog.Logger
	Policy    Policy // nil: scopes and ownership are all
	// Joint runs the service's side of a device-held run, as (*tss.Joint).Run does, but
	// better in a process of its own; nil: here.
	Joint func(context.Context, *tss.Joint, tss.Link) (*tss.Joined, error)
}

// Service runs sessions. Its methods may be called by any number of goroutines.
type Service struct {
	Ports
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

var errClosing = errors.New("the service is shutting down")

// New returns a service that is ready to run. The caller must Close it. Sessions that
// an earlier process left unfinished are marked INTERRUPTED first.
func New(ctx context.Context, ports Ports, cfg Config) (*Service, error) {
	cfg = cfg.withDefaults()
	steady := newClock(cfg.Wall)
	n, err := ports.Keeping.InterruptAll(ctx, NewBudget(cfg.Aborts, steady.now()))
	if err != nil {
		return nil, fmt.Errorf("look for unfinished sessions: %w", err)
	}
	if n > 0 {
		ports.Log.Warn("sessions were interrupted by a restart", "count", n)
	}
	if ports.Joint == nil {
		ports.Joint = func(ctx context.Context, j *tss.Joint, link tss.Link) (*tss.Joined, error) { return j.Run(ctx, link) }
	}
	s := &Service{Ports: ports, cfg: cfg, clock: steady}
	s.live, s.takeovers, s.unrecorded = make(map[runKey]*Run), make(map[instanceKey]*Run), make(map[string]*Run)
	s.proofs, s.creates = newBuckets(maxBadProofs, refillProofs), newBuckets(s.cfg.Creates, refillCreates)
	s.waste = newBuckets(s.cfg.Creates, refillCreates)
	s.admission, s.devices = newAdmission(s.cfg.Slots, s.cfg.Queue), newAdmission(s.cfg.DeviceRuns, s.cfg.Queue)
	s.admission.share, s.devices.share = s.cfg.QueueShare, s.cfg.QueueShare
	s.devices.anew = max(1, s.cfg.DeviceRuns/2) // a silent device holds its slot
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return s, nil
}

// Drain refuses new runs and lets the running ones end, until ctx is done; then it ends
// them as INTERRUPTED. It returns when nothing computes any more. Calls that look at
// sessions or confirm sets go on working.
func (s *Service) Drain(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	idle := make(chan struct{})
	go func() { // ends with the last run, at the latest after the cancel below
		defer close(idle)
		s.wg.Wait()
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	s.cancel(errClosing)
	<-idle
	s.storeEnds(context.WithoutCancel(ctx)) // a hard abort would be lost
}

// Close is Drain without patience.
func (s *Service) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Drain(ctx)
}

// job is one request on its way to becoming a session.
type job struct {
	op          Operation
	caller      Caller
	requestID   string
	walletID    string // empty for a new wallet
	fingerprint []byte
	device      *Device // runs the client's side; nil: hosted
	// prepare checks the request against the store, before anything is recorded. Its
	// error goes to the caller, and leaves no session behind.
	prepare func(ctx context.Context) (*plan, error)
}

// plan is a request that may run.
type plan struct {
	walletID string
	uses     string  // the set that is reshared or signs; empty for a new wallet
	source   *source // the same, and
	payload  []byte  // what is signed: what a device's hello is about
	curves   []Curve // of a new wallet
	arms     bool    // the run is armed on its way, see Budget
	// question is for the policy, of a device-held run: it is asked when the device has shown its
	// share. nil: there is none to ask.
	question *Question
	// steps does the work and returns what is to be committed.
	steps func(ctx context.Context, w *work) (*made, error)
	// wipe ends the secrets that the plan holds. It may be nil.
	wipe func()
}

// start attaches to the run of the same request where there is one, and starts one
// where there is none.
func (s *Service) start(ctx context.Context, j job) (*Run, error) {
	r, mine, err := s.claim(j)
	if errors.Is(err, ErrShuttingDown) {
		return s.recall(ctx, j)
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
		if r.belongsTo(j.device) {
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
func (s *Service) claim(j job) (r *Run, mine bool, err error) {
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

// recall answers with a session that has ended, where there is one: to repeat a result
// needs no run, so that a service that shuts down still does it.
func (s *Service) recall(ctx context.Context, j job) (*Run, error) {
	there, err := s.Sessions.ByRequest(ctx, j.caller.Name, j.requestID)
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
func (s *Service) making(walletID string, but runKey) int {
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

func (s *Service) release(r *Run) {
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
func (s *Service) begin(ctx context.Context, j job, r *Run) (started bool, err error) {
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
		ticket, err = s.admission.enter(j.caller.Name, j.op)
	} else { // where there is no room, nothing is recorded
		err = s.devices.room(j.caller.Name, j.op)
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
		s.Log.Debug("a session waits for its device's hello", "session_id", rec.ID, "attempt", rec.Attempt, "request_id", rec.RequestID)
		r.queued(0) // by which the device learns session and attempt, which its hello is about
	} else if position := ticket.at(); position > 0 { // whoever has to wait is told so, however short it is
		r.queued(position)
	}
	s.wg.Go(func() { s.run(r, rec, p, ticket) }) // ends by the run's deadline, or with s.ctx
	return true, nil
}

// find returns the request's session as it stands, which no run has, or nil where there is none.
func (s *Service) find(ctx context.Context, j job, r *Run) (*Session, error) {
	there, err := s.Sessions.ByRequest(ctx, j.caller.Name, j.requestID)
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

// prepared checks the request, and notes where it is refused.
func (s *Service) prepared(ctx context.Context, j job) (*plan, error) {
	p, err := j.prepare(ctx)
	if err != nil {
		s.refused(ctx, Entry{Caller: j.caller.Name, Action: "session.begin", WalletID: j.walletID, Detail: j.op.String()}, err)
	}
	return p, err
}

// settle marks a session as INTERRUPTED that stands as unfinished in the store, although
// nobody runs it: its end could not be stored. The caller holds the request's claim, and
// a store belongs to one process.
func (s *Service) settle(ctx context.Context, there *Session) (*Session, error) {
	if there.State.Ended() {
		return there, nil
	}
	if end := s.endOf(there); end != nil {
		if _, err := s.storeEnd(ctx, end); err != nil {
			return nil, err
		}
		s.stored(end)
		return s.Sessions.Session(ctx, there.ID)
	}
	there.State, there.Failure = Interrupted, failure(ErrInterrupted)
	err := s.Sessions.Update(ctx, there, s.budget(), s.ended(there, "session.end", ErrInterrupted))
	if errors.Is(err, ErrSuperseded) { // cancelled in the meantime
		return s.Sessions.Session(ctx, there.ID)
	}
	return there, err
}

// record begins a new session, or the next attempt of one that was interrupted. rec is
// nil where this call may not run it: there is the session as it stands then.
func (s *Service) record(ctx context.Context, j job, p *plan, interrupted *Session) (rec, there *Session, err error) {
	defer s.recording.take(j.caller.Name)()
	if interrupted == nil {
		rec = s.newSession(j, p)
		there, created, err := s.Sessions.Begin(ctx, rec, s.entry(rec, "session.begin"))
		if err != nil || !created {
			return nil, there, err
		}
		return rec, nil, nil
	}
	rec = interrupted
	// A process that was killed has not stored how far it came.
	rec.Progress = Progress{Status: StatusQueued, Sequence: s.beyond(rec.Progress.Sequence), Attempt: rec.Attempt + 1}
	rec.State, rec.Failure, rec.Attempt, rec.ExpireTime, rec.Used = Queued, nil, rec.Attempt+1, s.expiry(), p.uses
	err = s.Sessions.Restart(ctx, rec, s.entry(rec, "session.restart"))
	if errors.Is(err, ErrSuperseded) {
		there, err = s.Sessions.Session(ctx, rec.ID)
		return nil, there, err
	}
	if err != nil {
		return nil, nil, err
	}
	return rec, nil, nil
}

// newSession returns the first attempt of a session, as it will be recorded.
func (s *Service) newSession(j job, p *plan) *Session {
	return &Session{
		ID: newID(), Caller: j.caller.Name, RequestID: j.requestID, Fingerprint: j.fingerprint,
		WalletID: p.walletID, Used: p.uses, Operation: j.op, State: Queued, Attempt: 1,
		CreateTime: s.clock.wallNow(), ExpireTime: s.expiry(),
	}
}

// expiry is when the result of an attempt that begins now is erased.
func (s *Service) expiry() time.Time { return s.clock.now().Add(s.cfg.ResultTTL) }

// maxSteps is more than the steps of any run, but for its reports from the queue.
const maxSteps = 256

// beyond returns a sequence that a run cannot have reached which had come so far: sequences rise
// over all attempts.
func (s *Service) beyond(sequence uint32) uint32 {
	waiting := uint32(s.cfg.RunTimeout / reportEvery) //nolint:gosec // G115: some minutes
	return sequence + waiting + maxSteps
}

// allowed asks the policy, where there is one.
func (s *Service) allowed(ctx context.Context, q Question) error {
	if s.Policy == nil {
		return nil
	}
	return s.Policy.Allow(ctx, q)
}

// refused notes a decision against a caller. What is only malformed is no decision, and
// neither is a fault of ours.
func (s *Service) refused(ctx context.Context, e Entry, err error) {
	e.Outcome, e.Reason = outcomeRefused, Reason(err)
	switch e.Reason {
	case ErrInvalidArgument.Reason, ErrShareMalformed.Reason, ErrInternal.Reason, ErrInterrupted.Reason:
		return
	case ErrPolicyDenied.Reason:
		if d := new(DeniedError); errors.As(err, &d) {
			e.Detail = strings.TrimSpace(e.Detail + " " + d.Why)
		}
	case ErrWalletNotFound.Reason: // nobody begins, or adds to, the chain of a wallet that is not theirs
		e.Detail = strings.TrimSpace(e.Detail + " wallet " + e.WalletID)
		e.WalletID = ""
	}
	s.note(ctx, e)
}

// note writes an audit entry that goes with no change. That it could not be written is
// in the log, and changes nothing of what was decided.
func (s *Service) note(ctx context.Context, e Entry) {
	e.Time = s.clock.wallNow()
	if err := s.Keeping.Record(context.WithoutCancel(ctx), e); err != nil {
		s.Log.Error("an audit entry could not be written", "action", e.Action, "caller", e.Caller, "error", err)
	}
}

func (p *plan) end() {
	if p.wipe != nil {
		p.wipe()
	}
}

// replay fills r with the end of a session that is not live.
func (s *Service) replay(ctx context.Context, r *Run, there *Session) error {
	if err := (&Run{fingerprint: there.Fingerprint}).sameRequest(r.fingerprint); err != nil {
		return err
	}
	r.mu.Lock()
	r.id, r.created, r.attempt = there.ID, there.CreateTime, there.Attempt
	r.log = []Progress{there.Progress}
	r.mu.Unlock()
	out, err := s.outcome(ctx, there)
	r.end(out, err)
	return nil
}
