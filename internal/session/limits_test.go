package session

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// A caller has so many runs in the queue and no more, and is told when there is room again; others,
// and its own new wallets, find room until the queue itself is full.
func TestShareOfTheQueue(t *testing.T) {
	a := newAdmission(1, 8)
	holder := enter(t, a, "first", OpProvision)
	var waiting []*ticket
	full := func(caller string, op Operation, own bool, retry time.Duration) {
		var o *OverloadedError
		require.ErrorAs(t, a.hasPlace(caller, op), &o)
		_, err := a.enqueue(caller, op)
		require.Equal(t, o, err)
		require.Equal(t, own, o.Own)
		require.Equal(t, retry, o.RetryAfter)
	}
	waiting = append(waiting, enter(t, a, "other", OpProvision), enter(t, a, "greedy", OpProvision), enter(t, a, "greedy", OpBackup))
	full("greedy", OpProvision, true, 2*firstGuess) // its first is the second
	full("greedy", OpSign, true, 2*firstGuess)
	waiting = append(waiting, enter(t, a, "greedy", OpCreate), enter(t, a, "greedy", OpCreate))
	full("greedy", OpCreate, true, 3*firstGuess)
	waiting = append(waiting, enter(t, a, "other", OpSign), enter(t, a, "third", OpSign), enter(t, a, "fourth", OpSign))
	holder.leave()
	for range waiting {
		for _, w := range waiting {
			select {
			case <-w.ready:
				w.leave()
			default:
			}
		}
	}
	require.Zero(t, a.busy)
	require.Zero(t, a.waiting)
	require.Zero(t, a.making)

	require.Equal(t, 64, newAdmission(1, 256).share)
	require.Equal(t, 2, newAdmission(1, 1).share, "a user's two devices")
}

// In a full queue, whose the most wait gives way to who has less, with its newest run, until all
// have as many; then whoever comes is told when there is room.
func TestFullQueueTakesFromWhoHasTheMost(t *testing.T) {
	t.Parallel()
	a := newAdmission(1, 8)
	a.share = 6
	holder := enter(t, a, "first", OpProvision)
	var greedy, others []*ticket
	for range 6 {
		greedy = append(greedy, enter(t, a, "greedy", OpProvision))
	}
	others = append(others, enter(t, a, "a", OpProvision), enter(t, a, "b", OpProvision))
	for i, caller := range []string{"c", "d", "e", "f"} {
		require.NoError(t, a.hasPlace(caller, OpSign))
		others = append(others, enter(t, a, caller, OpSign))
		err := greedy[5-i].wait(t.Context(), func(uint32) {})
		var o *OverloadedError
		require.ErrorAs(t, err, &o)
		require.True(t, o.Own)
		require.Positive(t, o.RetryAfter)
		greedy[5-i].leave()
		require.Equal(t, 8, a.waiting)
	}
	others = append(others, enter(t, a, "g", OpProvision)) // all have one now
	for _, caller := range []string{"h", "a", "greedy"} {
		var o *OverloadedError
		_, err := a.enqueue(caller, OpProvision)
		require.ErrorAs(t, err, &o, caller)
		require.False(t, o.Own)
		require.Equal(t, 9*firstGuess, o.RetryAfter)
	}
	for _, x := range slices.Concat([]*ticket{holder}, greedy, others) {
		x.leave()
	}
	require.Zero(t, a.busy+a.waiting)
	require.Empty(t, a.held)
}

// New wallets have their part of the slots, and what else waits goes past them.
func TestNewWalletsHaveTheirPartOfTheSlots(t *testing.T) {
	a := newAdmission(4, 100)
	a.anew = 2
	one, two := enter(t, a, "x", OpCreate), enter(t, a, "y", OpCreate)
	three := enter(t, a, "z", OpCreate)
	require.Zero(t, one.position+two.position)
	require.Equal(t, uint32(1), three.position)
	sign, provision := enter(t, a, "x", OpSign), enter(t, a, "x", OpProvision)
	require.Zero(t, sign.position+provision.position, "there are slots for them")
	sign.leave()
	require.Equal(t, uint32(1), three.position)
	one.leave()
	require.Zero(t, three.position)
	for _, x := range []*ticket{two, three, provision} {
		x.leave()
	}
	require.Zero(t, a.busy+a.making+a.waiting)
}

// Who has more than its share of the slots is in the way of others, and of itself never.
func TestGivesWay(t *testing.T) {
	a := newAdmission(8, 8)
	var all []*ticket
	for range 7 {
		all = append(all, enter(t, a, "greedy", OpSign))
	}
	all = append(all, enter(t, a, "modest", OpSign), enter(t, a, "greedy", OpSign))
	require.False(t, all[0].givesWay(), "nobody else waits")
	waiting := enter(t, a, "third", OpProvision)
	require.True(t, all[0].givesWay())
	require.False(t, all[7].givesWay())
	gave := 0
	for _, x := range all[:7] {
		if x.givesWay() {
			gave++
		}
	}
	require.Equal(t, 5, gave, "two of seven are its share, although all look at once")
	for _, x := range all[:6] {
		x.leave()
	}
	require.False(t, all[6].givesWay())
	for _, x := range append(all, waiting) {
		x.leave()
	}
	require.Empty(t, a.held)
}

// What is armed has its whole time of silence, although its caller is in the way of others: its
// end would be charged.
func TestArmedRunsDoNotGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(2, 8)
		d := newDevice("", 1, time.Minute, func() {})
		d.setPlace(enter(t, a, "greedy", OpSign))
		enter(t, a, "greedy", OpSign)
		enter(t, a, "third", OpSign)
		d.arms(true)
		recv := func() time.Duration {
			began := time.Now()
			_, err := d.Recv(t.Context())
			require.ErrorIs(t, err, tss.ErrStopped)
			return time.Since(began)
		}
		require.Equal(t, time.Minute, recv())

		d.over, d.stopped = nil, make(chan struct{})
		d.arms(false)
		require.Less(t, recv(), 12*time.Second)
	})
}

// One more than so many devices that have not shown their share ends the oldest, of the same
// caller alone.
func TestTheOldestUnprovenGoes(t *testing.T) {
	t.Parallel()
	var u unproven
	run := func(caller string) *Run {
		r := newRun(runKey{caller: caller}, nil)
		u.add(r)
		return r
	}
	other := run("other")
	all := make([]*Run, maxUnproven+3)
	for i := range all {
		all[i] = run("thief")
	}
	for i, r := range all {
		require.Equal(t, i < 3, r.ended, "%d", i)
		if i < 3 {
			require.ErrorIs(t, r.err, ErrInterrupted)
		}
		u.remove(r)
		require.Len(t, u.of["thief"], min(maxUnproven, len(all)-1-i), "one alone went")
	}
	require.False(t, other.ended)
	require.Len(t, u.of, 1)
	u.remove(other)
	require.Empty(t, u.of)
}

// An owner's runs that take pre-params and do not succeed are counted, new wallets apart from the
// rest, and refuse the next run that would take some.
func TestWaste(t *testing.T) {
	t.Parallel()
	s := new(stub).runner(t, Config{Creates: 2})
	anew := &plan{owner: "alice", curves: []Curve{Secp256k1, Ed25519}}
	old := &plan{owner: "alice", curves: []Curve{Secp256k1}, source: new(source)}
	none := &plan{owner: "alice", curves: []Curve{Ed25519}}
	other := &plan{owner: "bob", curves: []Curve{Secp256k1}}
	for range 3 {
		s.wasted(anew, nil)
		s.wasted(none, errStub)
		s.wasted(anew, fmt.Errorf("pre-params: %w", new(NoPreParamsError)))
		require.NoError(t, s.mayWaste(anew))
	}
	for range 2 {
		require.NoError(t, s.mayWaste(anew))
		s.wasted(anew, errStub)
	}
	limited := new(LimitedError)
	require.ErrorAs(t, s.mayWaste(anew), &limited)
	require.True(t, limited.Waste)
	require.Positive(t, limited.RetryAfter)
	for _, p := range []*plan{old, none, other} {
		require.NoError(t, s.mayWaste(p))
	}
	for range 2 {
		s.wasted(old, errStub)
	}
	require.ErrorIs(t, s.mayWaste(old), ErrRateLimited)
	require.NoError(t, s.mayWaste(none), "it takes none")
}

// All that a part holds is counted.
func TestSizeOf(t *testing.T) {
	t.Parallel()
	b := func(n int) []byte { return make([]byte, n) }
	hello := &tss.Hello{
		Nonce: b(1), SessionKey: b(2), PartyKeys: b(4), Record: b(8), Proof: b(16), WalletID: string(b(32)), ShareSetID: string(b(64)),
	}
	for want, p := range map[int]Part{
		0: {}, 127: {Hello: hello}, 99: message(99), 33: {End: &tss.End{ShareHash: b(33)}}, 32: {MAC: b(32)},
	} {
		require.Equal(t, partOverhead+want, sizeOf(p))
	}
}

// So many requests of a caller are recorded at once, and those of others beside them.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all turns
		var ends []func()
		for range maxRecording {
			ends = append(ends, all.take("greedy"))
		}
		waits := make(chan func())
		go func() { waits <- all.take("greedy") }()
		synctest.Wait()
		select {
		case <-waits:
			require.Fail(t, "one too many")
		default:
		}
		all.take("modest")()
		ends[0]()
		ends[0] = <-waits
		for _, end := range ends {
			end()
		}
		require.Empty(t, all.of)
	})
}

func message(n int) Part {
	return Part{Message: &tss.Message{Curve: Ed25519, Payload: make([]byte, n)}}
}

// What devices have sent and no run has taken is bounded over all runs. A run of which nothing
// waits may always add a part, and what a run leaves behind is given back.
func TestBufferIsBounded(t *testing.T) {
	t.Parallel()
	const size = 256 << 10
	var room buffer
	open := func() *device {
		d := newDevice("", 1, time.Minute, func() {})
		d.room = &room
		_, err := d.take([]Numbered{{Sequence: 1, Part: Part{Hello: &tss.Hello{}}}})
		require.NoError(t, err)
		d.listen()
		return d
	}
	var all []*device
	for range 20 {
		d := open()
		all = append(all, d)
		_, err := d.Recv(t.Context()) // the hello
		require.NoError(t, err)
		for k := range uint32(40) {
			_, err := d.take([]Numbered{{Sequence: 2 + k, Part: message(size)}})
			require.NoError(t, err)
		}
	}
	require.LessOrEqual(t, room.held, maxWaiting+len(all)*(size+partOverhead))
	require.Greater(t, room.held, maxWaiting/2)
	last := all[len(all)-1]
	require.Len(t, last.in, 1, "one, and no more")
	ack, err := last.take([]Numbered{{Sequence: 3, Part: message(size)}})
	require.NoError(t, err)
	require.Equal(t, uint32(2), ack)
	all[0].close()
	ack, err = last.take([]Numbered{{Sequence: 3, Part: message(size)}})
	require.NoError(t, err)
	require.Equal(t, uint32(3), ack, "there is room again")
	for _, d := range all {
		d.close()
		d.close()
		_, err = d.take([]Numbered{{Sequence: d.end.Taken() + 1, Part: message(1)}})
		require.ErrorIs(t, err, ErrInterrupted, "it is over")
	}
	require.Zero(t, room.held)
}

// Before it has its place, a run takes its device's first part and nothing else, once.
func TestOnlyTheHelloIsTaken(t *testing.T) {
	t.Parallel()
	d := newDevice("", 1, time.Minute, func() {})
	hello := &tss.Hello{Nonce: []byte("first")}
	parts := []Numbered{{Sequence: 1, Part: Part{Hello: hello}}, {Sequence: 2, Part: message(1)}}
	ack, err := d.take(parts[1:])
	require.NoError(t, err)
	require.Zero(t, ack)
	for _, p := range [][]Numbered{parts, {{Sequence: 1, Part: Part{Hello: &tss.Hello{Nonce: []byte("second")}}}}, parts} {
		ack, err = d.take(p)
		require.NoError(t, err)
		require.Equal(t, uint32(1), ack)
	}
	got, err := d.awaitHello(t.Context())
	require.NoError(t, err)
	require.Same(t, hello, got)
	d.listen()
	ack, err = d.take(parts)
	require.NoError(t, err)
	require.Equal(t, uint32(2), ack)
	p, err := d.Recv(t.Context())
	require.NoError(t, err)
	require.Same(t, hello, p.Hello, "it is the first that the run gets")
	p, err = d.Recv(t.Context())
	require.NoError(t, err)
	require.NotNil(t, p.Message)
}

// A hello that is far too large is none: it would be held until the run has its place.
func TestALargeHelloIsNotHeld(t *testing.T) {
	t.Parallel()
	d := newDevice("", 1, time.Minute, func() {})
	ack, err := d.take([]Numbered{{Sequence: 1, Part: Part{Hello: &tss.Hello{Record: make([]byte, maxHello)}}}})
	require.NoError(t, err)
	require.Equal(t, uint32(1), ack)
	got, err := d.awaitHello(t.Context())
	require.NoError(t, err)
	require.Nil(t, got)
}
