package e2e_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mpcd/mpcd/client"
	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/policy"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// unknown requires that neither a session nor its request is in the database.
func unknown(t testing.TB, s *servertest.Service, id, requestID string) {
	t.Helper()
	_, err := s.Store.Session(t.Context(), id)
	require.ErrorIs(t, err, session.ErrSessionNotFound)
	_, err = s.Store.ByRequest(t.Context(), alice.Name, requestID)
	require.ErrorIs(t, err, session.ErrSessionNotFound)
}

// A device-held session whose device has sent nothing is in no database and in no audit log. The caller that began it
// can still find it, but no other. When it has ended, the same request begins anew.
func TestSilentSessionsAreNotRecorded(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	before, err := f.Store.Audit(t.Context(), f.second.wallet)
	require.NoError(t, err)
	bob := &session.Caller{Name: "bob"}
	for _, do := range transports {
		req := deviceSignReq(f.second)
		d := begins(t, f.Service, alice, req)
		unknown(t, f.Service, d.id, req.GetRequestId())

		get, cancel := &pb.GetSessionRequest{SessionId: d.id}, &pb.CancelSessionRequest{SessionId: d.id}
		send := &pb.SendMessagesRequest{
			SessionId: d.id, Instance: req.GetDevice().GetInstance(), Attempt: 1,
			Messages: []*pb.ProtocolMessage{{Sequence: 2, Mac: []byte("x")}},
		}
		got := done[*pb.GetSessionResponse](t, do(t, f.Service, alice, get)).GetSession()
		require.Equal(t, pb.SessionState_SESSION_STATE_QUEUED, got.GetState())
		require.Equal(t, uint32(1), got.GetAttempt())
		require.Equal(t, uint32(1), got.GetProgress().GetSequence())
		require.Equal(t, f.second.wallet, got.GetWalletId())
		require.Zero(t, done[*pb.SendMessagesResponse](t, do(t, f.Service, alice, send)).GetAck())
		for _, req := range []proto.Message{get, cancel, send} {
			refused(t, do(t, f.Service, bob, req), codes.NotFound, "SESSION_NOT_FOUND")
		}
		stray := proto.CloneOf(send)
		stray.Attempt = 2
		refused(t, do(t, f.Service, alice, stray), codes.Aborted, "INTERRUPTED")
		stray = proto.CloneOf(send)
		stray.Instance = uuid.NewString()
		refused(t, do(t, f.Service, alice, stray), codes.Aborted, "INTERRUPTED")

		another := proto.CloneOf(req)
		another.Payload = []byte("another")
		refused(t, do(t, f.Service, alice, another), codes.InvalidArgument, "REQUEST_ID_REUSED")
		attached := begins(t, f.Service, alice, req)
		require.Equal(t, []any{d.id, uint32(1)}, []any{attached.id, attached.attempt})
		other := proto.CloneOf(req)
		other.GetDevice().Instance = uuid.NewString()
		beside := begins(t, f.Service, alice, other)
		require.Equal(t, []any{d.id, uint32(2)}, []any{beside.id, beside.attempt})
		unknown(t, f.Service, d.id, req.GetRequestId())

		cancelled := done[*pb.CancelSessionResponse](t, do(t, f.Service, alice, cancel)).GetSession()
		require.Equal(t, pb.SessionState_SESSION_STATE_CANCELLED, cancelled.GetState())
		require.Equal(t, "SESSION_CANCELLED", cancelled.GetError().GetReason())
		refused(t, <-d.ended, codes.Canceled, "SESSION_CANCELLED")
		refused(t, <-attached.ended, codes.Canceled, "SESSION_CANCELLED")
		refused(t, <-beside.ended, codes.Aborted, "INTERRUPTED")
		refused(t, do(t, f.Service, alice, get), codes.NotFound, "SESSION_NOT_FOUND")
		unknown(t, f.Service, d.id, req.GetRequestId())

		anew := begins(t, f.Service, alice, req)
		require.NotEqual(t, d.id, anew.id)
		require.Equal(t, uint32(1), anew.attempt)
	}
	after, err := f.Store.Audit(t.Context(), f.second.wallet)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// A device that begins is told its session and attempt even if it has seen events of an earlier, forgotten session
// with other sequences.
func TestNewRunGetsItsSession(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Sessions: session.Config{DeviceSilence: briefly}}) // shorter than a heartbeat
	req := deviceSignReq(f.second)
	req.AfterSequence = 1000
	d := begins(t, f.Service, alice, req)
	require.NotEmpty(t, d.id)
	d.saysHello(t, f.second)
	<-d.heard
}

// Concurrent calls with one request id are one session, and only one is recorded.
func TestConcurrentCallsAreOneSession(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	req := deviceSignReq(f.second)
	all := make([]*raw, 16)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i] = begins(t, f.Service, alice, req) }) // ends with its call's first answer
	}
	wg.Wait()
	for _, d := range all {
		require.Equal(t, []any{all[0].id, uint32(1)}, []any{d.id, d.attempt})
	}
	for i := range 8 {
		wg.Go(func() { // ends with its call
			m := hello(t, req)
			rec := &session.Session{ID: all[0].id, Attempt: 1, Operation: session.OpSign}
			m.Hello.Proof = proof(t, m.GetHello(), req, rec, f.second)
			_, _ = all[i].says(m)
		})
	}
	wg.Wait()
	for _, d := range all {
		<-d.heard
	}
	rec, err := f.Store.ByRequest(t.Context(), alice.Name, req.GetRequestId())
	require.NoError(t, err)
	require.Equal(t, all[0].id, rec.ID)
	lines, err := f.Store.Audit(t.Context(), f.second.wallet)
	require.NoError(t, err)
	begun := 0
	for _, l := range lines {
		if l.Action == "session.begin" && l.SessionID == rec.ID {
			begun++
		}
	}
	require.Equal(t, 1, begun)
}

// An instance that has proven its share takes over from a silent one: in the session that both were told, at the next
// attempt, and it is recorded so.
func TestTakeoverOfASilentSession(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	req := deviceSignReq(f.second)
	silent := begins(t, f.Service, alice, req)
	other := proto.CloneOf(req)
	other.GetDevice().Instance = uuid.NewString()
	d := begins(t, f.Service, alice, other)
	require.Equal(t, []any{silent.id, uint32(2)}, []any{d.id, d.attempt})
	d.saysHello(t, f.second)
	refused(t, <-silent.ended, codes.Aborted, "INTERRUPTED")
	<-d.heard
	rec, err := f.Store.ByRequest(t.Context(), alice.Name, req.GetRequestId())
	require.NoError(t, err)
	require.Equal(t, []any{silent.id, uint32(2)}, []any{rec.ID, rec.Attempt})
	done[*pb.CancelSessionResponse](t, overGRPC(t, f.Service, alice, &pb.CancelSessionRequest{SessionId: d.id}))
	refused(t, <-d.ended, codes.Canceled, "SESSION_CANCELLED")
	require.Equal(t, pb.SessionState_SESSION_STATE_CANCELLED, getSession(t, f.Service, d.id).GetState())
}

// If the service restarts before the device's hello, the session is lost, and the SDK begins anew by itself.
func TestServiceForgetsASilentSession(t *testing.T) {
	t.Parallel()
	cfg, fixture := withFixture(t, servertest.Config{Auth: servertest.Always("alice"), Dir: t.TempDir()})
	s := servertest.Start(t, cfg)
	cfg.Keyset, cfg.Database = s.Keyset, nil
	n := newNetwork(s.Conn)
	phone := networkPhone(t, n)
	share, err := client.ParseShare(fixture.second.share)
	require.NoError(t, err)
	var lost atomic.Bool
	var once sync.Once
	back := make(chan *servertest.Service, 1)
	var restarted *servertest.Service
	n.before = func() {
		if lost.Load() && restarted == nil {
			restarted = <-back
		}
	}
	n.hear = func(stream grpc.ClientStream, event any) error {
		err := stream.RecvMsg(event)
		if err != nil && lost.Load() && n.opened.Load() == 1 {
			return errGone // the stream was the old service's
		}
		return err
	}
	refusals := make(chan error, 1)
	n.send = func(req *pb.SendMessagesRequest, send sender) (*pb.SendMessagesResponse, error) {
		var again *servertest.Service
		once.Do(func() {
			lost.Store(true)
			s.Stop()
			again = servertest.Start(t, cfg)
			var conn grpc.ClientConnInterface = again.Conn
			n.to.Store(&conn)
		})
		resp, err := send(req)
		if again != nil {
			refusals <- err
			back <- again
		}
		return resp, err
	}
	_, err = phone.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)
	refused(t, answer{status: status.Convert(<-refusals)}, codes.NotFound, "SESSION_NOT_FOUND")
	lines, err := restarted.Store.Audit(t.Context(), fixture.second.wallet)
	require.NoError(t, err)
	var actions []string
	for _, l := range lines {
		if l.SessionID != "" && l.SessionID == lines[len(lines)-1].SessionID {
			actions = append(actions, l.Action)
		}
	}
	require.Equal(t, []string{"session.begin", "session.run", "session.release", "session.commit"}, actions, "one attempt")
}

// Without the share, a caller cannot make the service ask the customer's authoriser; with it, the authoriser is asked
// before anything is recorded or used, also for a takeover.
func TestPolicyIsAskedAfterTheProof(t *testing.T) {
	t.Parallel()
	a := newAuthoriser(t)
	var taken spent
	f := start(t, servertest.Config{Workers: servertest.Workers(0), Wrap: func(p *session.Ports) {
		taken.wrap(p)
		p.Policy = policy.NewWebhook(a.client)
	}})
	requests := map[string]struct {
		req deviceRun
		h   held
	}{
		"BACKUP": {deviceBackupReq(f.second), f.second}, "PROVISION": {deviceReq(f.backup, uuid.NewString()), f.backup},
		"SIGN": {deviceSignReq(f.second), f.second},
	}
	for _, x := range requests {
		for _, wrong := range []held{{}, f.first} {
			d := begins(t, f.Service, alice, remade(x.req))
			d.saysHello(t, wrong)
			refused(t, <-d.ended, codes.InvalidArgument, "SHARE_SET_MISMATCH")
		}
		begins(t, f.Service, alice, remade(x.req))
	}
	require.Empty(t, a.questions())

	a.says(200, `{"allow": false, "reason": "daily limit reached"}`)
	for operation, x := range requests {
		d := begins(t, f.Service, alice, x.req)
		d.saysHello(t, x.h)
		got := <-d.ended
		refused(t, got, codes.PermissionDenied, "POLICY_DENIED")
		require.Equal(t, "daily limit reached", policyDetail(got))
		unknown(t, f.Service, d.id, x.req.GetRequestId())
		asked := a.questions()
		require.Len(t, asked, 1)
		require.Equal(t, []any{operation, x.h.set, x.req.GetRequestId()},
			[]any{asked[0]["operation"], asked[0]["shareSetId"], asked[0]["requestId"]})
	}
	a.says(200, ``)
	d := begins(t, f.Service, alice, requests["SIGN"].req)
	d.saysHello(t, f.second)
	refused(t, <-d.ended, codes.Unavailable, "WEBHOOK_FAILED")
	require.Zero(t, taken.fetches.Load()+taken.preParams.Load())
	require.Zero(t, f.Workers.Stats().Started)
	lines, err := f.Store.Audit(t.Context(), f.second.wallet)
	require.NoError(t, err)
	var noted []string
	for _, l := range lines {
		if l.Reason == "POLICY_DENIED" {
			noted = append(noted, l.Action+" "+l.Outcome+" "+l.Detail)
		}
	}
	require.ElementsMatch(t, []string{
		"session.begin refused BACKUP daily limit reached", "session.begin refused PROVISION daily limit reached",
		"session.begin refused SIGN daily limit reached",
	}, noted)

	// The same request proceeds once the answer is yes.
	require.Eventually(t, func() bool { return a.client.Circuit() != "open" }, 2*time.Minute, 5*time.Millisecond)
	a.says(200, `{"allow": true}`)
	a.questions()
	d = begins(t, f.Service, alice, requests["SIGN"].req)
	d.saysHello(t, f.second)
	<-d.heard
	require.Len(t, a.questions(), 1)
	a.says(200, `{"allow": false}`)
	other := proto.Clone(requests["SIGN"].req).(deviceRun) //nolint:errcheck,forcetypeassert // it has this type
	other.GetDevice().Instance = uuid.NewString()
	thief := begins(t, f.Service, alice, other)
	thief.saysHello(t, f.first)
	refused(t, <-thief.ended, codes.InvalidArgument, "SHARE_SET_MISMATCH")
	require.Empty(t, a.questions())
	other.GetDevice().Instance = uuid.NewString()
	denied := begins(t, f.Service, alice, other)
	denied.saysHello(t, f.second)
	refused(t, <-denied.ended, codes.PermissionDenied, "POLICY_DENIED")
	require.Len(t, a.questions(), 1)
	rec, err := f.Store.Session(t.Context(), d.id)
	require.NoError(t, err)
	require.Equal(t, []any{session.Running, uint32(1)}, []any{rec.State, rec.Attempt}, "it goes on")
}

// full is a store that refuses to store ends of sessions while it is full. While cancels is set, each session is
// cancelled at the moment it ends, and its culprit cannot be recorded.
type full struct {
	session.Sessions
	session.Budgets
	is, cancels atomic.Bool
}

var errFull = errors.New("a fault that the test made")

func (f *full) wrap(p *session.Ports) {
	f.Sessions, f.Budgets = p.Sessions, p.Budgets
	p.Sessions, p.Budgets = f, f
}

func (f *full) Update(ctx context.Context, n *session.Session, b session.Budget, e session.Entry) error {
	if f.is.Load() && n.State.Ended() {
		return errFull
	}
	if f.cancels.Load() && n.State.Ended() {
		first := *n
		first.State, first.Failure = session.Cancelled, &session.Failure{Reason: "SESSION_CANCELLED"}
		if err := f.Sessions.Update(ctx, &first, b, e); err != nil {
			return err
		}
	}
	return f.Sessions.Update(ctx, n, b, e)
}

func (f *full) Blame(ctx context.Context, n *session.Session, b session.Budget, e session.Entry) error {
	if f.is.Load() || f.cancels.Load() {
		return errFull
	}
	return f.Budgets.Blame(ctx, n, b, e)
}

// swept runs the sweeper until it has logged something about a session.
func swept(t *testing.T, s *servertest.Service, words ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { // ends with ctx
		defer close(over)
		s.Sessions.Sweep(ctx)
	}()
	s.Log.Wait(t, words...)
	cancel()
	<-over
}

// If the store did not take a run's end, the sweeper stores it and charges it, once. Until then callers see
// INTERRUPTED.
func TestEndsAreStoredLate(t *testing.T) {
	t.Parallel()
	var store full
	cfg := rogueConfig(0, false)
	cfg.Wrap = store.wrap
	s := newStage(t, cfg)
	late := "the end of a session was stored late"
	garbage := func(r *rogue, _ int, m *outgoing) {
		m.Payload = []byte("garbage")
		r.say(m)
	}
	broken := func() *rogue {
		r := s.rogue(t, tss.OperationSign, at(1, garbage))
		store.is.Store(true)
		refused(t, r.run(t), codes.Aborted, "INTERRUPTED")
		require.Equal(t, session.Running, r.record(t).State)
		require.Equal(t, pb.SessionState_SESSION_STATE_INTERRUPTED, getSession(t, s.Service, r.id).GetState())
		return r
	}
	r := broken()
	swept(t, s.Service, "could still not be stored", r.id)
	require.Equal(t, session.Running, r.record(t).State)
	require.Zero(t, r.aborts(t))
	store.is.Store(false)
	swept(t, s.Service, late, r.id)
	rec := r.record(t)
	require.Equal(t, session.Interrupted, rec.State)
	require.Equal(t, []string{"PROTOCOL_ABORTED", "CLIENT"}, []string{rec.Failure.Reason, rec.Failure.Culprit})
	require.Equal(t, uint32(1), r.aborts(t))
	require.Equal(t, tss.OperationSign+" culprit CLIENT", r.end(t).Detail)

	// The same request, before the sweeper: the end is stored first, with the blame.
	r = broken()
	store.is.Store(false)
	again := s.rogue(t, tss.OperationSign, nil)
	again.req = proto.Clone(r.req).(deviceRun) //nolint:errcheck,forcetypeassert // it has this type
	again.req.GetDevice().Instance = uuid.NewString()
	again.well(t)
	require.Equal(t, []any{r.id, uint32(2)}, []any{again.id, again.record(t).Attempt})
	require.Equal(t, uint32(2), r.aborts(t))

	// Another call has ended it, and the blame could not be stored.
	store.cancels.Store(true)
	r = s.rogue(t, tss.OperationSign, at(1, garbage))
	refused(t, r.run(t), codes.Canceled, "SESSION_CANCELLED")
	require.Equal(t, session.Cancelled, r.record(t).State)
	require.Equal(t, uint32(2), r.aborts(t))
	store.cancels.Store(false)
	swept(t, s.Service, late, r.id)
	require.Equal(t, session.Cancelled, r.record(t).State)
	require.Equal(t, uint32(3), r.aborts(t))
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.Sessions.Sweep(ctx)
	}
	require.Equal(t, uint32(3), r.aborts(t), "each is charged once")
}

// An armed run whose end the store did not take stays armed until the sweeper stores it, and then costs a soft abort.
func TestArmedEndsAreStoredLate(t *testing.T) {
	t.Parallel()
	var store full
	cfg := rogueConfig(0, true)
	cfg.Wrap = store.wrap
	s := newStage(t, cfg)
	h := confirm(t, s.Service, create(t, s.Service, pb.Curve_CURVE_SECP256K1))
	w := s.withholds(t, h, firstArmed)
	store.is.Store(true)
	next := again(t, w.rogue, h)
	require.NotEqual(t, codes.OK, next.run(t).status.Code(), "the attempt before has no end")
	refused(t, <-w.ended, codes.Aborted, "INTERRUPTED")
	require.Equal(t, session.Running, w.record(t).State)
	s.charged(t, h, 0)
	store.is.Store(false)
	for range 2 {
		swept(t, s.Service, "the end of a session was stored late", w.id)
		s.charged(t, h, 1)
	}
	require.Equal(t, session.Interrupted, w.record(t).State)
	s.ecRogue(t, tss.OperationSign, h, nil).well(t)
	s.charged(t, h, 1)
}
