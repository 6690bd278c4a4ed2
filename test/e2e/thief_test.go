package e2e_test

import (
	"context"
	"fmt"
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

	"github.com/mpcd/mpcd/client"
	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// theft is one thing that an attacker with the owner's token, and no share, can do. It must not fail the test: it
// runs concurrently.
type theft func(t testing.TB, s *stage)

// unary is a single unary call.
func unary(do call, req func(s *stage) proto.Message) theft {
	return func(t testing.TB, s *stage) { do(t, s.Service, alice, req(s)) }
}

// silently begins a device-held run and sends nothing.
func silently(req func(s *stage) deviceRun) theft {
	return func(t testing.TB, s *stage) { begins(t, s.Service, alice, req(s)) }
}

// withHello begins a device-held run, sends a hello with a share that is not the set's, and cancels the run if that
// does not end it.
func withHello(with func(s *stage) held, req func(s *stage) deviceRun) theft {
	return func(t testing.TB, s *stage) {
		d := begins(t, s.Service, alice, req(s))
		m := hello(t, d.req)
		if h := with(s); h.share != nil {
			m.Hello.Proof = proof(t, m.GetHello(), d.req, &session.Session{ID: d.id, Attempt: d.attempt, Operation: operationOf(d.req)}, h)
		}
		_, _ = d.says(m) // whether it was accepted shows in what the service has spent
		overGRPC(t, s.Service, alice, &pb.CancelSessionRequest{SessionId: d.id})
		<-d.ended
	}
}

// createsHosted begins a hosted wallet of SECP256K1 and cancels it.
func createsHosted(t testing.TB, s *stage) {
	req := createReq(pb.Curve_CURVE_SECP256K1)
	ended := later(func() answer { return overGRPC(t, s.Service, alice, req) })
	for {
		select {
		case <-ended: // refused
			return
		case <-time.After(5 * time.Millisecond):
		}
		if rec, err := s.Store.ByRequest(t.Context(), "alice", req.GetRequestId()); err == nil {
			overGRPC(t, s.Service, alice, &pb.CancelSessionRequest{SessionId: rec.ID})
			<-ended
			return
		}
	}
}

// thefts cover every RPC.
func thefts() []theft {
	none := func(*stage) held { return held{} }
	garbage := func(h held) held { return h.with([]byte("x")) }
	all := []theft{
		createsHosted,
		silently(func(*stage) deviceRun { return deviceCreateReq() }),
		silently(func(s *stage) deviceRun { return deviceSignReq(s.second) }),
		silently(func(s *stage) deviceRun { return deviceBackupReq(s.second) }),
		silently(func(s *stage) deviceRun { return deviceReq(s.backup, uuid.NewString()) }),
		withHello(none, func(*stage) deviceRun { return deviceCreateReq(pb.Curve_CURVE_SECP256K1) }),
		withHello(none, func(*stage) deviceRun { return deviceCreateReq() }),
		withHello(none, func(s *stage) deviceRun { return deviceSignReq(s.second) }),
		withHello(func(s *stage) held { return s.first }, func(s *stage) deviceRun { return deviceSignReq(s.second) }),
		withHello(func(s *stage) held { return s.first }, func(s *stage) deviceRun { return deviceBackupReq(s.second) }),
		withHello(func(s *stage) held { return s.pendingBackup }, func(s *stage) deviceRun { return deviceReq(s.backup, uuid.NewString()) }),
	}
	for _, do := range []call{overGRPC, overHTTP} {
		all = append(all,
			unary(do, func(s *stage) proto.Message { return signReq(garbage(s.second)) }),
			unary(do, func(s *stage) proto.Message { return backupReq(garbage(s.second)) }),
			unary(do, func(s *stage) proto.Message { return provisionReq(garbage(s.backup)) }),
			unary(do, func(s *stage) proto.Message {
				return edit(confirmReq(s.pending), func(r *pb.ConfirmShareSetRequest) { r.ShareSha256 = make([]byte, 32) })
			}),
			unary(do, func(s *stage) proto.Message { return revokeReq(s.unbacked) }),
			unary(do, func(s *stage) proto.Message { return releaseReq(s.second) }),
			unary(do, func(s *stage) proto.Message { return &pb.GetWalletRequest{WalletId: s.second.wallet} }),
			unary(do, func(*stage) proto.Message { return &pb.ListWalletsRequest{PageSize: 100} }),
			unary(do, func(*stage) proto.Message { return &pb.GetSessionRequest{SessionId: uuid.NewString()} }),
			unary(do, func(*stage) proto.Message { return &pb.CancelSessionRequest{SessionId: uuid.NewString()} }),
			unary(do, func(*stage) proto.Message {
				return &pb.SendMessagesRequest{SessionId: uuid.NewString(), Instance: uuid.NewString(), Attempt: 1, Messages: []*pb.ProtocolMessage{{Sequence: 1, Mac: []byte("x")}}}
			}),
		)
	}
	return all
}

// An attacker with the owner's token and no share calls everything, repeatedly. Meanwhile the owner's device signs at
// once, in its first attempt; only as many pre-params as the caller may use are taken; nothing is charged.
// TestLongThief makes a thousand calls, and checks the memory.
func TestThief(t *testing.T) {
	t.Parallel()
	thief(t, 200)
}

// thief returns how many bytes this process's heap has grown by in the second half of the calls, which is meaningful
// if no other test runs.
func thief(t *testing.T, calls int) (grown int64) {
	t.Helper()
	const thieves, creates = 4, 3
	var taken spent
	cfg := servertest.Config{Sessions: session.Config{Creates: creates, Aborts: 1}, Workers: servertest.Workers(1), Wrap: taken.wrap}
	s := newStage(t, cfg)
	all := thefts()
	var done atomic.Int64
	var wg sync.WaitGroup
	over, half := make(chan struct{}), make(chan int64, 1)
	for range thieves {
		wg.Go(func() { // ends with the calls
			for n := int(done.Add(1)); n <= calls; n = int(done.Add(1)) {
				all[n%len(all)](t, s)
				if n == calls/2 {
					half <- heap()
				}
			}
		})
	}
	go func() { wg.Wait(); close(over) }()
	first, signed, longest := time.Now(), 0, time.Duration(0)
	for going := true; going; signed++ {
		select {
		case <-over:
			going = false
		default:
		}
		began := time.Now()
		r := s.rogue(t, tss.OperationSign, nil)
		r.well(t)
		longest = max(longest, time.Since(began))
		require.Equal(t, uint32(1), r.record(t).Attempt)
	}
	grown = heap() - <-half
	t.Logf("%d signatures, the longest took %v; %d KiB more heap in the second half", signed, longest, grown>>10)
	// A caller has so many hosted wallets that come to nothing, one more that is under way, and one every ten seconds,
	// which take a set for each party; and as many device-held ones, which take the server's.
	refills := int32(1 + time.Since(first)/(10*time.Second))
	require.LessOrEqual(t, taken.preParams.Load(), 2*(creates+1+refills)+creates+refills)
	now := wallet(t, s.Service, s.before.GetWalletId())
	require.True(t, proto.Equal(s.before, now), "nothing was charged, and nothing has changed")
	require.Eventually(t, func() bool { return s.Workers.Stats().Busy == 0 }, 2*time.Minute, 50*time.Millisecond)
	return grown
}

// flood is how many requests of each kind, hosted and device-held, one caller sends, and how many honest callers
// there are.
type flood struct{ honest, requests int }

// honestCallers all sign once, at the same moment, every other one with its own device; it returns how long each
// took.
func (s *stage) honestCallers(t testing.TB, callers int) (took []time.Duration) {
	t.Helper()
	took = make([]time.Duration, callers)
	failed := make(chan error, 2*callers)
	n := newNetwork(s.Conn)
	n.hear = func(stream grpc.ClientStream, event any) error {
		err := stream.RecvMsg(event)
		if status.Code(err) == codes.ResourceExhausted { // the SDK would retry
			failed <- err
		}
		return err
	}
	phone := networkPhone(t, n)
	share, err := client.ParseShare(s.second.share)
	require.NoError(t, err)
	var repeated atomic.Int32
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { // ends with its call
			began := time.Now()
			defer func() { took[i] = time.Since(began) }()
			ctx, stop := context.WithTimeout(context.Background(), 10*time.Minute) // else it repeats as long as it is told to
			defer stop()
			ctx = servertest.As(ctx, fmt.Sprintf("honest-%d", i), session.ScopeSign, session.ScopeRead)
			var err error
			if i%2 == 0 {
				req := signReq(s.second)
				// The database serves one call at a time: on a busy machine it may be too late, and says so. The SDK
				// repeats such a call, too.
				for _, err = s.Sign(ctx, req); status.Code(err) == codes.Aborted; _, err = s.Sign(ctx, req) {
					repeated.Add(1)
				}
			} else {
				_, err = phone.Sign(ctx, share, client.CurveEd25519, []byte("hello"))
			}
			failed <- err
		})
	}
	wg.Wait()
	close(failed)
	t.Logf("%d of %d calls were repeated because the database was busy", repeated.Load(), callers)
	for err := range failed {
		if err != nil {
			for line := range strings.Lines(s.Log.String()) {
				if strings.Contains(line, "session failed") && !strings.Contains(line, "no hello") {
					t.Log(line)
				}
			}
		}
		require.NoError(t, err)
	}
	return took
}

// maxCalls is fewer than one connection's concurrent calls.
const maxCalls = 400

// besideAFlood requires that no honest caller is refused while one caller floods the service, and logs how long they
// wait.
func besideAFlood(t *testing.T, f flood) {
	t.Helper()
	s := newStage(t, rogueConfig(0, false)) // all use one set
	// The flooding caller needs several connections: one takes 512 concurrent calls, and silent ones stay for 30 s.
	flooding := make([]*servertest.Service, 1+2*f.requests/maxCalls)
	for i := range flooding {
		flooding[i] = s.Connect(t)
	}
	flooder := &session.Caller{Name: "flooder", Scopes: []session.Scope{session.ScopeSign}}
	longest := func(all []time.Duration) (most time.Duration) {
		for _, d := range all {
			most = max(most, d)
		}
		return most
	}
	before := longest(s.honestCallers(t, f.honest))
	var wg sync.WaitGroup
	var served, refused, began atomic.Int32
	for i := range f.requests {
		wg.Go(func() { // ends with its call
			began.Add(1)
			a := overGRPC(t, flooding[i%len(flooding)], flooder, signReq(s.second))
			if a.status.Code() == codes.ResourceExhausted {
				refused.Add(1)
			} else {
				served.Add(1)
			}
		})
	}
	for i := range f.requests {
		wg.Go(func() { // ends with its call's first answer
			begins(t, flooding[i%len(flooding)], flooder, deviceSignReq(s.second))
			began.Add(1)
		})
	}
	for began.Load() < int32(f.requests/2) {
		time.Sleep(time.Millisecond)
	}
	beside := longest(s.honestCallers(t, f.honest))
	t.Logf("the longest wait: %v alone, %v beside %d requests", before, beside, 2*f.requests)
	wg.Wait()
	t.Logf("of the flood's hosted requests %d were served, %d refused", served.Load(), refused.Load())
}

// Twelve honest callers, next to one that sends sixty requests of each kind. TestLongHonestCallersBesideAFlood has
// two hundred next to a thousand.
func TestHonestCallersBesideAFlood(t *testing.T) {
	t.Parallel()
	besideAFlood(t, flood{honest: 12, requests: 60})
}
