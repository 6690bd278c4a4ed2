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

// Observer lets the caller follow a run. The zero value follows nothing.
type Observer struct {
	// Round is told when the run enters round k of n, with k rising. It is called from
	// the run's goroutines, one call at a time, and must not block.
	Round func(k, n int)
	// Busy counts the run's goroutines. tss-lib cannot be stopped in mid-computation: a
	// cancelled run returns at once, and Busy falls to zero when the last computation has
	// ended and its secrets are wiped.
	Busy *sync.WaitGroup
}

// committee holds the party keys of one committee, by Party. A tss-lib context wants
// PartyID objects of its own, since sorting writes to them (tss-lib.md, row 1), so
// every party makes its own ids from it.
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

// outDepth holds more messages than any party emits in a whole 2-of-2 run (11 in ECDSA
// signing), with an end after each that it takes, so that tss-lib, which writes with its lock
// held, never waits for us.
const outDepth = 32

// localParty is one tss-lib party of this side and what it needs to be driven.
type localParty struct {
	role    role
	key     *big.Int
	party   lib.Party
	senders [2][2]*lib.PartyID // by role and Party: the senders as this party knows them
	out     chan lib.Message
	inbox   chan lib.ParsedMessage
	ended   func() bool // takes the party's result from its end channel, once there

	// Guarded by the side's mu: the party's start, and the messages for it, until what it makes
	// of them is on its way; and that it makes nothing any more.
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

// take returns a function that moves tss-lib's result from end to *dst without waiting.
func take[T any](end <-chan T, dst *T) func() bool {
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
	// inspect sees every message, from outside and from inside the side, before tss-lib
	// does. It may be nil. It is called by one goroutine at a time.
	inspect func(lib.MessageContent) error
	// gate is asked before a message of the rounds in gates leaves. It may be nil.
	gate  func(context.Context, ReleasePoint) error
	gates map[int]ReleasePoint
	// ingress checks what comes from the other side. Only a test's side is without one.
	ingress *ingress
	// secrets are wiped when the side's last goroutine has returned.
	secrets func()

	wg     sync.WaitGroup // drivers and drains
	failed chan struct{}  // closed by the first fail

	mu       sync.Mutex // guards what follows, and calls of obs.Round and inspect
	err      error
	round    int
	seen     map[protoreflect.FullName][sha256.Size]byte
	stopping error // set when nothing comes any more
}

// run drives the side to its end. It returns nil when every party has its result, the
// first error otherwise, and ctx's cause as soon as ctx is done.
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
		go s.drive(inner, t) // ends with the party, or with inner once its call returns
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
		default: // all parties have their results, and what they emitted is on its way
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

// drive starts a party and feeds it until it has its result. The first error
// ends the party for good: tss-lib would go on, and even end with a save, after one
// (tss-lib.md, row 7). After a panic its lock stays held, so it is not touched again.
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
		t.out <- nil // the end of what it made of that; there is room, see outDepth
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

// call runs one call into tss-lib. A nil *lib.Error in an error would not be nil, and
// some failures wrap a nil cause (tss-lib.md, row 6), hence the conversion here.
func (s *side) call(f func() *lib.Error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			// The value may hold what the other side sent; its type is enough.
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

// blame names the other side. With two parties, whose own share was checked before
// the run, there is nobody else to name; tss-lib itself sometimes names the local
// party (tss-lib.md, row 21).
func (s *side) blame(err error) error { return s.blameIn(0, err) }

// blameIn is blame for a failure of which tss-lib says the round: what the failed round
// emitted may still wait to be noticed.
func (s *side) blameIn(round int, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &ProtocolError{Curve: s.curve, Round: max(round, s.round), Culprit: s.me.Other(), Err: err}
}

// fail keeps the first error. What comes after ctx is done is only its echo.
func (s *side) fail(ctx context.Context, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && ctx.Err() == nil {
		s.err = err
		close(s.failed)
	}
}

// enterRound notes that the run is in round k; rounds never go back.
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

// drain takes what a party emits, in a goroutine of its own since tss-lib
// emits in the middle of long computations.
func (s *side) drain(ctx context.Context, t *localParty) {
	defer s.wg.Done()
	defer s.leave(t)
	stopped := false
	for m := range t.out {
		if m == nil { // see drive
			s.more(t, -1)
			continue
		}
		if stopped { // nothing leaves any more
			continue
		}
		err := s.route(ctx, t, m)
		if stopped = errors.Is(err, ErrStopped); err != nil && !stopped {
			s.fail(ctx, err)
		}
	}
}

// route delivers one emitted message inside the side, to the other side, or both.
func (s *side) route(ctx context.Context, t *localParty, m lib.Message) error {
	payload, _, err := m.WireBytes()
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	st, ok := s.proto.steps[protoreflect.FullName(m.Type())]
	if !ok {
		return fmt.Errorf("tss-lib emitted a message of type %s", m.Type())
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
		// A message to one party goes to the other side unless it is for our own: a share
		// of the new sharing that is meant for our own new party never leaves.
		toPeer = !slices.ContainsFunc(s.parties, func(to *localParty) bool { return addressed(m, to.key) })
	}
	if !toPeer {
		return nil
	}
	if g, ok := s.gates[st.round]; ok && s.gate != nil {
		if err := s.gate(ctx, g); err != nil {
			return err
		}
	}
	if s.ingress != nil {
		s.ingress.note(m)
	}
	return s.conn.Send(ctx, Message{Curve: s.curve, Payload: payload})
}

func addressed(m lib.Message, key *big.Int) bool {
	to := m.GetTo()
	return len(to) == 1 && to[0].KeyInt().Cmp(key) == 0
}

// receive takes the other side's messages until ctx is done.
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

// accept checks that m is a message of this run that the other side may send, for the
// first time, and gives it to the parties that it is for.
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
		if err := s.ingress.askFresh(); err != nil {
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

// repeated reports whether the other side sent this message before. tss-lib overwrites
// what it has, in any round, so a value could be swapped after its proof was verified
// (tss-lib.md, row 16): the first one counts, and a different second one ends the run.
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

// deliver parses payload for one party, with the sender as that party's context knows it.
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
	s.more(to, 1)
	select {
	case to.inbox <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
