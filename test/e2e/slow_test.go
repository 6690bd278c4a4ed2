package e2e_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// rawHTTP2 starts an HTTP/2 connection that accepts no stream data: its flow control windows are zero, and never
// grow.
func rawHTTP2(t testing.TB, conn net.Conn) *http2.Framer {
	t.Helper()
	_, err := io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	framer := http2.NewFramer(conn, conn)
	require.NoError(t, framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	return framer
}

// rawCall starts a gRPC call as alice on a stream of the connection.
func rawCall(t testing.TB, framer *http2.Framer, stream uint32, req proto.Message) {
	t.Helper()
	m := method(t, req)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSizeLimit(0)
	for _, f := range [][2]string{
		{":method", http.MethodPost}, {":scheme", "http"}, {":path", "/" + string(m.Parent().FullName()) + "/" + string(m.Name())}, {":authority", "mpcd"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"authorization", servertest.Bearer(alice.Name)},
	} {
		require.NoError(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	body, err := proto.Marshal(req)
	require.NoError(t, err)
	require.NoError(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}))
	message := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body)))
	require.NoError(t, framer.WriteData(stream, true, append(message, body...)))
}

// answers reads the frames of a connection and sends the mandatory replies, until f returns true or the connection
// ends.
func answers(framer *http2.Framer, f func(http2.Frame) (enough bool)) error {
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		switch x := frame.(type) {
		case *http2.SettingsFrame:
			if !x.IsAck() {
				err = framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !x.IsAck() {
				err = framer.WritePing(true, x.Data)
			}
		}
		if err != nil {
			return err
		}
		if f(frame) {
			return nil
		}
	}
}

// A client that attaches to a run and reads nothing blocks nothing, costs a bounded amount of memory, and is cut off
// when the service stops. Not parallel: it measures memory.
func TestSlowReaders(t *testing.T) {
	const slow = 100
	gate := servertest.NewGate()
	var calls atomic.Int32
	counted := func(ctx context.Context) (session.Caller, error) {
		calls.Add(1)
		return servertest.Authenticate(ctx)
	}
	f := start(t, servertest.Config{Auth: counted, Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: gate.Wait}
	}})
	srv := server.New(f.Sessions, counted, http.NotFoundHandler(), f.Log.Logger(), server.Config{})
	var lc net.ListenConfig
	lis, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, terminate := context.WithCancel(t.Context())
	defer terminate()
	served := make(chan error, 1)
	// No grace: all runs have ended by then.
	go func() { served <- srv.Serve(ctx, server.Listeners{GRPC: lis}, 0) }() // ends with terminate

	req := provisionReq(f.backup)
	end := later(func() answer { return overGRPC(t, f.Service, alice, req) })
	<-gate.Came
	id := sessionOf(t, f, req.GetRequestId())
	before := heap()
	var conns []net.Conn
	dial := func(addr string) net.Conn {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		conns = append(conns, conn)
		return conn
	}
	verb, path, body := request(t, method(t, req), req)
	for range slow / 2 {
		rawCall(t, rawHTTP2(t, dial(lis.Addr().String())), 1, req)
		r, err := http.NewRequestWithContext(t.Context(), verb, f.URL+path, bytes.NewReader(body))
		require.NoError(t, err)
		r.Header = asAlice
		require.NoError(t, r.Write(dial(r.URL.Host)))
	}
	require.Eventually(t, func() bool { return calls.Load() == 1+slow }, time.Minute, time.Millisecond)
	gate.Open()
	h := made(t, <-end, f.backup.wallet)
	require.Equal(t, pb.SessionState_SESSION_STATE_SUCCEEDED, getSession(t, f.Service, id).GetState())
	confirm(t, f.Service, h)
	signs(t, f.Service, wallet(t, f.Service, h.wallet), h)
	each := (heap() - before) / slow
	t.Logf("%d KiB of heap for each of %d clients that do not read", each>>10, slow)
	require.Less(t, each, int64(100<<10))

	terminate()
	require.NoError(t, <-served)
	f.Stop()
	for _, conn := range conns {
		_, err := io.Copy(io.Discard, conn)
		require.NotErrorIs(t, err, net.ErrClosed)
	}
}

// heap returns how many bytes of heap are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// inBubble runs f in a synctest bubble, with a client's connection to a service that has the fixture.
func inBubble(t *testing.T, f func(t *testing.T, conn net.Conn)) {
	t.Helper()
	start(t, servertest.Config{}).Stop() // makes the fixture, in real time
	synctest.Test(t, func(t *testing.T) {
		parts := servertest.Open(t, servertest.Config{Database: stock.database, Keyset: stock.keyset})
		srv := server.New(parts.Sessions, servertest.Authenticate, http.NotFoundHandler(), parts.Log.Logger(), server.Config{})
		lis := bufconn.Listen(1 << 20)
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ctx, server.Listeners{GRPC: lis}, 0) }() // ends with cancel
		t.Cleanup(func() {
			cancel()
			require.NoError(t, <-served)
		})
		conn, err := lis.DialContext(ctx)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		f(t, conn)
	})
}

// A stream whose client answers pings, but never reads data, ends with its connection's age.
func TestConnectionAgeIsBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, conn net.Conn) {
		begun := time.Now()
		framer := rawHTTP2(t, conn)
		rawCall(t, framer, 1, stock.pendingReq)
		told := false
		err := answers(framer, func(x http2.Frame) bool {
			_, data := x.(*http2.DataFrame)
			require.False(t, data, "its window is zero")
			_, away := x.(*http2.GoAwayFrame)
			told = told || away
			return time.Since(begun) > 2*time.Hour
		})
		require.Error(t, err, "the stream lives for ever")
		require.True(t, told, "a client is told in time to open another one")
		require.Greater(t, time.Since(begun), 20*time.Minute, "longer than a run takes")
		require.Less(t, time.Since(begun), time.Hour)
	})
}

// A connection without calls is closed after some minutes.
func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, conn net.Conn) {
		begun := time.Now()
		err := answers(rawHTTP2(t, conn), func(http2.Frame) bool { return time.Since(begun) > time.Hour })
		require.Error(t, err)
		require.Greater(t, time.Since(begun), time.Minute)
		require.Less(t, time.Since(begun), 10*time.Minute)
	})
}

// The streams of a connection are bounded, whatever they are used for.
func TestStreamsOfAConnectionAreBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, conn net.Conn) {
		framer := rawHTTP2(t, conn)
		limit := uint32(0)
		require.NoError(t, answers(framer, func(x http2.Frame) bool {
			s, ok := x.(*http2.SettingsFrame)
			if ok && !s.IsAck() {
				limit, ok = s.Value(http2.SettingMaxConcurrentStreams)
				require.True(t, ok, "there is a limit")
			}
			return limit > 0
		}))
		require.LessOrEqual(t, limit, uint32(1000))
		for i := range limit + 1 {
			rawCall(t, framer, 2*i+1, stock.pendingReq)
		}
		var refused error
		require.NoError(t, answers(framer, func(x http2.Frame) bool {
			if rst, ok := x.(*http2.RSTStreamFrame); ok {
				refused = http2.StreamError{StreamID: rst.StreamID, Code: rst.ErrCode}
			}
			return refused != nil
		}))
		var e http2.StreamError
		require.ErrorAs(t, refused, &e)
		require.Equal(t, http2.ErrCodeRefusedStream, e.Code)
		require.Equal(t, 2*limit+1, e.StreamID)
	})
}
