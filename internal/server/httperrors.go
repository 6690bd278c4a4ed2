package server

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/session"
)

// Over HTTP a call that fails before its answer has begun, even a stream, is answered with a bare google.rpc.Status
// and the matching HTTP status code. A stream that has begun ends with the line {"error": {...}}.

// failed answers a call that failed before its response or its stream's first message.
func (t *router) failed(
	ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error,
) {
	call := httpCallOf(ctx)
	if call.refused != nil {
		t.own(w, r, call.refused.code, call.refused.status)
		return
	}
	st := call.inCallersNames(withReason(status.Convert(err)))
	answer(w, r, runtime.HTTPStatusFromCode(st.Code()), st)
}

// streamError returns the status that ends a stream that has begun.
func streamError(ctx context.Context, err error) *status.Status {
	return httpCallOf(ctx).inCallersNames(withReason(status.Convert(err)))
}

// noRoute answers a request that is not a call: its path has other methods, or there is no such path.
func (t *router) noRoute(w http.ResponseWriter, r *http.Request, allowed []string) {
	if len(allowed) == 0 {
		t.own(w, r, http.StatusNotFound, invalid(codes.NotFound, "the API has no such path"))
		return
	}
	all := strings.Join(allowed, ", ")
	w.Header().Set("Allow", all)
	st := invalid(codes.Unimplemented, "this path takes the methods "+all+" and no other")
	t.own(w, r, http.StatusMethodNotAllowed, st)
}

// own answers a request that does not reach the service with its checks and its log. It needs no credentials, so it
// counts as a rejected call of its address, and is logged like a call, but without the path, which may be anything.
func (s *Server) own(w http.ResponseWriter, r *http.Request, code int, st *status.Status) {
	from := networkOf(r.RemoteAddr)
	if err := s.limits.take(refusedCalls, from); err != nil {
		st = toStatus(err)
		code = runtime.HTTPStatusFromCode(st.Code())
	}
	level := slog.Level(logging.DefaultServerCodeToLevel(st.Code()))
	if st.Code() == codes.Unimplemented {
		level = slog.LevelInfo // a method that the path does not have: the caller's mistake
	}
	s.log.Log(r.Context(), level, "finished call", "grpc.code", st.Code().String(), "http.code", code,
		"reason", reason(st), "request_id", r.Header.Get("X-Request-Id"), "from", from)
	answer(w, r, code, st)
}

// answer writes a status as the whole answer.
func answer(w http.ResponseWriter, r *http.Request, code int, st *status.Status) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	retryAfter(h, st)
	if st.Code() == codes.Unauthenticated {
		h.Set("WWW-Authenticate", challenge(r))
	}
	body, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(st.Proto())
	if err != nil { // a detail of a type that is not linked
		body = []byte(`{"code":13,"message":"The service failed to say what is wrong.","details":[]}`)
	}
	w.WriteHeader(code)
	_, _ = w.Write(body) //nolint:gosec // G705: it is JSON and says so; a caller that disconnected needs no answer
}

// challenge returns how to authenticate (RFC 6750, section 3).
func challenge(r *http.Request) string {
	for _, credentials := range r.Header.Values("Authorization") {
		scheme, token, _ := strings.Cut(credentials, " ")
		if strings.EqualFold(scheme, "Bearer") && strings.TrimSpace(token) != "" {
			return `Bearer realm="mpcd", error="invalid_token"`
		}
	}
	return `Bearer realm="mpcd"`
}

// retryAfter sets the header to the value of RetryInfo in the body: whole seconds, rounded up (RFC 9110, section
// 10.2.3).
func retryAfter(h http.Header, st *status.Status) {
	for _, d := range st.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			seconds := math.Ceil(r.GetRetryDelay().AsDuration().Seconds())
			h.Set("Retry-After", strconv.Itoa(max(1, int(seconds))))
		}
	}
}

// invalid returns the status of a request that the gateway itself refuses.
func invalid(code codes.Code, what string) *status.Status {
	return because(code, session.ErrInvalidArgument, "The request is not valid: "+what+".")
}

// because returns a status with its own sentence.
func because(code codes.Code, why *session.Error, sentence string) *status.Status {
	st := status.New(code, sentence)
	out, err := st.WithDetails(&errdetails.ErrorInfo{Domain: errorDomain, Reason: why.Reason})
	if err != nil {
		return st // details that cannot be encoded
	}
	return out
}

// withReason adds the API's reason to a status. The connection to the service has errors of its own, whose text
// callers should not see; it fails only while the service stops.
func withReason(st *status.Status) *status.Status {
	if reason(st) != "" {
		return st
	}
	switch st.Code() {
	case codes.Unavailable:
		return toStatus(session.ErrShuttingDown)
	case codes.InvalidArgument:
		return toStatus(session.ErrInvalidArgument)
	case codes.Unknown, codes.Internal:
		return toStatus(session.ErrInternal)
	default:
		return st
	}
}

// jsonNames maps the API's field names of more than one word to their JSON names.
var jsonNames = func() map[string]string {
	names := map[string]string{}
	for _, file := range []protoreflect.FileDescriptor{
		pb.File_mpcd_v1_wallet_service_proto, pb.File_mpcd_v1_session_proto, pb.File_mpcd_v1_wallet_proto,
	} {
		for i := range file.Messages().Len() {
			fields := file.Messages().Get(i).Fields()
			for j := range fields.Len() {
				names[string(fields.Get(j).Name())] = fields.Get(j).JSONName()
			}
		}
	}
	return names
}()

var protoName = regexp.MustCompile(`\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b`)

// words returns the service's text about a field with field names in the caller's spelling.
func (c *httpCall) words(text string) string {
	return protoName.ReplaceAllStringFunc(text, func(name string) string {
		if sent, ok := c.sent[name]; ok {
			return sent
		}
		if inJSON, ok := jsonNames[name]; ok && !c.snake() {
			return inJSON
		}
		return name
	})
}

// snake reports whether the caller spells names as in the proto files, which JSON allows too.
func (c *httpCall) snake() bool {
	snake := false
	for path, sent := range c.sent {
		if jsonNames[path[strings.LastIndexByte(path, '.')+1:]] == "" {
			continue // not a field
		}
		if strings.ToLower(sent) != sent {
			return false
		}
		snake = snake || strings.Contains(sent, "_")
	}
	return snake
}

// name returns a field's path in the caller's spelling.
func (c *httpCall) name(path string) string {
	if sent, ok := c.sent[path]; ok {
		return sent
	}
	if i := strings.LastIndexByte(path, '['); i >= 0 && strings.HasSuffix(path, "]") {
		return c.name(path[:i]) + path[i:]
	}
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return c.name(path[:i]) + "." + c.words(path[i+1:])
	}
	return c.words(path)
}

// inCallersNames returns the service's status with the fields at fault in the caller's spelling.
func (c *httpCall) inCallersNames(st *status.Status) *status.Status {
	p := st.Proto()
	for i, detail := range p.GetDetails() {
		var bad errdetails.BadRequest
		if !detail.MessageIs(&bad) || detail.UnmarshalTo(&bad) != nil {
			continue
		}
		for _, v := range bad.GetFieldViolations() {
			v.Field, v.Description = c.name(v.GetField()), c.words(v.GetDescription())
		}
		renamed, err := anypb.New(&bad)
		if err != nil {
			continue // names of the proto files, which JSON allows too
		}
		p.Details[i] = renamed
		p.Message = invalidSentence(bad.GetFieldViolations())
	}
	return status.FromProto(p)
}
