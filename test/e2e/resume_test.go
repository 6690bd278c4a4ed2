package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// overTCP serves the sessions of a service on a TCP gRPC listener as well, since a connection in memory cannot be
// reset. It returns the address.
func overTCP(t testing.TB, p *servertest.Parts) string {
	t.Helper()
	srv := server.New(p.Sessions, servertest.Authenticate, http.NotFoundHandler(), p.Log.Logger(), server.Config{})
	var lc net.ListenConfig
	lis, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, server.Listeners{GRPC: lis}, time.Second) }() // ends with cancel
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
	})
	return lis.Addr().String()
}

// line is one call over its own TCP connection, which can be cut.
type line struct {
	next func() (proto.Message, error) // the next message; io.EOF after a success
	cut  func()                        // resets the connection
}

// read appends at most n messages of a line, up to its end.
func (a *answer) read(t testing.TB, l line, n int) {
	t.Helper()
	for range n {
		m, err := l.next()
		if errors.Is(err, io.EOF) {
			a.status = status.New(codes.OK, "")
			return
		}
		require.NoError(t, err)
		a.messages = append(a.messages, m)
	}
}

// dialer makes a call over its own connection, as alice.
type dialer func(t testing.TB, req proto.Message) line

// reset closes a connection abruptly: with a RST, which discards data in flight.
func reset(t testing.TB, conn net.Conn) {
	t.Helper()
	tcp, ok := conn.(*net.TCPConn)
	require.True(t, ok)
	_ = tcp.SetLinger(0) // these two fail if the other side was first
	_ = tcp.Close()
}

func grpcLine(addr string) dialer {
	return func(t testing.TB, req proto.Message) line {
		t.Helper()
		made := make(chan net.Conn, 1)
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
				if err == nil {
					select {
					case made <- c:
					default: // only the first one is used; see cut
					}
				}
				return c, err
			}))
		require.NoError(t, err)
		m := method(t, req)
		ctx := servertest.As(t.Context(), alice.Name)
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+string(m.Parent().FullName())+"/"+string(m.Name()))
		require.NoError(t, err)
		require.NoError(t, stream.SendMsg(req))
		require.NoError(t, stream.CloseSend())
		return line{
			next: func() (proto.Message, error) {
				resp := newResponse(t, m)
				return resp, stream.RecvMsg(resp)
			},
			cut: func() {
				reset(t, <-made)
				require.NoError(t, conn.Close())
			},
		}
	}
}

func httpLine(base string) dialer {
	return func(t testing.TB, req proto.Message) line {
		t.Helper()
		m := method(t, req)
		verb, path, body := request(t, m, req)
		r, err := http.NewRequestWithContext(t.Context(), verb, base+path, bytes.NewReader(body))
		require.NoError(t, err)
		r.Header = asAlice.Clone()
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", r.URL.Host)
		require.NoError(t, err)
		require.NoError(t, r.Write(conn))
		var lines *bufio.Reader // of the body, once the header was read
		return line{
			next: func() (proto.Message, error) {
				if lines == nil {
					resp, err := http.ReadResponse(bufio.NewReader(conn), r) //nolint:bodyclose // the connection is cut instead
					if err != nil {
						return nil, err
					}
					require.Equal(t, http.StatusOK, resp.StatusCode)
					lines = bufio.NewReader(resp.Body)
				}
				return readLine(t, m, lines)
			},
			cut: func() { reset(t, conn) },
		}
	}
}

// readLine reads one message of a stream over HTTP.
func readLine(t testing.TB, m protoreflect.MethodDescriptor, r *bufio.Reader) (proto.Message, error) {
	t.Helper()
	b, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	var one struct{ Result, Error json.RawMessage }
	require.NoError(t, json.Unmarshal(b, &one))
	require.Nil(t, one.Error, "%s", one.Error)
	return decoded(t, m, one.Result), nil
}

// resumable is a request that can attach again.
type resumable interface {
	proto.Message
	GetRequestId() string
}

// with returns a request with one more field set.
func with(t testing.TB, req resumable, field protoreflect.Name, v protoreflect.Value) resumable {
	t.Helper()
	other := proto.CloneOf[proto.Message](req)
	other.ProtoReflect().Set(other.ProtoReflect().Descriptor().Fields().ByName(field), v)
	r, ok := other.(resumable)
	require.True(t, ok)
	return r
}

// after returns the request with which a caller that has seen a message attaches again.
func after(t testing.TB, req resumable, seen uint32) resumable {
	t.Helper()
	return with(t, req, "after_sequence", protoreflect.ValueOfUint32(seen))
}

// heldUp is a service whose runs stop before their commit until the gate opens. A run's events are kept while it
// runs, and its last one afterwards: so a caller that drops at every event can see them all, however slow it is.
func heldUp(t testing.TB) (*stocked, *servertest.Gate) {
	t.Helper()
	gate := servertest.NewGate()
	return start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.ServerShares = &servertest.Custodian{Custodian: p.ServerShares, BeforeDeposit: gate.Wait}
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeDeposit: gate.Wait}
	}}), gate
}

// dropAtEveryEvent reads one message per connection, and cuts it. The gate opens when everything before it was seen.
func dropAtEveryEvent(t testing.TB, req resumable, gate *servertest.Gate, dial func(i int) dialer) (a answer) {
	t.Helper()
	seen := uint32(0)
	for i := range 64 {
		l := dial(i)(t, after(t, req, seen))
		m, err := l.next()
		require.NoError(t, err)
		l.cut()
		a.messages = append(a.messages, m)
		p, ok := m.(withProgress)
		require.True(t, ok)
		if p.GetProgress() == nil {
			return a
		}
		seen = p.GetProgress().GetSequence()
		if p.GetProgress().GetStatus() == pb.Status_STATUS_STORING_SHARE {
			gate.Open()
		}
	}
	require.FailNow(t, "it does not end")
	return a
}

func sameMessages(t testing.TB, want, got []proto.Message) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		// Unequal ones may contain a share, so they are not printed.
		require.True(t, proto.Equal(want[i], got[i]), "message %d", i)
	}
}

// A client that drops at every event and attaches again sees each one once and in order, from one run with one
// result, which every other caller gets too, then and later.
func TestDropAtEveryEvent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		req      func(f *stocked) resumable
		statuses []pb.Status
	}{
		"create":    {func(*stocked) resumable { return createReq() }, creating},
		"backup":    {func(f *stocked) resumable { return backupReq(f.first) }, resharing},
		"provision": {func(f *stocked) resumable { return provisionReq(f.backup) }, resharing},
	} {
		for _, transport := range []string{"gRPC", "HTTP", "both in turn"} {
			for _, sealed := range []string{"", ", sealed"} {
				t.Run(name+" over "+transport+sealed, func(t *testing.T) {
					t.Parallel()
					f, gate := heldUp(t)
					req := c.req(f)
					var key *age.X25519Identity
					if sealed != "" {
						var err error
						key, err = age.GenerateX25519Identity()
						require.NoError(t, err)
						req = with(t, req, "seal_to", protoreflect.ValueOfString(key.Recipient().String()))
					}
					tcp, web := grpcLine(overTCP(t, f.Parts)), httpLine(f.URL)
					ways := map[string][]dialer{"gRPC": {tcp}, "HTTP": {web}, "both in turn": {tcp, web}}[transport]
					dropsAndResumes(t, f, gate, req, key, c.statuses, func(i int) dialer { return ways[i%len(ways)] })
				})
			}
		}
	}
}

func dropsAndResumes(t *testing.T, f *stocked, gate *servertest.Gate, req resumable, key *age.X25519Identity, statuses []pb.Status, dial func(int) dialer) {
	// It drops before the first event too, once there is a session.
	l := dial(0)(t, req)
	id := sessionOf(t, f, req.GetRequestId())
	l.cut()
	whole := later(func() answer { return overGRPC(t, f.Service, alice, req) })

	a := dropAtEveryEvent(t, req, gate, dial)
	all := progress(t, a)
	wellOrdered(t, all, statuses...)
	require.Equal(t, id, all[0].GetSessionId())
	for i, p := range all {
		require.Equal(t, uint32(i+1), p.GetSequence(), "none is lost")
	}
	require.Len(t, gate.Came, 1, "there was one run")
	sameMessages(t, (<-whole).messages, a.messages)

	// The run has ended. Its last event and its outcome are the same for every caller that attaches, and dropping
	// changes nothing.
	n := len(a.messages)
	for i := range 2 {
		dial(i)(t, req).cut()
		l := dial(i)(t, after(t, req, 1<<31))
		m, err := l.next()
		require.NoError(t, err)
		l.cut()
		sameMessages(t, a.messages[n-1:], []proto.Message{m})
		for _, do := range transports {
			sameMessages(t, a.messages[n-2:], do(t, f.Service, alice, req).messages)
		}
	}

	a.status = status.New(codes.OK, "")
	h := made(t, a, f.first.wallet)
	if key != nil {
		plain, err := age.Decrypt(bytes.NewReader(h.share), key)
		require.NoError(t, err)
		h.share, err = io.ReadAll(plain)
		require.NoError(t, err)
	}
	sets := 1
	if h.wallet == f.first.wallet {
		sets += len([]held{f.first, f.backup, f.second, f.pending, f.pendingBackup})
	}
	confirm(t, f.Service, h)
	w := wallet(t, f.Service, h.wallet)
	require.Len(t, w.GetShareSets(), sets, "one new set")
	if w.GetShareSets()[sets-1].GetPurpose() == pb.Purpose_PURPOSE_SIGNING {
		signs(t, f.Service, w, h)
	}
	list := done[*pb.ListWalletsResponse](t, overGRPC(t, f.Service, alice, &pb.ListWalletsRequest{}))
	wallets := 2
	if h.wallet != f.first.wallet {
		wallets++
	}
	require.Len(t, list.GetWallets(), wallets)
	for _, do := range transports {
		refused(t, do(t, f.Service, alice, req), codes.FailedPrecondition, "SESSION_EXPIRED")
	}
}
