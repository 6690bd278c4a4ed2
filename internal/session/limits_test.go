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

// A caller may have only its share of the queue, and is told when to retry. Other callers, and its own new wallets,
// are accepted until the queue is full.
func TestShareOfTheQueue(t *testing.T) {
	a := newAdmission(1, 8)
	holder := enqueue(t, a, "first", OpProvision)
	var waiting []*ticket
	full := func(caller string, op Operation, own bool, retry time.Duration) {
		var o *OverloadedError
		require.ErrorAs(t, a.checkCapacity(caller, op), &o)
		_, err := a.enqueue(caller, op)
		require.Equal(t, o, err)
		require.Equal(t, own, o.Own)
		require.Equal(t, retry, o.RetryAfter)
	}
	waiting = append(waiting, enqueue(t, a, "other", OpProvision), enqueue(t, a, "greedy", OpProvision), enqueue(t, a, "greedy", OpBackup))
	full("greedy", OpProvision, true, 2*initialEstimate) // its first is the second
	full("greedy", OpSign, true, 2*initialEstimate)
	waiting = append(waiting, enqueue(t, a, "greedy", OpCreate), enqueue(t, a, "greedy", OpCreate))
	full("greedy", OpCreate, true, 3*initialEstimate)
	waiting = append(waiting, enqueue(t, a, "other", OpSign), enqueue(t, a, "third", OpSign), enqueue(t, a, "fourth", OpSign))
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
	require.Zero(t, a.creating)

	require.Equal(t, 64, newAdmission(1, 256).share)
	require.Equal(t, 2, newAdmission(1, 1).share, "enough for a user's two devices")
}

// In a full queue the caller with the most runs loses its newest one to a caller with fewer, until all have as many;
// then new runs are refused with a retry time.
func TestFullQueueDisplacesTheLargestShare(t *testing.T) {
	t.Parallel()
	a := newAdmission(1, 8)
	a.share = 6
	holder := enqueue(t, a, "first", OpProvision)
	var greedy, others []*ticket
	for range 6 {
		greedy = append(greedy, enqueue(t, a, "greedy", OpProvision))
	}
	others = append(others, enqueue(t, a, "a", OpProvision), enqueue(t, a, "b", OpProvision))
	for i, caller := range []string{"c", "d", "e", "f"} {
		require.NoError(t, a.checkCapacity(caller, OpSign))
		others = append(others, enqueue(t, a, caller, OpSign))
		err := greedy[5-i].wait(t.Context(), func(uint32) {})
		var o *OverloadedError
		require.ErrorAs(t, err, &o)
		require.True(t, o.Own)
		require.Positive(t, o.RetryAfter)
		greedy[5-i].leave()
		require.Equal(t, 8, a.waiting)
	}
	others = append(others, enqueue(t, a, "g", OpProvision)) // all have one now
	for _, caller := range []string{"h", "a", "greedy"} {
		var o *OverloadedError
		_, err := a.enqueue(caller, OpProvision)
		require.ErrorAs(t, err, &o, caller)
		require.False(t, o.Own)
		require.Equal(t, 9*initialEstimate, o.RetryAfter)
	}
	for _, x := range slices.Concat([]*ticket{holder}, greedy, others) {
		x.leave()
	}
	require.Zero(t, a.busy+a.waiting)
	require.Empty(t, a.heldBy)
}

// New wallets get only their part of the slots, and other waiting runs pass them.
func TestNewWalletsAreLimitedToTheirSlots(t *testing.T) {
	a := newAdmission(4, 100)
	a.maxCreates = 2
	one, two := enqueue(t, a, "x", OpCreate), enqueue(t, a, "y", OpCreate)
	three := enqueue(t, a, "z", OpCreate)
	require.Zero(t, one.position+two.position)
	require.Equal(t, uint32(1), three.position)
	sign, provision := enqueue(t, a, "x", OpSign), enqueue(t, a, "x", OpProvision)
	require.Zero(t, sign.position+provision.position, "there are slots for them")
	sign.leave()
	require.Equal(t, uint32(1), three.position)
	one.leave()
	require.Zero(t, three.position)
	for _, x := range []*ticket{two, three, provision} {
		x.leave()
	}
	require.Zero(t, a.busy+a.creating+a.waiting)
}

// Only runs of a caller with more than its share of the slots yield, and only to other callers.
func TestYieldSlot(t *testing.T) {
	a := newAdmission(8, 8)
	var all []*ticket
	for range 7 {
		all = append(all, enqueue(t, a, "greedy", OpSign))
	}
	all = append(all, enqueue(t, a, "modest", OpSign), enqueue(t, a, "greedy", OpSign))
	require.False(t, all[0].yieldSlot(), "no other caller waits")
	waiting := enqueue(t, a, "third", OpProvision)
	require.True(t, all[0].yieldSlot())
	require.False(t, all[7].yieldSlot())
	yielded := 0
	for _, x := range all[:7] {
		if x.yieldSlot() {
			yielded++
		}
	}
	require.Equal(t, 5, yielded, "its share is two of seven, although all ask at the same time")
	for _, x := range all[:6] {
		x.leave()
	}
	require.False(t, all[6].yieldSlot())
	for _, x := range append(all, waiting) {
		x.leave()
	}
	require.Empty(t, a.heldBy)
}

// An armed run may be silent for DeviceSilence even while other callers wait, because its end would be charged.
func TestArmedRunsDoNotYield(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(2, 8)
		d := newDevice("", 1, time.Minute, func() {})
		d.setTicket(enqueue(t, a, "greedy", OpSign))
		enqueue(t, a, "greedy", OpSign)
		enqueue(t, a, "third", OpSign)
		d.setArmed(true)
		recv := func() time.Duration {
			began := time.Now()
			_, err := d.Recv(t.Context())
			require.ErrorIs(t, err, tss.ErrStopped)
			return time.Since(began)
		}
		require.Equal(t, time.Minute, recv())

		d.stopErr, d.stopped = nil, make(chan struct{})
		d.setArmed(false)
		require.Less(t, recv(), 12*time.Second)
	})
}

// One unproven run more than maxUnproven ends the oldest of the same caller.
func TestOldestUnprovenRunIsEnded(t *testing.T) {
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
		require.Len(t, u.of["thief"], min(maxUnproven, len(all)-1-i), "only the removed one is gone")
	}
	require.False(t, other.ended)
	require.Len(t, u.of, 1)
	u.remove(other)
	require.Empty(t, u.of)
}

// An owner's runs that take pre-params without success are counted, new wallets separately, and the next run that
// would take some is refused.
func TestWaste(t *testing.T) {
	t.Parallel()
	s := new(stub).runner(t, Config{Creates: 2})
	creation := &plan{owner: "alice", curves: []Curve{Secp256k1, Ed25519}}
	old := &plan{owner: "alice", curves: []Curve{Secp256k1}, source: new(source)}
	none := &plan{owner: "alice", curves: []Curve{Ed25519}}
	other := &plan{owner: "bob", curves: []Curve{Secp256k1}}
	for range 3 {
		s.countWaste(creation, nil)
		s.countWaste(none, errStub)
		s.countWaste(creation, fmt.Errorf("pre-params: %w", new(NoPreParamsError)))
		require.NoError(t, s.checkWaste(creation))
	}
	for range 2 {
		require.NoError(t, s.checkWaste(creation))
		s.countWaste(creation, errStub)
	}
	limited := new(LimitedError)
	require.ErrorAs(t, s.checkWaste(creation), &limited)
	require.True(t, limited.Waste)
	require.Positive(t, limited.RetryAfter)
	for _, p := range []*plan{old, none, other} {
		require.NoError(t, s.checkWaste(p))
	}
	for range 2 {
		s.countWaste(old, errStub)
	}
	require.ErrorIs(t, s.checkWaste(old), ErrRateLimited)
	require.NoError(t, s.checkWaste(none), "it takes no pre-params")
}

// All contents of a part are counted.
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

// At most maxRecording requests of a caller are recorded at the same time, and those of others are not delayed.
func TestRecordingLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all recordingLimits
		var ends []func()
		for range maxRecording {
			ends = append(ends, all.acquire("greedy"))
		}
		waits := make(chan func())
		go func() { waits <- all.acquire("greedy") }()
		synctest.Wait()
		select {
		case <-waits:
			require.Fail(t, "one too many")
		default:
		}
		all.acquire("modest")()
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

// The size of received but unprocessed parts is bounded over all runs. A run without any may always add one part, and
// the parts that an ended run leaves are subtracted.
func TestBufferIsBounded(t *testing.T) {
	t.Parallel()
	const size = 256 << 10
	var buffered buffer
	open := func() *device {
		d := newDevice("", 1, time.Minute, func() {})
		d.buffered = &buffered
		_, err := d.receive([]Numbered{{Sequence: 1, Part: Part{Hello: &tss.Hello{}}}})
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
			_, err := d.receive([]Numbered{{Sequence: 2 + k, Part: message(size)}})
			require.NoError(t, err)
		}
	}
	require.LessOrEqual(t, buffered.held, maxWaiting+len(all)*(size+partOverhead))
	require.Greater(t, buffered.held, maxWaiting/2)
	last := all[len(all)-1]
	require.Len(t, last.in, 1, "one, and no more")
	ack, err := last.receive([]Numbered{{Sequence: 3, Part: message(size)}})
	require.NoError(t, err)
	require.Equal(t, uint32(2), ack)
	all[0].close()
	ack, err = last.receive([]Numbered{{Sequence: 3, Part: message(size)}})
	require.NoError(t, err)
	require.Equal(t, uint32(3), ack, "there is space again")
	for _, d := range all {
		d.close()
		d.close()
		_, err = d.receive([]Numbered{{Sequence: d.end.Taken() + 1, Part: message(1)}})
		require.ErrorIs(t, err, ErrInterrupted, "it is over")
	}
	require.Zero(t, buffered.held)
}

// Before it has a slot, a run accepts only its device's first part, once.
func TestOnlyTheHelloIsAccepted(t *testing.T) {
	t.Parallel()
	d := newDevice("", 1, time.Minute, func() {})
	hello := &tss.Hello{Nonce: []byte("first")}
	parts := []Numbered{{Sequence: 1, Part: Part{Hello: hello}}, {Sequence: 2, Part: message(1)}}
	ack, err := d.receive(parts[1:])
	require.NoError(t, err)
	require.Zero(t, ack)
	for _, p := range [][]Numbered{parts, {{Sequence: 1, Part: Part{Hello: &tss.Hello{Nonce: []byte("second")}}}}, parts} {
		ack, err = d.receive(p)
		require.NoError(t, err)
		require.Equal(t, uint32(1), ack)
	}
	got, err := d.awaitHello(t.Context())
	require.NoError(t, err)
	require.Same(t, hello, got)
	d.listen()
	ack, err = d.receive(parts)
	require.NoError(t, err)
	require.Equal(t, uint32(2), ack)
	p, err := d.Recv(t.Context())
	require.NoError(t, err)
	require.Same(t, hello, p.Hello, "it is the first that the run gets")
	p, err = d.Recv(t.Context())
	require.NoError(t, err)
	require.NotNil(t, p.Message)
}

// A hello over maxHello is dropped, because it would be kept until the run has a slot.
func TestLargeHelloIsDropped(t *testing.T) {
	t.Parallel()
	d := newDevice("", 1, time.Minute, func() {})
	ack, err := d.receive([]Numbered{{Sequence: 1, Part: Part{Hello: &tss.Hello{Record: make([]byte, maxHello)}}}})
	require.NoError(t, err)
	require.Equal(t, uint32(1), ack)
	got, err := d.awaitHello(t.Context())
	require.NoError(t, err)
	require.Nil(t, got)
}
