package server

import (
	"context"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// gateway returns the HTTP/JSON face of the service. It speaks gRPC to a second server
// over a connection in memory, since grpc-gateway's in-process handlers cannot stream;
// that server has the same interceptors, so HTTP callers pass the same checks.
func (s *Server) gateway(ctx context.Context) (h http.Handler, stop func(), err error) {
	pipe := bufconn.Listen(1 << 20)
	go func() { _ = s.inner.Serve(pipe) }() // ends with stop
	conn, err := grpc.NewClient("passthrough:///bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // memory, not a network
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, nil, err
	}
	stop = func() {
		_ = conn.Close() // nothing is in flight any more
		s.inner.Stop()
	}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, jsonBodies{&runtime.JSONPb{
			// Zeros are shown ("percent": 0); absent messages are not.
			MarshalOptions: protojson.MarshalOptions{EmitDefaultValues: true},
			// A misspelt field is an error and not a request for a default.
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
		}}),
		runtime.WithErrorHandler(gatewayError),
		runtime.WithStreamErrorHandler(streamError),
		runtime.WithIncomingHeaderMatcher(incomingHeader),
		runtime.WithOutgoingHeaderMatcher(outgoingHeader),
	)
	if err := pb.RegisterWalletServiceHandler(ctx, mux, conn); err != nil {
		stop()
		return nil, nil, err
	}
	return perWriteDeadline(http.MaxBytesHandler(mux, maxMessage)), stop, nil
}

// incomingHeader is the list of request headers that reach the service. Authorization
// does too, once, without being named here; so do the caller's address and the host.
func incomingHeader(key string) (string, bool) {
	switch key {
	case "X-Request-Id":
		return requestIDHeader, true
	case "Traceparent":
		return "traceparent", true
	}
	return "", false
}

// outgoingHeader is the list of response headers that reach an HTTP caller.
func outgoingHeader(key string) (string, bool) {
	if key == requestIDHeader {
		return "X-Request-Id", true
	}
	return "", false
}

// perWriteDeadline gives every write of an answer its own deadline: a caller that stops
// reading is cut off, and a stream that takes minutes is not.
func perWriteDeadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), headerKey{}, w.Header())
		next.ServeHTTP(&deadlineWriter{ResponseWriter: w, control: http.NewResponseController(w)}, r.WithContext(ctx))
	})
}

// headerKey finds the answer's header in a call's context: grpc-gateway gives it to nobody
// where a stream fails before its first message.
type headerKey struct{}

// streamError is the status that ends a stream.
func streamError(ctx context.Context, err error) *status.Status {
	st := status.Convert(err)
	if h, ok := ctx.Value(headerKey{}).(http.Header); ok {
		retryAfter(h, st) // too late to be seen after the first message
	}
	return st
}

// retryAfter says in a header what RetryInfo says in the body: whole seconds, rounded up
// (RFC 9110, section 10.2.3).
func retryAfter(h http.Header, st *status.Status) {
	for _, d := range st.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			seconds := math.Ceil(r.GetRetryDelay().AsDuration().Seconds())
			h.Set("Retry-After", strconv.Itoa(max(1, int(seconds))))
		}
	}
}

type deadlineWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Unwrap lets http.ResponseController reach the connection.
func (w *deadlineWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write implements http.ResponseWriter.
func (w *deadlineWriter) Write(b []byte) (int, error) {
	if err := w.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(b)
}
