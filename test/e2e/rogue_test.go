package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
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

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
	"github.com/mpcd/mpcd/internal/wire"
)

// stage is a service whose devices are hostile, one run after the other.
type stage struct {
	*stocked
	worker string                 // an argument only its workers have; empty: it has no workers
	before *pb.Wallet             // the fixture's wallet, which no broken run changes
	honest map[string][]*outgoing // a device's parts in an honest run of each operation
}

// briefly is a device timeout for tests that wait for it: longer than an honest device is ever silent, even under the
// race detector on a busy machine.
const briefly = 5 * time.Second

// outgoing is one of a device's parts, without its numbers.
type outgoing = pb.ProtocolMessage

// rogueConfig configures services under attack: their sets are never locked.
func rogueConfig(silence time.Duration, workers bool) servertest.Config {
	cfg := servertest.Config{Sessions: session.Config{Aborts: 1 << 20, Creates: 1 << 20, DeviceSilence: silence}}
	if workers {
		cfg.Workers = servertest.Workers(1)
		cfg.Workers.Limits.Memory += rogueServices.Add(1) // which identifies its workers
	}
	return cfg
}

var rogueServices atomic.Int64

// newStage starts a service. An honest run of each operation records the parts to attack.
func newStage(t testing.TB, cfg servertest.Config, operations ...string) *stage {
	t.Helper()
	s := &stage{stocked: start(t, cfg), honest: map[string][]*outgoing{}}
	if cfg.Workers != nil {
		s.worker = "--memory=" + strconv.FormatInt(cfg.Workers.Limits.Memory, 10)
	}
	for _, op := range operations {
		r := s.rogue(t, op, nil)
		r.well(t)
		require.GreaterOrEqual(t, len(r.sent), 6, "a hello, messages of three rounds, an end and a mac")
		s.honest[op] = r.sent
	}
	s.before = wallet(t, s.Service, s.second.wallet)
	return s
}

// trick is what a rogue does in place of sending its part n, from 0. It runs in the goroutine of its parties. A nil
// trick sends the part.
type trick func(r *rogue, n int, m *outgoing)

// pausesAt makes a rogue wait before its part n: reached is closed when it gets there, and it continues when goOn is
// closed.
func (r *rogue) pausesAt(n int) (reached <-chan struct{}, goOn chan<- struct{}) {
	there, on := make(chan struct{}), make(chan struct{})
	r.trick = func(r *rogue, said int, m *outgoing) {
		if said == n {
			close(there)
			<-on
		}
		r.say(m)
	}
	return there, on
}

// rogue is a device with the SDK's own parties, but a link of its own: what it sends is up to its trick.
type rogue struct {
	stage *stage
	op    string
	uses  string // the set
	req   deviceRun
	joint tss.Operation
	trick trick
	// givesUp makes it cancel the run, as the SDK does, when its own parties cannot continue.
	givesUp bool
	id      string // the session's, once it began
	// drop ends its stream, once it began.
	drop context.CancelFunc

	in chan tss.Part

	mu      sync.Mutex // guards the fields below
	sent    []*outgoing
	heard   []*pb.ProtocolMessage // from the service
	next    uint32                // the last sequence that was used
	refused []*status.Status      // of SendMessages
	joined  *tss.Output
	err     error // of its own parties
}

// rogue returns alice's device for one operation on ED25519 with the fixture's sets.
func (s *stage) rogue(t testing.TB, op string, do trick) *rogue {
	t.Helper()
	r := &rogue{stage: s, op: op, trick: do, in: make(chan tss.Part, 64)}
	r.joint = tss.Operation{
		Party: tss.Client, Kind: op, Curves: []tss.Curve{tss.Ed25519}, Purpose: tss.Signing, PreParams: tsstest.NewSource().PreParams,
	}
	var from held
	switch op {
	case "CREATE":
		req := createReq()
		req.ClientSide = &pb.CreateWalletRequest_Device{Device: &pb.DeviceSide{Instance: uuid.NewString()}}
		r.req = req
		return r
	case "BACKUP":
		from, r.joint.Purpose, r.req = s.first, tss.Backup, deviceBackupReq(s.first)
	case "PROVISION":
		from, r.req = s.backup, deviceReq(s.backup, uuid.NewString())
	case tss.OperationSign:
		from, r.joint.Payload, r.req = s.second, []byte("hello"), deviceSignReq(s.second)
	}
	r.holds(t, from)
	return r
}

func (r *rogue) holds(t testing.TB, h held) {
	t.Helper()
	var err error
	r.joint.Share, err = tss.ParseShare(h.share)
	require.NoError(t, err)
	r.uses = h.set
}

// deviceEvent is what the responses of device-held runs have in common.
type deviceEvent interface {
	proto.Message
	withProgress
	GetMessage() *pb.ProtocolMessage
}

// run executes the run to its end.
func (r *rogue) run(t testing.TB) (a answer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(servertest.As(t.Context(), "alice"), 3*time.Minute)
	defer cancel()
	r.drop = cancel
	m := method(t, r.req)
	stream, err := r.stage.Conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()))
	require.NoError(t, err)
	require.NoError(t, stream.SendMsg(r.req))
	require.NoError(t, stream.CloseSend())
	var parties sync.WaitGroup
	for {
		resp := newResponse(t, m)
		if err := stream.RecvMsg(resp); err != nil {
			if !errors.Is(err, io.EOF) {
				cancel()
				a.status = status.Convert(err)
			} else {
				a.status = status.New(codes.OK, "")
			}
			parties.Wait()
			return a
		}
		a.messages = append(a.messages, resp)
		ev, ok := resp.(deviceEvent)
		require.True(t, ok)
		if p := ev.GetProgress(); p != nil && r.id == "" {
			r.id, r.joint.SessionID, r.joint.Attempt = p.GetSessionId(), p.GetSessionId(), p.GetAttempt()
			r.joint.Instance = r.req.GetDevice().GetInstance()
			parties.Go(func() { r.act(ctx) }) // ends with the stream
		}
		r.hear(ev.GetMessage())
	}
}

// act runs the parties. It returns when none of them computes any more: a run that was broken off returns earlier,
// and its computations still call Send.
func (r *rogue) act(ctx context.Context) {
	var busy sync.WaitGroup
	defer busy.Wait()
	r.joint.Observer.Busy = &busy
	r.joined, r.err = r.joint.Run(ctx, r)
	if r.err != nil && ctx.Err() == nil && r.givesUp {
		_, _ = r.stage.CancelSession(ctx, &pb.CancelSessionRequest{SessionId: r.id}) // the stream has the result
	}
}

func (r *rogue) hear(m *pb.ProtocolMessage) {
	if m == nil {
		return
	}
	r.mu.Lock()
	r.heard = append(r.heard, m)
	r.mu.Unlock()
	if p, err := wire.Part(m); err == nil {
		r.in <- p
	}
}

// Send implements tss.Link.
func (r *rogue) Send(_ context.Context, p tss.Part) error {
	m := wire.Message(p)
	r.mu.Lock()
	n := len(r.sent)
	r.sent = append(r.sent, proto.CloneOf(m))
	r.mu.Unlock()
	if r.trick == nil {
		r.say(m)
	} else {
		r.trick(r, n, m)
	}
	return nil
}

// part returns its parties' part n, from 0.
func (r *rogue) part(n int) *outgoing {
	r.mu.Lock()
	defer r.mu.Unlock()
	return proto.CloneOf(r.sent[n])
}

// proven returns m with a fresh proof if it is the hello of a device that has a share: the attacker is the share's
// holder.
func (r *rogue) proven(m *outgoing) *outgoing {
	if m.GetHello() != nil && r.joint.Share != nil {
		m.Hello.Proof = proofOf(m.GetHello(), r.about(), r.joint.Share)
	}
	return m
}

// about returns what its hello is about.
func (r *rogue) about() *tss.HelloContext {
	j := &r.joint
	return &tss.HelloContext{
		Operation: j.Kind, SessionID: j.SessionID, Attempt: j.Attempt, WalletID: j.Share.WalletID, ShareSetID: j.Share.ShareSetID,
		RecordHash: j.Share.RecordHash, Payload: j.Payload, Instance: j.Instance,
	}
}

// proofOf returns a share holder's proof for a hello.
func proofOf(h *pb.Hello, about *tss.HelloContext, share *tss.Share) []byte {
	x := &tss.Hello{Nonce: h.GetNonce(), SessionKey: h.GetSessionKey(), PartyKeys: h.GetPartyKeys()}
	if err := x.Prove(about, share); err != nil {
		panic(err) // a share has a key
	}
	return x.Proof
}

// refusals returns the statuses of refused calls of SendMessages.
func (r *rogue) refusals() []*status.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.refused)
}

// Recv implements tss.Link.
func (r *rogue) Recv(ctx context.Context) (tss.Part, error) {
	select {
	case p := <-r.in:
		return p, nil
	case <-ctx.Done():
		return tss.Part{}, context.Cause(ctx)
	}
}

// say sends parts as the next ones, retrying until the service acknowledges or refuses them.
func (r *rogue) say(all ...*outgoing) {
	r.mu.Lock()
	for _, m := range all {
		r.next++
		m.Sequence, m.Ack = r.next, uint32(len(r.heard))
	}
	last := r.next
	r.mu.Unlock()
	for range 10_000 { // parts before their turn are not acknowledged
		if ack, st := r.call(alice, r.words(all...)); st.Code() != codes.OK || ack >= last {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// words returns the call that sends parts as they are.
func (r *rogue) words(all ...*outgoing) *pb.SendMessagesRequest {
	return &pb.SendMessagesRequest{SessionId: r.id, Instance: r.req.GetDevice().GetInstance(), Attempt: r.joint.Attempt, Messages: all}
}

// shout makes a call as any caller, and returns its status.
func (r *rogue) shout(as *session.Caller, req *pb.SendMessagesRequest) *status.Status {
	_, st := r.call(as, req)
	return st
}

func (r *rogue) call(as *session.Caller, req *pb.SendMessagesRequest) (ack uint32, st *status.Status) {
	resp, err := r.stage.SendMessages(servertest.As(context.Background(), as.Name, as.Scopes...), req)
	st = status.Convert(err)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refused = append(r.refused, st)
	}
	return resp.GetAck(), st
}

// well requires that the run succeeded, on both sides.
func (r *rogue) well(t testing.TB) {
	t.Helper()
	a := r.run(t)
	require.Equal(t, codes.OK, a.status.Code(), "%v", a.status)
	require.NoError(t, r.err)
	require.NotNil(t, r.joined)
	require.Equal(t, session.Succeeded, r.record(t).State)
}

func (r *rogue) record(t testing.TB) *session.Session {
	t.Helper()
	rec, err := r.stage.Store.Session(t.Context(), r.id)
	require.NoError(t, err)
	return rec
}

// recorded reports whether its session is in the database.
func (r *rogue) recorded(t testing.TB) bool {
	t.Helper()
	_, err := r.stage.Store.Session(t.Context(), r.id)
	if err != nil {
		require.ErrorIs(t, err, session.ErrSessionNotFound)
	}
	return err == nil
}

// unrecorded requires that it received nothing, and checks the audit log for a session that ended before it was
// recorded: why it was rejected, if its hello did not prove its share.
func (r *rogue) unrecorded(t testing.TB, way string) {
	t.Helper()
	require.Empty(t, r.heard)
	var lines []store.AuditLine
	for _, walletID := range []string{"", r.stage.second.wallet} {
		chain, err := r.stage.Store.Audit(t.Context(), walletID)
		require.NoError(t, err)
		for _, l := range chain {
			if l.SessionID == r.id {
				lines = append(lines, l)
			}
		}
	}
	if way != showedNoShare {
		require.Empty(t, lines)
		return
	}
	require.Len(t, lines, 1)
	l := lines[0]
	require.Equal(t, []string{"session.begin", "refused", way, r.uses, r.op},
		[]string{l.Action, l.Outcome, l.Reason, l.ShareSetID, l.Detail})
}

// end returns the audit log's last entry of the run.
func (r *rogue) end(t testing.TB) (end session.Entry) {
	t.Helper()
	rec, ends := r.record(t), uint32(0)
	lines, err := r.stage.Store.Audit(t.Context(), rec.WalletID)
	require.NoError(t, err)
	for _, l := range lines {
		switch l.Action {
		case "session.end", "session.commit", "session.cancel":
			if l.SessionID == r.id {
				ends++
				end = l.Entry
			}
		}
	}
	require.Equal(t, rec.Attempt, ends, "each attempt ended, once")
	return end
}

// The ways in which a run ends.
const (
	brokenOff = "PROTOCOL_ABORTED" // by the device, which is named
	unblamed  = "INTERRUPTED"      // without blame
	// by a hello without a valid proof, before any of the service's resources were used
	showedNoShare = "SHARE_SET_MISMATCH"
	gaveUp        = "SESSION_CANCELLED" // by the device, whose own parties cannot continue
	succeeded     = "OK"
)

// ends requires that the run ends in one of these ways, with matching errors, audit entries and counts. It returns
// the way.
func (r *rogue) ends(t testing.TB, ways ...string) string {
	t.Helper()
	counted := r.aborts(t)
	r.givesUp = slices.Contains(ways, gaveUp)
	a := r.run(t)
	way, culprit := succeeded, ""
	if i, _ := info(t, a.status); i != nil {
		way, culprit = i.GetReason(), i.GetMetadata()["culprit"]
	}
	require.Contains(t, ways, way, "%v", a.status)
	if !r.recorded(t) {
		require.NotEqual(t, succeeded, way)
		r.unrecorded(t, way)
		require.Equal(t, counted, r.aborts(t))
		return way
	}
	require.NotEqual(t, showedNoShare, way)
	end := r.end(t)
	if way == succeeded {
		require.Equal(t, "ok", end.Outcome)
		require.NoError(t, r.err)
	} else {
		require.Equal(t, "failed", end.Outcome)
		require.Equal(t, way, end.Reason)
	}
	if way == brokenOff {
		require.Equal(t, "CLIENT", culprit)
		require.Equal(t, r.op+" culprit CLIENT", end.Detail)
		counted++
	} else {
		require.Empty(t, culprit)
		require.NotContains(t, end.Detail, "culprit")
	}
	switch {
	case r.uses == "":
	case way == gaveUp: // what it had sent before is still processed, and may have been wrong
		require.LessOrEqual(t, r.aborts(t)-counted, uint32(1))
	default:
		require.Equal(t, counted, r.aborts(t))
	}
	if r.op == "CREATE" && way != succeeded {
		refused(t, overGRPC(t, r.stage.Service, alice, &pb.GetWalletRequest{WalletId: r.record(t).WalletID}), codes.NotFound, "WALLET_NOT_FOUND")
	}
	return way
}

// aborts returns how many of its runs were blamed on the set's device.
func (r *rogue) aborts(t testing.TB) uint32 {
	t.Helper()
	if r.uses == "" {
		return 0
	}
	return shareSet(wallet(t, r.stage.Service, r.joint.Share.WalletID), held{set: r.uses}).GetAborts()
}

// requireClean requires that the attack left nothing: no worker, and no change to the wallet except the one new set
// of a successful run; and that the next honest run, with an old set, succeeds. The package's goleak looks for
// goroutines.
func (s *stage) requireClean(t testing.TB, way string) {
	t.Helper()
	s.requireIdle(t)
	now := wallet(t, s.Service, s.before.GetWalletId())
	old := proto.CloneOf(now)
	old.ShareSets, old.Aborts = old.GetShareSets()[:len(s.before.GetShareSets())], s.before.GetAborts()
	for i, set := range old.GetShareSets() {
		set.Aborts = s.before.GetShareSets()[i].GetAborts()
	}
	require.True(t, proto.Equal(s.before, old), "what was there has changed")
	made := now.GetShareSets()[len(old.GetShareSets()):]
	if way == succeeded {
		require.LessOrEqual(t, len(made), 1)
	} else {
		require.Empty(t, made, "something was stored")
	}
	for _, set := range made {
		require.Equal(t, pb.ShareSetState_SHARE_SET_STATE_PENDING, set.GetState())
	}
	s.before = now
	s.rogue(t, tss.OperationSign, nil).well(t)
	s.requireIdle(t)
}

// requireIdle requires that no worker is in a run, by the service's count and the kernel's, and that none has died:
// everything a device sends is rejected before tss-lib crashes on it.
func (s *stage) requireIdle(t testing.TB) {
	t.Helper()
	if s.Workers == nil {
		return
	}
	require.Eventually(t, func() bool {
		return s.Workers.Stats().Busy == 0 && len(s.children(t)) <= 1 // the warm one
	}, 2*time.Minute, 50*time.Millisecond, "a worker is left")
	require.Zero(t, s.Workers.Stats().Died)
}

// children returns the process ids of the service's workers.
func (s *stage) children(t testing.TB) (ids []string) {
	t.Helper()
	// Another copy of this test may have workers with the same argument.
	for _, pid := range servertest.Children(t, os.Getpid()) {
		id := strconv.Itoa(pid)
		args, err := os.ReadFile("/proc/" + id + "/cmdline")
		if err == nil && slices.Contains(strings.Split(string(args), "\x00"), s.worker) {
			ids = append(ids, id)
		}
	}
	return ids
}

// A rogue without a trick is an honest device.
func TestRogueWithoutATrick(t *testing.T) {
	t.Parallel()
	s := newStage(t, rogueConfig(0, false), "CREATE", "BACKUP", "PROVISION", tss.OperationSign)
	for op, sent := range s.honest {
		t.Log(op, len(sent))
	}
	s.requireClean(t, succeeded)
}
