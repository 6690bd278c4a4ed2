package tss

import (
	"context"
	"errors"
	"math/big"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bnb-chain/tss-lib/v2/crypto/vss"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// scripted is a tss-lib party with methods from a test.
type scripted struct {
	lib.Party
	start  func() *lib.Error
	update func(lib.ParsedMessage) *lib.Error
}

func (p scripted) Start() *lib.Error { return p.start() }

func (p scripted) Update(m lib.ParsedMessage) (bool, *lib.Error) {
	e := p.update(m)
	return e == nil, e
}

// plainConn is a Conn that records what is sent, and receives from a channel.
type plainConn struct {
	sent []Message
	in   chan Message
	err  error // of Send
}

func (c *plainConn) Send(_ context.Context, m Message) error {
	if c.err != nil {
		return c.err
	}
	c.sent = append(c.sent, m)
	return nil
}

func (c *plainConn) Recv(ctx context.Context) (Message, error) {
	select {
	case m := <-c.in:
		return m, nil
	case <-ctx.Done():
		return Message{}, context.Cause(ctx)
	}
}

// signer is a side of an Ed25519 signing with a scripted party.
func signer(start func(*localParty) *lib.Error) (*side, *plainConn) {
	s := idle(Ed25519, signings[Ed25519], Server)
	c := &plainConn{in: make(chan Message)}
	s.conn, s.round = c, 0
	t := s.parties[0]
	t.party = scripted{start: func() *lib.Error {
		return start(t)
	}, update: func(lib.ParsedMessage) *lib.Error { return nil }}
	t.ended = func() bool { return false }
	return s, c
}

func commitment(t *localParty, round int) lib.Message {
	from := t.senders[onlyRole][Server]
	if round == 1 {
		return edsigning.NewSignRound1Message(from, big.NewInt(7))
	}
	return edsigning.NewSignRound3Message(from, big.NewInt(7))
}

// The secrets of a run are wiped after its last goroutine has returned, however the run ended.
func TestSecretsAreWipedAtTheEnd(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]func(*side, *localParty) *lib.Error{
		"success":   func(s *side, t *localParty) *lib.Error { t.ended = func() bool { return true }; return nil },
		"failure":   func(*side, *localParty) *lib.Error { return lib.NewError(errors.New("no"), "task", 1, nil) },
		"cancelled": func(*side, *localParty) *lib.Error { return nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var s *side
			computing, wiped := true, 0
			s, _ = signer(func(party *localParty) *lib.Error {
				defer func() { computing = false }()
				time.Sleep(time.Millisecond)
				return ends(s, party)
			})
			s.obs.Busy = new(sync.WaitGroup)
			s.secrets = func() {
				require.False(t, computing)
				wiped++
			}
			err := s.run(ctx)
			require.Equal(t, name == "success", err == nil)
			s.obs.Busy.Wait()
			require.Equal(t, 1, wiped, name)
		})
	}
}

// ending is a context that has ended, but whose Done channel is still open.
type ending struct {
	context.Context
	err error
}

func (e ending) Err() error { return e.err }

// A run whose context ends at the same time fails, with an earlier failure if there was one.
func TestRunThatEndsWithItsContext(t *testing.T) {
	t.Parallel()
	gone, no := errors.New("gone"), errors.New("no")
	s, _ := signer(func(t *localParty) *lib.Error { t.ended = func() bool { return true }; return nil })
	require.ErrorIs(t, s.run(ending{t.Context(), gone}), gone)
	s, _ = signer(func(*localParty) *lib.Error { return lib.NewError(no, "task", 1, nil) })
	err := s.run(ending{t.Context(), gone})
	require.ErrorIs(t, err, no)
	requireBlame(t, err, Client)
}

// libMessage is a message from tss-lib.
type libMessage struct {
	lib.Message
	typ string
	err error
}

func (m libMessage) Type() string { return m.typ }

func (m libMessage) WireBytes() ([]byte, *lib.MessageRouting, error) { return nil, nil, m.err }

// A message that cannot be sent ends the run at once, with the cause.
func TestMessageThatCannotBeSent(t *testing.T) {
	t.Parallel()
	no := errors.New("no")
	for name, x := range map[string]struct {
		conn error
		send func(*localParty) lib.Message
		want string
	}{
		"no connection": {no, func(t *localParty) lib.Message { return commitment(t, 1) }, "no"},
		"no encoding": {nil, func(*localParty) lib.Message {
			return libMessage{typ: "x", err: no}
		}, "encode a message: no"},
		"no type": {nil, func(*localParty) lib.Message {
			return libMessage{typ: "mpcd.test.None"}
		}, "a message of type mpcd.test.None"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s, c := signer(func(party *localParty) *lib.Error {
				party.out <- x.send(party)
				return nil
			})
			c.err = x.conn
			require.ErrorContains(t, s.run(ctx), x.want, name)
		})
	}
}

// BeforeRelease is called before the messages of its rounds, and no others; a message that it rejects is not sent.
func TestBeforeRelease(t *testing.T) {
	t.Parallel()
	no := errors.New("no")
	for _, answer := range []error{nil, no} {
		var asked []ReleasePoint
		s, c := signer(func(*localParty) *lib.Error { return nil })
		s.releasePoints, s.beforeRelease = Ed25519.releasePoints(), func(_ context.Context, p ReleasePoint) error {
			asked = append(asked, p)
			return answer
		}
		require.NoError(t, s.route(t.Context(), s.parties[0], commitment(s.parties[0], 1)))
		require.Empty(t, asked)
		require.Len(t, c.sent, 1)
		require.Equal(t, []int{0}, s.inboxes(), "a party does not get its own messages")
		require.Equal(t, answer, s.route(t.Context(), s.parties[0], commitment(s.parties[0], 3)))
		require.Equal(t, []ReleasePoint{Disarm}, asked)
		if answer == nil {
			require.Len(t, c.sent, 2)
		} else {
			require.Len(t, c.sent, 1)
		}
		s.beforeRelease = nil
		require.NoError(t, s.route(t.Context(), s.parties[0], commitment(s.parties[0], 3)))
	}
	require.Equal(t, map[int]ReleasePoint{2: Arm, 9: Disarm}, Secp256k1.releasePoints())
	require.Equal(t, map[int]ReleasePoint{3: Disarm}, Ed25519.releasePoints())
}

// After BeforeRelease returns ErrStopped, neither that message nor a later one is sent; the run continues.
func TestNothingIsSentAfterAStop(t *testing.T) {
	t.Parallel()
	s, c := signer(func(party *localParty) *lib.Error {
		party.out <- commitment(party, 3)
		party.out <- commitment(party, 1)
		party.ended = func() bool { return true }
		return nil
	})
	s.releasePoints, s.beforeRelease = Ed25519.releasePoints(), func(context.Context, ReleasePoint) error {
		return ErrStopped
	}
	require.NoError(t, s.run(t.Context()))
	require.Empty(t, c.sent)
}

// stopping is a plainConn that returns ErrStopped once its channel is empty.
type stopping struct{ *plainConn }

func (c stopping) Recv(context.Context) (Message, error) {
	select {
	case m := <-c.in:
		return m, nil
	default:
		return Message{}, ErrStopped
	}
}

// A stopped run ends after its party has processed what arrived, and with the error of that if there is one.
func TestStoppedRunProcessesWhatArrived(t *testing.T) {
	t.Parallel()
	no := errors.New("no")
	for _, want := range []error{ErrStopped, no} {
		synctest.Test(t, func(t *testing.T) {
			processed := false
			s, c := signer(nil)
			c.in = make(chan Message, 1)
			c.in <- Message{Curve: Ed25519, Payload: payload(t, wellFormed(t, typeOf(&edsigning.SignRound1Message{})))}
			s.conn = stopping{c}
			start := func() *lib.Error { return nil }
			s.parties[0].party = scripted{start: start, update: func(lib.ParsedMessage) *lib.Error {
				time.Sleep(time.Second)
				processed = true
				if errors.Is(want, no) {
					return lib.NewError(no, "task", 1, nil)
				}
				return nil
			}}
			require.ErrorIs(t, s.run(t.Context()), want)
			require.True(t, processed)
		})
	}
}

// A stopped run fails when no party has pending input and one still waits for more.
func TestFailIfStopped(t *testing.T) {
	t.Parallel()
	no := errors.New("no")
	waiting, working := localParty{}, localParty{pending: 1}
	done, ended := localParty{done: true}, localParty{done: true, pending: 1}
	for name, x := range map[string]struct {
		parties       [2]localParty
		stopping, err error
		want          error
	}{
		"both wait":                 {[2]localParty{waiting, waiting}, ErrStopped, nil, ErrStopped},
		"the first waits":           {[2]localParty{waiting, done}, ErrStopped, nil, ErrStopped},
		"the second waits":          {[2]localParty{done, waiting}, ErrStopped, nil, ErrStopped},
		"one ended with input left": {[2]localParty{ended, waiting}, ErrStopped, nil, ErrStopped},
		"the first has input left":  {[2]localParty{working, waiting}, ErrStopped, nil, nil},
		"the second has input left": {[2]localParty{waiting, working}, ErrStopped, nil, nil},
		"both are done":             {[2]localParty{done, ended}, ErrStopped, nil, nil},
		"not stopped":               {[2]localParty{waiting, waiting}, nil, nil, nil},
		"another error came first":  {[2]localParty{waiting, waiting}, ErrStopped, no, no},
	} {
		s := &side{stopping: x.stopping, err: x.err, failed: make(chan struct{})}
		for i := range x.parties {
			s.parties = append(s.parties, &x.parties[i])
		}
		s.failIfStopped()
		require.Equal(t, x.want, s.err, name)
		select {
		case <-s.failed:
			require.ErrorIs(t, x.want, ErrStopped, name)
		default:
			require.NotErrorIs(t, x.want, ErrStopped, name)
		}
	}
}

// A message within a side reaches exactly the parties that it is for. A message to one party leaves the side only if it
// is for a party of the other side.
func TestRouteInsideASide(t *testing.T) {
	t.Parallel()
	s := idle(Ed25519, resharings[Ed25519], Client)
	c := &plainConn{}
	s.conn = c
	old, fresh := s.parties[oldRole], s.parties[newRole]
	ids := old.senders[newRole]
	from := old.senders[oldRole][Client]
	g := Ed25519.baseMult(big.NewInt(7))
	require.NoError(t, s.route(t.Context(), old, edresharing.NewDGRound1Message(ids[:], from, g, big.NewInt(7))))
	require.Equal(t, []int{0, 1}, s.inboxes(), "from the old party to the new one")
	require.Len(t, c.sent, 1)
	round2 := edresharing.NewDGRound2Message(old.senders[oldRole][:], fresh.senders[newRole][Client])
	require.NoError(t, s.route(t.Context(), fresh, round2))
	require.Equal(t, []int{1, 1}, s.inboxes(), "from the new party to the old one")
	require.Len(t, c.sent, 2)

	share := edresharing.NewDGRound3Message1
	vs := &vss.Share{Threshold: 1, ID: big.NewInt(1), Share: big.NewInt(7)} // for one new party each
	require.NoError(t, s.route(t.Context(), old, share(ids[Client], from, vs)))
	require.Equal(t, []int{1, 2}, s.inboxes())
	require.Len(t, c.sent, 2, "the share for our own party stays on this side")
	require.NoError(t, s.route(t.Context(), old, share(ids[Server], from, vs)))
	require.Equal(t, []int{1, 2}, s.inboxes())
	require.Len(t, c.sent, 3)

	// From our new party to the other side's new party, and not to our own old one.
	ec := idle(Secp256k1, resharings[Secp256k1], Client)
	ec.conn = &plainConn{}
	name := string(typeOf(&ecresharing.DGRound2Message1{}))
	require.NoError(t, ec.route(t.Context(), ec.parties[newRole], libMessage{typ: name}))
	require.Equal(t, []int{0, 0}, ec.inboxes())

	// Messages within a side are inspected like those from the other side.
	s.inspect = func(lib.MessageContent) error { return errors.New("no") }
	round1 := edresharing.NewDGRound1Message(ids[:], from, g, big.NewInt(7))
	require.ErrorContains(t, s.route(t.Context(), old, round1), "no")
	require.Len(t, c.sent, 3)

	require.False(t, addressed(messageTo{}, big.NewInt(7)), "broadcast")
	require.False(t, addressed(messageTo{to: ids[:]}, ids[Client].KeyInt()), "to two")
	require.True(t, addressed(messageTo{to: ids[:1]}, ids[Client].KeyInt()))
	require.False(t, addressed(messageTo{to: ids[:1]}, ids[Server].KeyInt()))
}

type messageTo struct {
	lib.Message
	to []*lib.PartyID
}

func (m messageTo) GetTo() []*lib.PartyID { return m.to }

// Rounds are reported in increasing order, each once.
func TestRoundsNeverGoBack(t *testing.T) {
	t.Parallel()
	var reported []int
	s := idle(Ed25519, signings[Ed25519], Client)
	s.round, s.obs.Round = 0, func(k, _ int) { reported = append(reported, k) }
	for _, k := range []int{1, 3, 2, 3, 4, 1} {
		s.enterRound(k)
	}
	require.Equal(t, []int{1, 3, 4}, reported)
	require.Equal(t, 4, s.round)
	s.obs.Round = nil
	s.enterRound(5)
	require.Equal(t, 5, s.round)
}

// accept checks the length and the encoding of a message before its content.
func TestAcceptChecksTheLengthFirst(t *testing.T) {
	t.Parallel()
	for want, m := range map[string]Message{
		"a message for SECP256K1":          {Curve: Secp256k1},
		"a message that is too long":       {Curve: Ed25519, Payload: make([]byte, maxWireBytes+1)},
		"a message that cannot be decoded": {Curve: Ed25519, Payload: []byte{0xff}},
		"a message of another protocol":    {Curve: Ed25519},
		"a message of another protocol, long": {
			Curve: Ed25519, Payload: append([]byte{0x12, 0x80, 0x80, 0x0a}, make([]byte, 160<<10)...),
		},
	} {
		s, _ := signer(func(*localParty) *lib.Error { return nil })
		err := s.accept(t.Context(), m)
		requireBlame(t, err, Client)
		require.ErrorContains(t, err, want[:min(len(want), 29)])
	}
	_, err := newStage(t).server(Ed25519, signings[Ed25519]).repeated(typeOf(&edsigning.SignRound1Message{}), nil)
	require.NoError(t, err)
}

// checkModuli is called when the moduli arrive, before tss-lib gets them; its error ends the run.
func TestAcceptChecksModuli(t *testing.T) {
	t.Parallel()
	used := errors.New("used")
	st := newStage(t)
	for name := range resharings[Secp256k1].steps {
		s := st.server(Secp256k1, resharings[Secp256k1])
		s.ingress.checkModuli = func(_, _ *big.Int) error { return used }
		err := s.accept(t.Context(), Message{Curve: Secp256k1, Payload: st.messages[name]})
		if name.Name() != "DGRound2Message1" {
			require.NoError(t, err, name)
			continue
		}
		require.Equal(t, used, err, "the other side is not blamed")
		require.Equal(t, []int{0, 0}, s.inboxes())
	}
}

// If a new key fails a check, the run has no result and blames the other side.
func TestNewKeyIsChecked(t *testing.T) {
	t.Parallel()
	s, _ := signer(func(t *localParty) *lib.Error { t.ended = func() bool { return true }; return nil })
	wiped := false
	s.obs.Busy, s.secrets = new(sync.WaitGroup), func() { wiped = true }
	k, err := s.newKey(t.Context(), committee{big.NewInt(1), big.NewInt(2)}, func() save { return save{} }, nil)
	requireBlame(t, err, Client)
	require.ErrorIs(t, err, errSave)
	require.Nil(t, k)
	s.obs.Busy.Wait()
	require.True(t, wiped)
}
