package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/session"
)

// gateway returns the HTTP/JSON side of the service. It speaks gRPC to a second server over a connection in memory,
// since grpc-gateway's in-process handlers cannot stream; that server has the same interceptors, so HTTP callers pass
// the same checks.
func (s *Server) gateway(ctx context.Context) (h http.Handler, stop func(), err error) {
	pipe := bufconn.Listen(1 << 20)
	go func() { _ = s.inner.Serve(pipe) }() // ends with stop
	conn, err := grpc.NewClient("passthrough:///bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // in memory
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithUnaryInterceptor(callUnary), grpc.WithStreamInterceptor(callStream),
	)
	if err != nil {
		return nil, nil, err
	}
	stop = func() {
		_ = conn.Close() // nothing is in flight any more
		s.inner.Stop()
	}
	routes := router{own: s.own}
	routes.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newJSONBodies()),
		runtime.WithErrorHandler(routes.failed),
		runtime.WithStreamErrorHandler(streamError),
		runtime.WithRoutingErrorHandler(routes.unmatched),
		runtime.WithMiddlewares(routes.matched),
		runtime.WithIncomingHeaderMatcher(incomingHeader),
		runtime.WithOutgoingHeaderMatcher(outgoingHeader),
		runtime.WithForwardResponseOption(forward),
		// A request is what its method and path say, whatever its headers.
		runtime.WithDisableHTTPMethodOverride(), runtime.WithDisablePathLengthFallback(),
	)
	if err := pb.RegisterWalletServiceHandler(ctx, routes.mux, conn); err != nil {
		stop()
		return nil, nil, err
	}
	return s.front(s.localOnly(cors(s.cfg.CORSOrigins, &routes))), stop, nil
}

// incomingHeader is the allow list of request headers that reach the service. Authorization (once), the caller's
// address and the host do so without being listed.
func incomingHeader(key string) (string, bool) {
	switch key {
	case "X-Request-Id":
		return requestIDHeader, true
	case "Traceparent":
		return "traceparent", true
	}
	return "", false
}

// outgoingHeader keeps the service's headers from an HTTP caller: front sets those it gets.
func outgoingHeader(string) (string, bool) { return "", false }

// forward is called before a response is sent, and before a stream begins (with a nil response).
func forward(_ context.Context, w http.ResponseWriter, resp proto.Message) error {
	if resp == nil {
		w.Header().Set("X-Accel-Buffering", "no") // otherwise nginx would buffer a stream's progress
	}
	return nil
}

// front wraps every HTTP answer, including those outside the API's calls. It gives each request an id, forbids
// caching, since many answers contain a share, and gives every write its own deadline: a caller that stops reading is
// disconnected, but a stream may last minutes.
func (s *Server) front(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := goodRequestID(r.Header.Get("X-Request-Id"))
		r.Header.Set("X-Request-Id", id)
		r.Header.Del("Grpc-Timeout")    // grpc-gateway would read it, whatever incomingHeader says
		r.Header.Del("X-Forwarded-For") // if it contained non-ASCII bytes, grpc-gateway would omit the caller's address
		w.Header().Set("X-Request-Id", id)
		w.Header().Set("Cache-Control", "no-store")
		out := &deadlineWriter{ResponseWriter: w, control: http.NewResponseController(w)}
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				// The value may contain a secret; its type and the stack are enough.
				s.log.ErrorContext(r.Context(), "the gateway panicked",
					"type", fmt.Sprintf("%T", v), "stack", string(debug.Stack()), "request_id", id)
			}
			if out.began {
				panic(http.ErrAbortHandler) // so that the caller sees an incomplete answer
			}
			answer(out, r, http.StatusInternalServerError, toStatus(session.ErrInternal))
		}()
		next.ServeHTTP(out, r)
	})
}

type deadlineWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	began   bool
}

// Unwrap lets http.ResponseController reach the connection.
func (w *deadlineWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *deadlineWriter) WriteHeader(code int) {
	w.began = true
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *deadlineWriter) Write(b []byte) (int, error) {
	w.began = true
	if err := w.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(b)
}

// router decides which call a request is. grpc-gateway's mux does most of it, but accepts anything as an id, and for
// a path with other methods does not say which.
type router struct {
	mux *runtime.ServeMux
	own func(w http.ResponseWriter, r *http.Request, code int, st *status.Status) // see Server.own
}

// ServeHTTP implements http.Handler.
func (t *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := &httpCall{
		get:   r.Method == http.MethodGet || r.Method == http.MethodHead,
		query: r.URL.RawQuery,
		kind:  kindOf(r.Header.Get("Content-Type")),
		sent:  map[string]string{},
	}
	r.Header.Del("Content-Type") // there is one JSON codec, and the mux would log a type that it cannot parse
	r = r.WithContext(context.WithValue(r.Context(), httpCallKey{}, call))
	if strings.Contains(strings.ToUpper(r.URL.EscapedPath()), "%2F") { // the mux would decode it to a slash
		t.noRoute(w, r, nil)
		return
	}
	if r.Method == http.MethodOptions {
		if allowed := t.allowed(r); len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	if r.Method == http.MethodHead {
		r.Method = http.MethodGet // net/http omits the answer's body
	}
	url := *r.URL
	url.RawQuery = "" // see httpCall.readQuery
	r.URL, r.Body = &url, &httpBody{http.MaxBytesReader(w, r.Body, maxMessage), call}
	t.mux.ServeHTTP(w, r)
}

// matched is called for a request that matches one of the API's rules.
func (t *router) matched(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		for _, id := range path {
			// An empty segment, or an unknown verb; urn:uuid: is an invalid id.
			colon := strings.LastIndexByte(id, ':')
			if id == "" || colon >= 0 && uuid.Validate(id[colon+1:]) != nil {
				t.unmatched(r.Context(), t.mux, nil, w, r, 0)
				return
			}
		}
		if found, isProbe := r.Context().Value(probeKey{}).(*bool); isProbe {
			*found = true
			return
		}
		call := httpCallOf(r.Context())
		for field, id := range path {
			// Protobuf strings must be UTF-8; the service then rejects it as an id.
			path[field] = strings.ToValidUTF8(id, "\uFFFD")
		}
		call.path = path
		if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
			w.Header().Set("Accept-Encoding", "identity")
			err := call.refuse(http.StatusUnsupportedMediaType, "the body must not be compressed: leave out Content-Encoding")
			t.failed(r.Context(), t.mux, nil, w, r, err)
			return
		}
		if r.ContentLength > maxMessage && r.Header.Get("Expect") != "" {
			// The caller waits for a 100 Continue before it sends the body. One that does not wait has most of the
			// body in flight, and might miss an answer sent before the body was read.
			w.Header().Set("Connection", "close")
			t.failed(r.Context(), t.mux, nil, w, r, call.tooLarge(maxMessage))
			return
		}
		next(w, r, path)
	}
}

// unmatched is called for a request that matches no rule.
func (t *router) unmatched(
	ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, _ int,
) {
	if _, isProbe := ctx.Value(probeKey{}).(*bool); !isProbe {
		t.noRoute(w, r, t.allowed(r))
	}
}

type probeKey struct{}

// allowed returns the methods of a path by probing the mux; nil: there is no such path.
func (t *router) allowed(r *http.Request) (methods []string) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		found := false
		probe := r.WithContext(context.WithValue(r.Context(), probeKey{}, &found))
		probe.Method = method
		t.mux.ServeHTTP(nil, probe) // nothing is written: see matched and unmatched
		if found && method == http.MethodGet {
			methods = append(methods, http.MethodGet, http.MethodHead)
		} else if found {
			methods = append(methods, method)
		}
	}
	if methods != nil {
		methods = append(methods, http.MethodOptions)
	}
	return methods
}
