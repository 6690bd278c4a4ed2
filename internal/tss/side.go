package tss

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"

	lib "github.com/bnb-chain/tss-lib/v2/tss"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// Observer follows a run. The zero value is valid.
type Observer struct {
	// Round is called when the run enters round k of n; k increases. It is called from the run's goroutines, one call at
	// a time, and must not block.
	Round func(k, n int)
	// Busy counts runs that still compute. tss-lib cannot be stopped in the middle of a computation: a cancelled run
	// returns at once, and Busy drops to zero after the last computation has ended and its secrets are wiped.
	Busy *sync.WaitGroup
}

// committee is the party keys of one committee, by Party. Every party makes its own PartyIDs from it, since tss-lib
// writes to them when it sorts them (tss-lib.md, row 1).
type committee [2]*big.Int

func (c committee) ids(label string) [2]*lib.PartyID {
	var ids [2]*lib.PartyID
	for p, key := range c {
		name := label + "-" + Party(p).String()
		ids[p] = lib.NewPartyID(name, name, key)
	}
	return ids
}

func sorted(ids [2]*lib.PartyID) *lib.PeerContext {
	return lib.NewPeerContext(lib.SortPartyIDs(lib.UnSortedPartyIDs{ids[0], ids[1]}))
}

// outDepth is the capacity of a party's channels: more than the messages that it sends in a whole 2-of-2 run (11 in
// ECDSA signing) plus one marker after each input. tss-lib, which sends with its lock held, never waits for us.
const outDepth = 32

// localParty is one tss-lib party of this side.
type localParty struct {
	role    role
	key     *big.Int
	party   lib.Party
	senders [2][2]*lib.PartyID // by role and Party: the senders' ids in this party's context
	out     chan lib.Message
	inbox   chan lib.ParsedMessage
	ended   func() bool // moves the party's result out of its end channel, and reports whether there is one

	// Guarded by the side's mu. pending counts the party's inputs, of which its start is the first, until the messages
	// that it sends in response have been routed. done means that it will send nothing more.
	pending int
	done    bool
}

func newLocalParty(r role, key *big.Int) *localParty {
	return &localParty{
		role:  r,
		key:   key,
		out:   make(chan lib.Message, outDepth),
		inbox: make(chan lib.ParsedMessage, outDepth),

		pending: 1,
	}
}

// pollInto returns a function that moves tss-lib's result from end to *dst, without waiting, and reports whether there
// was one.
func pollInto[T any](end <-chan T, dst *T) func() bool {
	return func() bool {
		select {
		case *dst = <-end:
			return true
		default:
			return false
		}
	}
}

// side runs one side's parties of one protocol on one curve.
type side struct {
	curve   Curve
	me      Party
	proto   *protocol
	conn    Conn
	obs     Observer
	parties []*localParty
	// inspect checks every message, from the other side and between this side's parties, before tss-lib sees it. It may
	// be nil. It is called by one goroutine at a time.
	inspect func(lib.MessageContent) error
	// beforeRelease is called before a message of the rounds in releasePoints is sent. It may be nil.
	beforeRelease func(context.Context, ReleasePoint) error
	releasePoints map[int]ReleasePoint
	// ingress checks messages from the other side. It is nil only in tests.
	ingress *ingress
	// secrets wipes the run's secrets. It is called after the side's last goroutine has returned.
	secrets func()

	wg     sync.WaitGroup // drive and drain
	failed chan struct{}  // closed by the first fail

	mu       sync.Mutex // guards the fields below, and calls of obs.Round and inspect
	err      error
	round    int
	seen     map[protoreflect.FullName][sha256.Size]byte
	stopping error // set once no more messages will arrive
}

// run runs the side. It returns nil when every party has its result, the first error otherwise, and ctx's cause as soon
// as ctx is done.
func (s *side) run(ctx context.Context) error {
	s.failed = make(chan struct{})
	s.seen = make(map[protoreflect.FullName][sha256.Size]byte)
	inner, stop := context.WithCancel(ctx)
	if s.obs.Busy == nil {
		s.obs.Busy = new(sync.WaitGroup)
	}
	s.enterRound(1)
	for _, t := range s.parties {
		s.wg.Add(2)
		go s.drive(inner, t) // ends with the party, or with inner after its current call
		go s.drain(inner, t) // ends when drive has closed t.out
	}
	received := make(chan struct{})
	go func() { // ends with inner
		defer close(received)
		s.receive(inner)
	}()
	finished := make(chan struct{})
	s.obs.Busy.Go(func() { // ends with the goroutines above
		s.wg.Wait()
		select {
		case <-s.failed:
		case <-inner.Done():
		default: // all parties have their results, and their messages are sent
			s.enterRound(s.proto.rounds)
		}
		close(finished)
		<-received
		if s.secrets != nil {
			s.secrets()
		}
	})
	defer stop()

	select {
	case <-finished:
	case <-s.failed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.err
}

// drive starts a party and passes it messages until it has its result. It does not call the party again after an error:
// tss-lib would continue, and could even return save data (tss-lib.md, row 7). After a panic the party's lock stays
// held.
func (s *side) drive(ctx context.Context, t *localParty) {
	defer s.wg.Done()
	defer close(t.out)
	err := s.call(func() *lib.Error { return t.party.Start() })
	for {
		if err != nil {
			s.fail(ctx, err)
			return
		}
		if t.ended() {
			return
		}
		t.out <- nil // marks the end of the messages for one input; never blocks, see outDepth
		select {
		case <-ctx.Done():
			return
		case m := <-t.inbox:
			err = s.call(func() *lib.Error {
				_, err := t.party.Update(m)
				return err
			})
		}
	}
}

// call runs one call into tss-lib, and turns a panic into an error. It converts the result, since a nil *lib.Error in
// an error interface is not nil, and some errors wrap a nil cause (tss-lib.md, row 6).
func (s *side) call(f func() *lib.Error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			// Only the type: the value may quote what the other side sent.
			err = s.blame(fmt.Errorf("tss-lib panicked with a %T", r))
		}
	}()
	e := f()
	if e == nil {
		return nil
	}
	cause := e.Cause()
	if cause == nil {
		cause = errors.New("a proof did not verify")
	}
	return s.blameIn(e.Round(), cause)
}

// blame returns an error that names the other side. Since this side's share was checked before the run, only the other
// side can be at fault; tss-lib itself sometimes names the local party (tss-lib.md, row 21).
func (s *side) blame(err error) error { return s.blameIn(0, err) }

// blameIn is blame for an error in a known round, which may be later than the last one that enterRound noted.
func (s *side) blameIn(round int, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &ProtocolError{Curve: s.curve, Round: max(round, s.round), Culprit: s.me.Other(), Err: err}
}

// fail ends the run with err, if it is the first error. Errors after ctx is done only follow from that.
func (s *side) fail(ctx context.Context, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && ctx.Err() == nil {
		s.err = err
		close(s.failed)
	}
}

// enterRound notes that the run is in round k, unless it is further on.
func (s *side) enterRound(k int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k <= s.round {
		return
	}
	s.round = k
	if s.obs.Round != nil {
		s.obs.Round(k, s.proto.rounds)
	}
}

// drain routes a party's messages. It has its own goroutine, since tss-lib sends in the middle of long computations.
func (s *side) drain(ctx context.Context, t *localParty) {
	defer s.wg.Done()
	defer s.setDone(t)
	stopped := false
	for m := range t.out {
		if m == nil { // the marker of drive
			s.addPending(t, -1)
			continue
		}
		if stopped { // send nothing more, but count the markers
			continue
		}
		err := s.route(ctx, t, m)
		if stopped = errors.Is(err, ErrStopped); err != nil && !stopped {
			s.fail(ctx, err)
		}
	}
}

// route passes a party's message to this side's other party, to the other side, or to both.
func (s *side) route(ctx context.Context, t *localParty, m lib.Message) error {
	payload, _, err := m.WireBytes()
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	st, ok := s.proto.steps[protoreflect.FullName(m.Type())]
	if !ok {
		return fmt.Errorf("tss-lib sent a message of type %s", m.Type())
	}
	s.enterRound(st.round)
	toPeer := st.broadcast
	for _, to := range s.parties {
		if to == t || !slices.Contains(st.to, to.role) || !st.broadcast && !addressed(m, to.key) {
			continue
		}
		if err := s.deliver(ctx, to, st, s.me, payload); err != nil {
			return err
		}
	}
	if !st.broadcast {
		// A message to one of our own parties, such as a share of the new sharing, never leaves this side.
		toPeer = !slices.ContainsFunc(s.parties, func(to *localParty) bool { return addressed(m, to.key) })
	}
	if !toPeer {
		return nil
	}
	if p, ok := s.releasePoints[st.round]; ok && s.beforeRelease != nil {
		if err := s.beforeRelease(ctx, p); err != nil {
			return err
		}
	}
	if s.ingress != nil {
		s.ingress.noteSent(m)
	}
	return s.conn.Send(ctx, Message{Curve: s.curve, Payload: payload})
}

func addressed(m lib.Message, key *big.Int) bool {
	to := m.GetTo()
	return len(to) == 1 && to[0].KeyInt().Cmp(key) == 0
}

// receive accepts the other side's messages until ctx is done or the Conn fails.
func (s *side) receive(ctx context.Context) {
	for {
		m, err := s.conn.Recv(ctx)
		if err == nil {
			err = s.accept(ctx, m)
		}
		if errors.Is(err, ErrStopped) {
			s.stop(err)
			return
		}
		if err != nil {
			s.fail(ctx, err)
			return
		}
	}
}

// accept checks a message from the other side and delivers it to the parties that it is for.
func (s *side) accept(ctx context.Context, m Message) error {
	if m.Curve != s.curve {
		return s.blame(fmt.Errorf("a message for %v", m.Curve))
	}
	if len(m.Payload) > maxWireBytes {
		return s.blame(errors.New("a message that is too long"))
	}
	var a anypb.Any
	if err := proto.Unmarshal(m.Payload, &a); err != nil {
		return s.blame(errors.New("a message that cannot be decoded"))
	}
	name := a.MessageName()
	st, ok := s.proto.steps[name]
	if !ok {
		return s.blame(errors.New("a message of another protocol"))
	}
	if again, err := s.repeated(name, a.GetValue()); again {
		return err
	}
	if s.ingress != nil {
		if err := s.ingress.check(&a, st, m.Payload); err != nil {
			return s.blame(err)
		}
		if err := s.ingress.askCheckModuli(); err != nil {
			return err
		}
	}
	for _, to := range s.parties {
		if slices.Contains(st.to, to.role) {
			if err := s.deliver(ctx, to, st, s.me.Other(), m.Payload); err != nil {
				return err
			}
		}
	}
	return nil
}

// repeated reports whether the other side sent a message of this type before: the first one counts, and a different
// second one is an error. tss-lib would overwrite the first one in any round, so that a value could be replaced after
// its proof was verified (tss-lib.md, row 16).
func (s *side) repeated(name protoreflect.FullName, content []byte) (bool, error) {
	sum := sha256.Sum256(content)
	s.mu.Lock()
	first, ok := s.seen[name]
	if !ok {
		s.seen[name] = sum
	}
	s.mu.Unlock()
	if ok && !bytes.Equal(first[:], sum[:]) {
		return true, s.blame(fmt.Errorf("a second, different %s", name.Name()))
	}
	return ok, nil
}

// deliver parses payload with the sender's id in a party's context, and puts it in the party's inbox.
func (s *side) deliver(ctx context.Context, to *localParty, st step, from Party, payload []byte) error {
	m, err := lib.ParseWireMessage(payload, to.senders[st.from][from], st.broadcast)
	if err != nil || !m.ValidateBasic() {
		return s.blame(errors.New("a message that cannot be parsed"))
	}
	if s.inspect != nil {
		s.mu.Lock()
		err := s.inspect(m.Content())
		s.mu.Unlock()
		if err != nil {
			return s.blame(err)
		}
	}
	s.addPending(to, 1)
	select {
	case to.inbox <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
