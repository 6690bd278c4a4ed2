package e2e_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// spent counts the shared resources that a run takes.
type spent struct{ fetches, preParams atomic.Int32 }

func (c *spent) wrap(p *session.Ports) {
	fetched := func(context.Context) error { c.fetches.Add(1); return nil }
	p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: fetched}
	p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeFetch: fetched}
	p.PreParams = &servertest.PreParams{Source: p.PreParams, Before: func(context.Context) error { c.preParams.Add(1); return nil }}
}

// deviceCreateReq asks for a device-held wallet.
func deviceCreateReq(curves ...pb.Curve) *pb.CreateWalletRequest {
	req := createReq(curves...)
	req.ClientSide = &pb.CreateWalletRequest_Device{Device: &pb.DeviceSide{Instance: uuid.NewString()}}
	return req
}

// allDeviceRuns are alice's device-held runs of all kinds with the fixture's sets.
func (f *stocked) allDeviceRuns() []deviceRun {
	return []deviceRun{
		deviceCreateReq(pb.Curve_CURVE_SECP256K1), deviceBackupReq(f.second), deviceReq(f.backup, uuid.NewString()), deviceSignReq(f.second),
	}
}

// A device-held run whose hello has not arrived takes nothing: no slot, no worker, no pre-params, nothing from a
// custodian, none of the set's permitted runs; and no other message is accepted. It times out soon, at no charge.
func TestNothingIsTakenBeforeTheHello(t *testing.T) {
	t.Parallel()
	var taken spent
	f := start(t, servertest.Config{Sessions: session.Config{DeviceRuns: 1, Queue: 1, Aborts: 1, DeviceSilence: briefly}, Workers: servertest.Workers(0), Wrap: taken.wrap})
	before := wallet(t, f.Service, f.second.wallet)
	var silent []*raw
	for i := range 10 {
		for _, req := range f.allDeviceRuns() {
			d := begins(t, f.Service, alice, req)
			silent = append(silent, d)
			if i > 0 {
				continue
			}
			ack, st := d.says(&pb.ProtocolMessage{Sequence: 2, Payload: make([]byte, 200<<10), Curve: pb.Curve_CURVE_ED25519})
			require.Equal(t, codes.OK, st.Code())
			require.Zero(t, ack)
			require.Equal(t, pb.SessionState_SESSION_STATE_QUEUED, getSession(t, f.Service, d.id).GetState())
			_, err := f.Store.Session(t.Context(), d.id)
			require.ErrorIs(t, err, session.ErrSessionNotFound)
		}
	}
	require.Zero(t, f.Workers.Stats().Started)
	require.Zero(t, taken.fetches.Load())
	require.Zero(t, taken.preParams.Load())
	for _, d := range silent {
		a := <-d.ended
		refused(t, a, codes.Aborted, "INTERRUPTED")
		for _, m := range a.messages {
			p := m.(withProgress).GetProgress() //nolint:errcheck,forcetypeassert // they all have this method
			require.Equal(t, pb.Status_STATUS_QUEUED, p.GetStatus())
			require.Zero(t, p.GetQueuePosition())
		}
	}
	require.Zero(t, f.Workers.Stats().Started)
	require.Zero(t, taken.fetches.Load()+taken.preParams.Load())
	require.True(t, proto.Equal(before, wallet(t, f.Service, f.second.wallet)))
}

// While other devices with the same token are silent, the owner's device signs at once, although there is one slot,
// and the set allows one run.
func TestSilentDevicesDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	s := newStage(t, servertest.Config{Sessions: session.Config{DeviceRuns: 1, Queue: 2, Aborts: 1}, Workers: servertest.Workers(1)})
	for range 50 {
		for _, req := range s.allDeviceRuns() {
			begins(t, s.Service, alice, req)
		}
	}
	began := time.Now()
	s.rogue(t, tss.OperationSign, nil).well(t)
	s.rogue(t, "BACKUP", nil).well(t)
	require.Less(t, time.Since(began), time.Minute, "the silent ones have two slots")
	require.Eventually(t, func() bool { return s.Workers.Stats().Busy == 0 }, 2*time.Minute, 5*time.Millisecond)
}

// A hello without a valid proof ends its session, and is never charged: with another set's share, with none, or of
// another session; so does a first part that is not a hello. Too many failures are told to wait, while a device that
// has the share is unaffected.
func TestHellosWithoutAValidProof(t *testing.T) {
	t.Parallel()
	var taken spent
	f := start(t, servertest.Config{Sessions: session.Config{Aborts: 1}, Workers: servertest.Workers(0), Wrap: taken.wrap})
	before := wallet(t, f.Service, f.second.wallet)
	limited := 0
	for range 4 {
		for _, req := range f.allDeviceRuns()[1:] {
			for i, h := range []held{f.first, {}, {}} {
				d := begins(t, f.Service, alice, remade(req))
				if i < 2 {
					d.saysHello(t, h)
				} else {
					_, _ = d.says(&pb.ProtocolMessage{Sequence: 1, Mac: []byte("x")})
				}
				a := <-d.ended
				_, err := f.Store.Session(t.Context(), d.id)
				require.ErrorIs(t, err, session.ErrSessionNotFound, "the same request may come again")
				if a.status.Code() == codes.ResourceExhausted {
					limited++
					refused(t, a, codes.ResourceExhausted, "RATE_LIMITED")
					wait, ok := retryIn(t, a)
					require.True(t, ok)
					require.Positive(t, wait)
					require.LessOrEqual(t, wait, time.Minute)
				} else {
					refused(t, a, codes.InvalidArgument, "SHARE_SET_MISMATCH")
				}
			}
		}
	}
	require.Positive(t, limited)
	require.LessOrEqual(t, limited, 26, "ten were rejected")
	require.Zero(t, taken.fetches.Load()+taken.preParams.Load())
	require.Zero(t, f.Workers.Stats().Started)
	silent(t, f.Service, deviceSignReq(f.second), f.second)()
	require.True(t, proto.Equal(before, wallet(t, f.Service, f.second.wallet)))

	// A proof is valid for one session only.
	one, two := begins(t, f.Service, alice, deviceSignReq(f.second)), begins(t, f.Service, alice, deviceSignReq(f.second))
	m := hello(t, two.req)
	m.Hello.Proof = proof(t, m.GetHello(), one.req, &session.Session{ID: one.id, Attempt: 1, Operation: session.OpSign}, f.second)
	_, st := two.says(m)
	require.Equal(t, codes.OK, st.Code())
	require.Contains(t, []codes.Code{codes.ResourceExhausted, codes.InvalidArgument}, (<-two.ended).status.Code())
}

// remade is the same request with a new request id.
func remade(req deviceRun) deviceRun {
	again := proto.CloneOf(req)
	field := again.ProtoReflect().Descriptor().Fields().ByName("request_id")
	again.ProtoReflect().Set(field, protoreflect.ValueOfString(uuid.NewString()))
	return again
}

// The state of a set is revealed only after a proof of its share.
func TestSetStateIsRevealedAfterTheHello(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	f.Lock(t, f.first.wallet, f.first.set)
	revoke(t, f.Service, f.second)
	for reason, h := range map[string]held{"SHARE_SET_LOCKED": f.first, "SHARE_SET_REVOKED": f.second, "SHARE_SET_PENDING": f.pending} {
		for _, req := range []func(held) deviceRun{
			func(h held) deviceRun { return deviceSignReq(h) }, func(h held) deviceRun { return deviceBackupReq(h) },
		} {
			with := begins(t, f.Service, alice, req(h))
			with.saysHello(t, h)
			refused(t, <-with.ended, codes.FailedPrecondition, reason)
			without := begins(t, f.Service, alice, req(h))
			without.saysHello(t, f.backup)
			refused(t, <-without.ended, codes.InvalidArgument, "SHARE_SET_MISMATCH")
		}
	}
}

// A run can only be taken over by another instance that has its share: any other call, silent or not, leaves it
// unaffected, however often, and does not block the owner.
func TestTakeoverNeedsTheShare(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, true))
	victim := s.rogue(t, "PROVISION", nil)
	reached, goOn := victim.pausesAt(2)
	running := later(func() answer { return victim.run(t) })
	<-reached
	again := func() deviceRun {
		req := proto.CloneOf(victim.req.(*pb.ProvisionWalletRequest)) //nolint:errcheck,forcetypeassert // it has this type
		req.GetDevice().Instance = uuid.NewString()
		return req
	}
	var silent []*raw
	for range 20 {
		silent = append(silent, begins(t, s.Service, alice, again()))
		wrong := begins(t, s.Service, alice, again())
		require.Equal(t, victim.id, wrong.id)
		require.Equal(t, uint32(2), wrong.attempt)
		wrong.saysHello(t, s.pendingBackup)
		<-wrong.ended
	}
	require.Equal(t, session.Running, victim.record(t).State)
	require.Equal(t, uint32(1), victim.record(t).Attempt)

	owner := s.rogue(t, "PROVISION", nil)
	owner.req = again()
	taken := later(func() answer { return owner.run(t) })
	a := <-taken
	close(goOn)
	refused(t, <-running, codes.Aborted, "INTERRUPTED")
	require.Equal(t, codes.OK, a.status.Code(), "%v", a.status)
	require.NotNil(t, owner.joined)
	require.Equal(t, victim.id, owner.id)
	require.Equal(t, uint32(2), owner.record(t).Attempt)
	require.Equal(t, session.Succeeded, owner.record(t).State)
	last := uint32(0)
	for _, m := range a.messages {
		if p := m.(withProgress).GetProgress(); p != nil { //nolint:errcheck,forcetypeassert // they all have this method
			require.Greater(t, p.GetSequence(), last)
			require.Equal(t, uint32(2), p.GetAttempt())
			last = p.GetSequence()
		}
	}
	for _, d := range silent {
		refused(t, <-d.ended, codes.Aborted, "INTERRUPTED")
	}
	lines, err := s.Store.Audit(t.Context(), s.backup.wallet)
	require.NoError(t, err)
	refusals := 0
	for _, l := range lines {
		if l.Action == "session.takeover" {
			require.Equal(t, []string{"refused", victim.id, s.backup.set}, []string{l.Outcome, l.SessionID, l.ShareSetID})
			refusals++
		}
	}
	require.Equal(t, 20, refusals, "each hello that proves nothing is in the audit log, and nothing else")
	require.Zero(t, owner.aborts(t))
	require.Len(t, wallet(t, s.Service, s.backup.wallet).GetShareSets(), len(s.before.GetShareSets())+1)
}

// An instance that waits to take over, and whose stream breaks, attaches again and takes over.
func TestTakeoverAttachesAgain(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	req := deviceSignReq(f.second)
	first := begins(t, f.Service, alice, req)
	first.saysHello(t, f.second)
	first.runs(t)
	other := proto.CloneOf(req)
	other.GetDevice().Instance = uuid.NewString()
	waiting := begins(t, f.Service, alice, other)
	other = proto.CloneOf(other)
	other.GetDevice().Attempt = waiting.attempt
	attached := begins(t, f.Service, alice, other)
	require.Equal(t, waiting.id, attached.id)
	require.Equal(t, waiting.attempt, attached.attempt)
	attached.saysHello(t, f.second)
	refused(t, <-first.ended, codes.Aborted, "INTERRUPTED")
	<-waiting.heard
	<-attached.heard
	attached.runs(t)
	done[*pb.CancelSessionResponse](t, overGRPC(t, f.Service, alice, &pb.CancelSessionRequest{SessionId: first.id}))
	refused(t, <-waiting.ended, codes.Canceled, "SESSION_CANCELLED")
	refused(t, <-attached.ended, codes.Canceled, "SESSION_CANCELLED")
}

// A queued device-held run has only received its device's hello; later parts are processed once the run has a slot.
func TestPartsWaitForTheSlot(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Sessions: session.Config{DeviceRuns: 1}})
	end := silent(t, f.Service, deviceSignReq(f.first), f.first)
	d := begins(t, f.Service, alice, deviceSignReq(f.second))
	d.saysHello(t, f.second)
	for range 3 {
		ack, st := d.says(&pb.ProtocolMessage{Sequence: 2, Payload: make([]byte, 200<<10), Curve: pb.Curve_CURVE_ED25519})
		require.Equal(t, codes.OK, st.Code())
		require.Equal(t, uint32(1), ack)
	}
	end()
	d.runs(t)
	require.Eventually(t, func() bool { // from here on the device is at fault
		_, _ = d.says(&pb.ProtocolMessage{Sequence: 2, Payload: []byte("x"), Curve: pb.Curve_CURVE_ED25519})
		rec, err := f.Store.Session(t.Context(), d.id)
		return err == nil && rec.State == session.Failed
	}, 2*time.Minute, 5*time.Millisecond)
	refused(t, <-d.ended, codes.Aborted, "PROTOCOL_ABORTED")
}

// A caller may have a limited number of runs in the queue, regardless of others, and is told that it is its own
// limit; others can still queue. New wallets are counted separately, since they need only a token. This applies to
// hosted and device-held runs alike.
func TestCallersShareOfTheQueue(t *testing.T) {
	t.Parallel()
	f, gate := gated(t, session.Config{Queue: 8, DeviceRuns: 1})
	var waiting []<-chan answer
	for range 3 { // one runs, two wait
		req := signReq(f.first)
		waiting = append(waiting, later(func() answer { return overGRPC(t, f.Service, alice, req) }))
		sessionOf(t, f, req.GetRequestId())
	}
	<-gate.Came
	own := func(a answer) {
		refused(t, a, codes.ResourceExhausted, "OVERLOADED")
		require.Contains(t, a.status.Message(), "You have too many runs waiting")
		_, ok := retryIn(t, a)
		require.True(t, ok)
	}
	for _, do := range transports {
		own(do(t, f.Service, alice, signReq(f.first)))
	}
	another := signReq(f.first)
	waiting = append(waiting, later(func() answer { return overGRPC(t, f.Service, nil, another) }))
	require.Eventually(t, func() bool {
		_, err := f.Store.ByRequest(t.Context(), servertest.Dev.Name, another.GetRequestId())
		return err == nil
	}, time.Minute, time.Millisecond)

	var queued []*raw
	for range 3 {
		d := begins(t, f.Service, alice, deviceSignReq(f.second))
		d.saysHello(t, f.second)
		queued = append(queued, d)
	}
	require.Eventually(t, func() bool { // a refused run is not recorded
		d := begins(t, f.Service, alice, deviceSignReq(f.second))
		if d.id != "" {
			return false
		}
		own(<-d.ended)
		return true
	}, time.Minute, 10*time.Millisecond)
	begins(t, f.Service, alice, deviceCreateReq()).saysHello(t, held{})
	gate.Open()
	for _, end := range waiting {
		done[*pb.SignResponse](t, <-end)
	}
	for _, d := range queued {
		overGRPC(t, f.Service, alice, &pb.CancelSessionRequest{SessionId: d.id})
		<-d.ended
	}
}

// One caller's devices have proven their shares, taken all slots, and fallen silent: when another caller waits, those
// beyond the first one's fair share are ended long before their timeout.
func TestSilentRunsGiveWay(t *testing.T) {
	t.Parallel()
	cfg := rogueConfig(0, true)
	cfg.Sessions.DeviceRuns, cfg.Sessions.Queue = 4, 8
	s := newStage(t, cfg)
	flooder := &session.Caller{Name: "flooder", Scopes: []session.Scope{session.ScopeSign}}
	var silent []*raw
	for range 4 {
		d := begins(t, s.Service, flooder, deviceSignReq(s.first))
		d.saysHello(t, s.first)
		d.runs(t)
		silent = append(silent, d)
	}
	began := time.Now()
	s.rogue(t, tss.OperationSign, nil).well(t)
	require.Less(t, time.Since(began), time.Minute, "they have two minutes")
	ended := 0
	for _, d := range silent {
		select {
		case a := <-d.ended:
			refused(t, a, codes.Aborted, "INTERRUPTED")
			ended++
		default:
		}
	}
	require.Positive(t, ended)
	require.Less(t, ended, 4, "its fair share is one")
	require.Zero(t, s.rogue(t, tss.OperationSign, nil).aborts(t))
}

// A token is enough for the hello of a new wallet, which takes pre-params: their number per caller is limited. Runs
// without ECDSA keys are not counted.
func TestNewDeviceHeldWalletsAreLimited(t *testing.T) {
	t.Parallel()
	var taken spent
	f := start(t, servertest.Config{Sessions: session.Config{Creates: 3}, Wrap: taken.wrap})
	try := func(as *session.Caller, curve pb.Curve) answer {
		d := begins(t, f.Service, as, deviceCreateReq(curve))
		d.saysHello(t, held{})
		select {
		case <-d.heard:
			overGRPC(t, f.Service, as, &pb.CancelSessionRequest{SessionId: d.id})
		case a := <-d.ended:
			return a
		}
		return <-d.ended
	}
	bob := &session.Caller{Name: "bob"}
	began, limited := time.Now(), 0
	for n := range 8 {
		a := try(alice, pb.Curve_CURVE_SECP256K1)
		if n < 3 || a.status.Code() == codes.Canceled {
			refused(t, a, codes.Canceled, "SESSION_CANCELLED")
			continue
		}
		limited++
		refused(t, a, codes.ResourceExhausted, "RATE_LIMITED")
		require.Contains(t, a.status.Message(), "new device-held wallets")
		wait, ok := retryIn(t, a)
		require.True(t, ok)
		require.Positive(t, wait)
	}
	most := 3 + int(time.Since(began)/(10*time.Second)) // one more every ten seconds
	require.GreaterOrEqual(t, limited, 8-most)
	require.LessOrEqual(t, int(taken.preParams.Load()), most)
	refused(t, try(alice, pb.Curve_CURVE_ED25519), codes.Canceled, "SESSION_CANCELLED")
	refused(t, try(bob, pb.Curve_CURVE_SECP256K1), codes.Canceled, "SESSION_CANCELLED")
}
