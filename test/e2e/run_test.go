package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// withProgress is what the responses of the streaming RPCs have in common.
type withProgress interface{ GetProgress() *pb.Progress }

// progress returns a stream's progress, and requires that only the outcome follows it.
func progress(t testing.TB, a answer) (all []*pb.Progress) {
	t.Helper()
	for i, m := range a.messages {
		p, ok := m.(withProgress)
		require.True(t, ok)
		if p.GetProgress() == nil {
			require.Len(t, a.messages, i+1, "the outcome is the last message")
			return all
		}
		all = append(all, p.GetProgress())
	}
	return all
}

// wellOrdered checks what session.proto promises of a successful run's progress.
func wellOrdered(t testing.TB, all []*pb.Progress, want ...pb.Status) {
	t.Helper()
	require.NotEmpty(t, all)
	var statuses []pb.Status
	last := &pb.Progress{}
	for i, p := range all {
		require.Greater(t, p.GetSequence(), last.GetSequence())
		require.GreaterOrEqual(t, p.GetPercent(), last.GetPercent())
		require.LessOrEqual(t, p.GetPercent(), uint32(100))
		require.GreaterOrEqual(t, p.GetElapsed().AsDuration(), last.GetElapsed().AsDuration())
		require.Equal(t, i == len(all)-1, p.GetDone(), "done comes with the last progress")
		require.Equal(t, all[0].GetSessionId(), p.GetSessionId())
		require.Equal(t, uint32(1), p.GetAttempt())
		if p.GetStatus() != last.GetStatus() {
			statuses = append(statuses, p.GetStatus())
		}
		if p.GetStatus() == pb.Status_STATUS_GENERATING_SHARE {
			require.Equal(t, pb.Curve_CURVE_ED25519, p.GetCurve())
			require.LessOrEqual(t, p.GetRound(), p.GetRounds())
			if last.GetStatus() == pb.Status_STATUS_GENERATING_SHARE {
				require.Equal(t, last.GetRound()+1, p.GetRound(), "round by round")
			} else {
				require.Zero(t, p.GetRounds())
			}
		} else {
			require.Zero(t, p.GetCurve())
			require.Zero(t, p.GetRounds())
		}
		last = p
	}
	require.Equal(t, want, statuses)
	require.NoError(t, uuid.Validate(last.GetSessionId()))
	require.Equal(t, uint32(100), last.GetPercent())
}

var (
	creating  = []pb.Status{pb.Status_STATUS_GENERATING_SHARE, pb.Status_STATUS_STORING_SHARE, pb.Status_STATUS_DONE}
	resharing = append([]pb.Status{pb.Status_STATUS_READING_SHARE, pb.Status_STATUS_PARSING_SHARE}, creating...)
)

func getSession(t testing.TB, s *servertest.Service, id string) *pb.Session {
	t.Helper()
	return done[*pb.GetSessionResponse](t, overGRPC(t, s, alice, &pb.GetSessionRequest{SessionId: id})).GetSession()
}

// A new wallet's fields, before and after confirmation.
func TestCreatedWalletShowsItsKeysOnceConfirmed(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{})
	req := createReq()
	req.DisplayName = "first phone"
	a := overHTTP(t, s, alice, req)
	h := made(t, a, "")
	all := progress(t, a)
	wellOrdered(t, all, creating...)

	w := wallet(t, s, h.wallet)
	require.Equal(t, "alice", w.GetOwner())
	require.Empty(t, w.GetPublicKeys(), "no key to fund before the share is confirmed as stored")
	require.NotNil(t, w.GetCreateTime())
	require.Equal(t, w.GetCreateTime().AsTime(), w.GetHostedSince().AsTime(), "both shares met in the service")
	require.Len(t, w.GetShareSets(), 1)
	only := w.GetShareSets()[0]
	created, ok := a.messages[len(a.messages)-1].(*pb.CreateWalletResponse)
	require.True(t, ok)
	require.True(t, proto.Equal(only, created.GetOutcome().GetShareSet()), "%v %v", only, created)
	require.Equal(t, "first phone", only.GetDisplayName())
	require.Equal(t, pb.Purpose_PURPOSE_SIGNING, only.GetPurpose())
	require.Empty(t, only.GetParentShareSetId())
	require.True(t, only.GetExpireTime().AsTime().After(only.GetCreateTime().AsTime()))

	ended := getSession(t, s, all[0].GetSessionId())
	require.Equal(t, pb.SessionState_SESSION_STATE_SUCCEEDED, ended.GetState())
	require.Equal(t, pb.Operation_OPERATION_CREATE, ended.GetOperation())
	require.Equal(t, h.wallet, ended.GetWalletId())
	require.Equal(t, h.set, ended.GetShareSetId())
	require.Nil(t, ended.GetError())
	require.True(t, ended.GetProgress().GetDone())

	confirm(t, s, h)
	w = wallet(t, s, h.wallet)
	require.Len(t, w.GetPublicKeys(), 1)
	require.Equal(t, pb.Curve_CURVE_ED25519, w.GetPublicKeys()[0].GetCurve())
	require.Len(t, w.GetPublicKeys()[0].GetPublicKey(), 32)
	require.Nil(t, w.GetShareSets()[0].GetExpireTime())

	// There is no backup yet, whatever share is sent.
	for transport, do := range transports {
		for _, share := range [][]byte{h.share, {}, []byte("random")} {
			a := do(t, s, alice, provisionReq(h.with(share)))
			refused(t, a, codes.FailedPrecondition, "BACKUP_NOT_FOUND")
			require.Empty(t, a.messages, transport)
		}
		require.True(t, proto.Equal(w, wallet(t, s, h.wallet)))
	}
}

// Two devices are provisioned concurrently: each gets a set of its own, and the old one remains valid.
func TestTwoProvisionsAtOnce(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	var wg sync.WaitGroup
	var answers [2]answer
	for i, do := range []call{overGRPC, overHTTP} {
		wg.Go(func() { answers[i] = do(t, f.Service, alice, provisionReq(f.backup)) })
	}
	wg.Wait()
	sets := []held{f.first}
	for _, a := range answers {
		h := made(t, a, f.backup.wallet)
		all := progress(t, a)
		if all[0].GetStatus() == pb.Status_STATUS_QUEUED { // on a machine with one core
			all = all[1:]
		}
		wellOrdered(t, all, resharing...)
		sets = append(sets, confirm(t, f.Service, h))
	}
	require.NotEqual(t, sets[1].set, sets[2].set)
	require.NotEqual(t, sets[1].share, sets[2].share)
	w := wallet(t, f.Service, f.backup.wallet)
	for _, h := range sets {
		signs(t, f.Service, w, h)
	}
}

// One request sent twice concurrently is one run, which both callers see in full; repeating it after the end gives
// the same run.
func TestSameRequestTwice(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	f := start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: gate.Wait}
	}})
	req := provisionReq(f.backup)
	tcp, web := grpcLine(overTCP(t, f.Parts)), httpLine(f.URL)
	lines := []line{tcp(t, req), web(t, req), tcp(t, req), web(t, req)}
	<-gate.Came // one run has begun
	answers := make([]answer, len(lines))
	for i, l := range lines { // a caller that attaches after its end would see only that
		answers[i].read(t, l, 1)
	}

	other := proto.CloneOf(req)
	other.DisplayName = "another device"
	for _, do := range transports {
		refused(t, do(t, f.Service, alice, other), codes.InvalidArgument, "REQUEST_ID_REUSED")
		backupToo := backupReq(f.first)
		backupToo.RequestId = req.GetRequestId()
		refused(t, do(t, f.Service, alice, backupToo), codes.InvalidArgument, "REQUEST_ID_REUSED")
	}
	gate.Open()
	for i, l := range lines {
		answers[i].read(t, l, 1<<10)
		l.cut()
	}
	require.Empty(t, gate.Came, "there was one run")
	h := made(t, answers[0], f.backup.wallet)
	id := progress(t, answers[0])[0].GetSessionId()
	for _, a := range answers {
		wellOrdered(t, progress(t, a), resharing...)
		require.Equal(t, id, progress(t, a)[0].GetSessionId())
		require.Len(t, a.messages, len(answers[0].messages))
		for i := range a.messages {
			require.True(t, proto.Equal(answers[0].messages[i], a.messages[i]), "message %d", i)
		}
	}

	for _, do := range transports {
		again := do(t, f.Service, alice, req)
		require.Len(t, again.messages, 2, "the last progress and the outcome")
		for i, m := range again.messages {
			want := answers[0].messages[len(answers[0].messages)-2+i]
			require.True(t, proto.Equal(want, m), "the first outcome is the only one: %v\n%v", want, m)
		}
		refused(t, do(t, f.Service, alice, other), codes.InvalidArgument, "REQUEST_ID_REUSED")

		late := proto.CloneOf(req)
		late.AfterSequence = 1 << 31
		require.Len(t, do(t, f.Service, alice, late).messages, 1, "the outcome is always replayed")
	}
	confirm(t, f.Service, h)
	for _, do := range transports {
		refused(t, do(t, f.Service, alice, req), codes.FailedPrecondition, "SESSION_EXPIRED")
	}
	confirm(t, f.Service, h)
	require.Equal(t, pb.SessionState_SESSION_STATE_SUCCEEDED, getSession(t, f.Service, id).GetState())
	signs(t, f.Service, wallet(t, f.Service, h.wallet), h)
}

// Request ids are per caller: the same id of another caller is another session.
func TestSameRequestIDOfAnotherCaller(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	f := start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: gate.Wait}
	}})
	req := provisionReq(f.backup)
	var ids []string
	for _, ctx := range []context.Context{
		servertest.As(t.Context(), "alice"), servertest.As(t.Context(), "support", session.ScopeWrite),
	} {
		stream, err := f.ProvisionWallet(ctx, req)
		require.NoError(t, err)
		first, err := stream.Recv()
		require.NoError(t, err)
		ids = append(ids, first.GetProgress().GetSessionId())
		<-gate.Came // once for each session
	}
	require.NotEqual(t, ids[0], ids[1])
	support := &session.Caller{Name: "support", Scopes: []session.Scope{session.ScopeRead}}
	for _, do := range transports {
		refused(t, do(t, f.Service, alice, &pb.GetSessionRequest{SessionId: ids[1]}), codes.NotFound, "SESSION_NOT_FOUND")
		refused(t, do(t, f.Service, support, &pb.GetSessionRequest{SessionId: ids[0]}), codes.NotFound, "SESSION_NOT_FOUND")
	}
	// The service ends before its gate opens: both are interrupted.
	f.Stop()
}

// A run continues when its client disconnects.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	gate := servertest.NewGate()
	f := start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: gate.Wait}
	}})
	req := provisionReq(f.backup)
	ctx, goAway := context.WithCancel(servertest.As(t.Context(), "alice"))
	stream, err := f.ProvisionWallet(ctx, req)
	require.NoError(t, err)
	first, err := stream.Recv()
	require.NoError(t, err)
	require.Equal(t, pb.Status_STATUS_READING_SHARE, first.GetProgress().GetStatus())
	goAway()
	f.Log.Wait(t, `"ProvisionWallet"`, `"Canceled"`) // the service has noticed
	id := first.GetProgress().GetSessionId()
	going := getSession(t, f.Service, id)
	require.Equal(t, pb.SessionState_SESSION_STATE_RUNNING, going.GetState())
	require.True(t, proto.Equal(first.GetProgress(), going.GetProgress()), "GetSession shows a live run's progress")

	req.AfterSequence = first.GetProgress().GetSequence()
	rest, err := f.ProvisionWallet(servertest.As(t.Context(), "alice"), req)
	require.NoError(t, err)
	gate.Open()
	a := drain(t, rest)
	h := made(t, a, f.backup.wallet)
	require.Equal(t, first.GetProgress().GetSequence()+1, progress(t, a)[0].GetSequence(), "what was seen is not sent again")
	wellOrdered(t, append([]*pb.Progress{first.GetProgress()}, progress(t, a)...), resharing...)
	ended := getSession(t, f.Service, id)
	require.Equal(t, pb.SessionState_SESSION_STATE_SUCCEEDED, ended.GetState())
	require.Equal(t, h.set, ended.GetShareSetId())
	signs(t, f.Service, wallet(t, f.Service, h.wallet), confirm(t, f.Service, h))
}

func drain[M any, P interface {
	*M
	proto.Message
}](t testing.TB, stream grpc.ServerStreamingClient[M]) (a answer) {
	t.Helper()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return a
		}
		require.NoError(t, err)
		a.messages = append(a.messages, P(m))
	}
}

// A caller can fetch its run's outcome after a restart.
func TestOutcomeAfterARestart(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{}) // the fixture's runs were in another process, as it were
	for _, do := range transports {
		a := do(t, f.Service, alice, f.pendingReq)
		require.Len(t, a.messages, 2)
		require.Equal(t, f.pending, made(t, a, f.backup.wallet))
		want := f.pendingRun.messages[len(f.pendingRun.messages)-1]
		require.True(t, proto.Equal(want, a.messages[1]), "%v\n%v", want, a.messages[1])
		other := proto.CloneOf(f.pendingReq)
		other.WalletId = f.unbacked.wallet
		refused(t, do(t, f.Service, alice, other), codes.InvalidArgument, "REQUEST_ID_REUSED")
	}
	signed := signReq(f.first)
	want := done[*pb.SignResponse](t, overGRPC(t, f.Service, alice, signed))
	require.True(t, proto.Equal(want, done[*pb.SignResponse](t, overHTTP(t, f.Service, alice, signed))), "a signing is replayed too")
	signed.Payload = []byte("other")
	refused(t, overGRPC(t, f.Service, alice, signed), codes.InvalidArgument, "REQUEST_ID_REUSED")
}

func revoked(w *pb.Wallet) (ids []string) {
	for _, s := range w.GetShareSets() {
		if s.GetState() == pb.ShareSetState_SHARE_SET_STATE_REVOKED {
			ids = append(ids, s.GetShareSetId())
		}
		if (s.GetState() == pb.ShareSetState_SHARE_SET_STATE_REVOKED) != (s.GetRevokeTime() != nil) {
			return []string{"a revoke_time does not go with its state"}
		}
	}
	return ids
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	admin := &session.Caller{Name: "admin", Scopes: []session.Scope{session.ScopeAdmin, session.ScopeRead}}
	for name, c := range map[string]struct {
		as   *session.Caller
		edit func(*fixture, *pb.RevokeShareSetRequest)
		gone func(*fixture) []held // in order of creation
	}{
		"one without descendants": {alice, func(f *fixture, r *pb.RevokeShareSetRequest) { r.ShareSetId = f.second.set },
			func(f *fixture) []held { return []held{f.second} }},
		"a pending one": {alice, func(f *fixture, r *pb.RevokeShareSetRequest) { r.ShareSetId = f.pending.set },
			func(f *fixture) []held { return []held{f.pending} }},
		"one of which others descend, alone": {
			alice, func(_ *fixture, r *pb.RevokeShareSetRequest) { r.KeepDescendants = true },
			func(f *fixture) []held { return []held{f.first} }},
		"one with all that descend from it": {admin, func(_ *fixture, r *pb.RevokeShareSetRequest) { r.AllowLast = true },
			func(f *fixture) []held { return []held{f.first, f.backup, f.second, f.pending, f.pendingBackup} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, do := range transports {
				f := start(t, servertest.Config{})
				req := revokeReq(f.first)
				c.edit(&f.fixture, req)
				var want []string
				for _, h := range c.gone(&f.fixture) {
					want = append(want, h.set)
				}
				for range 2 { // revoking a revoked set changes nothing
					w := done[*pb.RevokeShareSetResponse](t, do(t, f.Service, c.as, req)).GetWallet()
					require.Equal(t, want, revoked(w))
					require.True(t, proto.Equal(w, wallet(t, f.Service, f.first.wallet)))
				}
				for _, h := range c.gone(&f.fixture) {
					if h.set == f.backup.set || h.set == f.pendingBackup.set {
						continue // it could not sign anyway
					}
					refused(t, do(t, f.Service, alice, signReq(h)), codes.FailedPrecondition, "SHARE_SET_REVOKED")
				}
				if slices.Contains(want, f.pending.set) {
					refused(t, do(t, f.Service, alice, f.pendingReq), codes.FailedPrecondition, "SESSION_EXPIRED")
				}
			}
		})
	}
}

// listed inserts wallets without running a protocol for each, and returns their ids, oldest first.
func listed(t testing.TB, s *servertest.Service, owner string, n int) (ids []string) {
	t.Helper()
	for range n {
		ids = append(ids, uuid.NewString())
	}
	slices.Sort(ids)
	slices.Reverse(ids) // the first wallet has the last id
	for i, id := range ids {
		created := time.Now().Add(time.Duration(i-n) * time.Hour)
		w := &session.Wallet{ID: id, Owner: owner, CreateTime: created, Keys: []session.PublicKey{{Curve: session.Ed25519, Key: make([]byte, 32)}}}
		set := &session.StoredSet{
			ShareSet: session.ShareSet{ID: uuid.NewString(), WalletID: w.ID, Purpose: session.Signing, State: session.SetPending, CreateTime: time.Now()},
			Record:   []byte("record"), SessionID: uuid.NewString(),
		}
		rec := &session.Session{
			ID: set.SessionID, Caller: owner, RequestID: uuid.NewString(), Fingerprint: []byte("f"), WalletID: w.ID, Operation: session.OpCreate,
			State: session.Running, Attempt: 1, CreateTime: time.Now(),
		}
		_, begun, err := s.Store.Begin(t.Context(), rec, session.Entry{Action: "test", Outcome: "ok"})
		require.NoError(t, err)
		require.True(t, begun)
		rec.State, rec.ShareSetID = session.Succeeded, set.ID
		require.NoError(t, s.Store.Commit(t.Context(), rec, session.Made{Set: set, Wallet: w}, session.Entry{Action: "test", Outcome: "ok"}))
	}
	return ids
}

func TestListWalletsByPages(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{})
	want := listed(t, s, "alice", 5)
	listed(t, s, "bob", 3)
	for _, do := range transports {
		for size, pages := range map[int32]int{1: 5, 2: 3, 4: 2, 5: 1, 100: 1, 0: 1} {
			var got []string
			req := &pb.ListWalletsRequest{PageSize: size}
			for page := 1; ; page++ {
				resp := done[*pb.ListWalletsResponse](t, do(t, s, alice, req))
				for _, w := range resp.GetWallets() {
					require.Equal(t, "alice", w.GetOwner())
					got = append(got, w.GetWalletId())
				}
				if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
					require.Equal(t, pages, page)
					break
				}
			}
			require.Equal(t, want, got, "pages of %d", size)
		}
		none := done[*pb.ListWalletsResponse](t, do(t, s, &session.Caller{Name: "carol"}, &pb.ListWalletsRequest{}))
		require.Empty(t, none.GetWallets())
		require.Empty(t, none.GetNextPageToken())
	}
}

// If required, a share must not be returned in plaintext.
func TestSealToIsRequiredWhereConfigured(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{Sessions: session.Config{RequireSealTo: true}})
	for _, do := range transports {
		refused(t, do(t, f.Service, alice, createReq()), codes.InvalidArgument, "INVALID_ARGUMENT", "seal_to")
		refused(t, do(t, f.Service, alice, backupReq(f.first)), codes.InvalidArgument, "INVALID_ARGUMENT", "seal_to")
		refused(t, do(t, f.Service, alice, provisionReq(f.backup)), codes.InvalidArgument, "INVALID_ARGUMENT", "seal_to")
	}
}

// A UUID in capitals is the same UUID.
func TestUUIDsInCapitals(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	for _, do := range transports {
		w := done[*pb.GetWalletResponse](t, do(t, f.Service, alice, &pb.GetWalletRequest{WalletId: strings.ToUpper(f.first.wallet)}))
		require.Equal(t, f.first.wallet, w.GetWallet().GetWalletId())
	}
	again := proto.CloneOf(f.pendingReq)
	again.RequestId = strings.ToUpper(again.GetRequestId())
	require.Equal(t, f.pending, made(t, overGRPC(t, f.Service, alice, again), f.backup.wallet))
}

// gRPC itself refuses a message larger than any request.
func TestMessageOfMoreThan2MiB(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	a := overGRPC(t, f.Service, alice, signReq(f.first.with(bytes.Repeat([]byte{1}, 2<<20+1))))
	require.Equal(t, codes.ResourceExhausted, a.status.Code())
	wallet(t, f.Service, f.first.wallet)
}
