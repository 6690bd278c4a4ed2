package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/session"
)

// httpCall is an HTTP request in the gateway. It belongs to the goroutine that serves the request.
type httpCall struct {
	get   bool              // its fields are in the query, not in a body
	query string            // raw; hidden from grpc-gateway
	kind  bodyKind          // from Content-Type
	path  map[string]string // the fields in the path, with their values

	// sent maps the path of each field in the request message, as in device.share_set_id, to the caller's spelling of
	// it.
	sent    map[string]string
	faults  requestError // faults in the body or the query, to be answered together with those the service finds
	refused *refusal     // nil: the service answers
}

// refusal is the gateway's own answer to a call that does not reach the service.
type refusal struct {
	code   int // HTTP status code
	status *status.Status
}

type httpCallKey struct{}

// httpCallOf returns the HTTP request that a context belongs to.
func httpCallOf(ctx context.Context) *httpCall {
	if c, ok := ctx.Value(httpCallKey{}).(*httpCall); ok {
		return c
	}
	return &httpCall{} // of a request that matched no rule
}

// place is a field's path in a request message, and the same path in the caller's spelling.
type place struct{ path, sent string }

func (p place) field(name, sent string) place {
	if p.path == "" {
		return place{name, sent}
	}
	return place{p.path + "." + name, p.sent + "." + sent}
}

func (p place) index(i int) place {
	at := "[" + strconv.Itoa(i) + "]"
	return place{p.path + at, p.sent + at}
}

// maxFaults bounds the faults in one answer.
const maxFaults = 32

func (c *httpCall) fault(at place, format string, args ...any) {
	if len(c.faults) < maxFaults && !c.faults.cover(at.path) {
		c.faults = append(c.faults, &session.FieldError{Field: at.path, Want: fmt.Sprintf(format, args...)})
		if at.path != "" {
			c.sent[at.path] = at.sent
		}
	}
}

// showable matches names that answers and the log may quote.
var showable = regexp.MustCompile(`^\w{1,64}$`)

// unknown adds the fault of an unknown field name.
func (c *httpCall) unknown(at place, name, want string) {
	if !showable.MatchString(name) {
		name, want = "?", want+" (its name is not a word of at most 64 letters, digits and _)"
	}
	c.fault(at.field(name, name), "%s", want)
}

// refuse makes the gateway itself answer, with an HTTP status code. The returned error only tells grpc-gateway to
// stop.
func (c *httpCall) refuse(code int, format string, args ...any) error {
	c.refused = &refusal{code, invalid(codes.InvalidArgument, fmt.Sprintf(format, args...))}
	return c.refused.status.Err()
}

func (c *httpCall) tooLarge(limit int64) error {
	return c.refuse(http.StatusRequestEntityTooLarge, "the body has more than %d bytes", limit)
}

// readQuery decodes the query's parameters into m: only fields that are neither in the path nor in a body.
func (c *httpCall) readQuery(m protoreflect.Message) {
	values, err := url.ParseQuery(c.query)
	if err != nil {
		c.fault(place{}, "the query is not name=value pairs that are joined by & and percent-encoded")
		return
	}
	given := map[protoreflect.Name]bool{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fd := fieldOf(m.Descriptor(), name)
		if fd == nil || c.path[string(fd.Name())] != "" {
			c.unknown(place{}, name, "is an unknown parameter of this call")
			continue
		}
		here := place{string(fd.Name()), name}
		c.sent[here.path] = here.sent
		switch {
		case !c.get:
			c.fault(here, "belongs into the body and not into the query")
		case given[fd.Name()], len(values[name]) > 1:
			c.fault(here, "is given more than once")
		default:
			m.Set(fd, c.value(m, fd, queryJSON(fd, values.Get(name)), here))
		}
		given[fd.Name()] = true
	}
}

// queryJSON returns a parameter in the form that a body would have.
func queryJSON(fd protoreflect.FieldDescriptor, text string) json.RawMessage {
	if fd.Kind() == protoreflect.BoolKind || !utf8.ValidString(text) {
		return json.RawMessage(text) // invalid UTF-8 is invalid JSON as well
	}
	b, err := json.Marshal(text)
	if err != nil { // unreachable: it is text
		return json.RawMessage("null")
	}
	return b
}

// faultsHeader passes the faults of a call's body and query to the service, in memory. incomingHeader keeps callers
// from setting it.
const faultsHeader = "mpcd-http-faults-bin"

// outgoing returns the context of the gRPC call for an HTTP call.
func (c *httpCall) outgoing(ctx context.Context, m protoreflect.Message) context.Context {
	c.readQuery(m)
	if len(c.faults) == 0 {
		return ctx
	}
	b, err := proto.Marshal(&errdetails.BadRequest{FieldViolations: c.faults.violations()})
	if err != nil { // unreachable: all names and descriptions are UTF-8
		b = nil
	}
	return metadata.AppendToOutgoingContext(ctx, faultsHeader, string(b))
}

type faultsKey struct{}

// withFaults makes the gateway's faults of a call available to the handler's parser (see parserOf).
func withFaults(ctx context.Context, _ string) (context.Context, error) {
	all := metadata.ValueFromIncomingContext(ctx, faultsHeader)
	if len(all) == 0 {
		return ctx, nil
	}
	var bad errdetails.BadRequest
	if err := proto.Unmarshal([]byte(all[0]), &bad); err != nil || len(bad.GetFieldViolations()) == 0 {
		return nil, session.ErrInvalidArgument
	}
	var faults requestError
	for _, v := range bad.GetFieldViolations() {
		faults = append(faults, &session.FieldError{Field: v.GetField(), Want: v.GetDescription()})
	}
	return context.WithValue(ctx, faultsKey{}, faults), nil
}

// callUnary is a grpc.UnaryClientInterceptor of the gateway's connection to the service.
func callUnary(
	ctx context.Context, method string, req, resp any, conn *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	if m, ok := req.(proto.Message); ok {
		ctx = httpCallOf(ctx).outgoing(ctx, m.ProtoReflect())
	}
	return next(ctx, method, req, resp, conn, opts...)
}

// callStream is a grpc.StreamClientInterceptor of the gateway's connection to the service.
func callStream(
	ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	service := pb.File_mpcd_v1_wallet_service_proto.Services().Get(0)
	rpc := service.Methods().ByName(protoreflect.Name(method[strings.LastIndex(method, "/")+1:]))
	req, err := newMessage(rpc.Input())
	if err != nil {
		return nil, err
	}
	first, err := newMessage(rpc.Output())
	if err != nil {
		return nil, err
	}
	s, err := next(httpCallOf(ctx).outgoing(ctx, req.ProtoReflect()), desc, conn, method, opts...)
	if err != nil {
		return nil, err
	}
	return &begun{ClientStream: s, first: first}, nil
}

func newMessage(d protoreflect.MessageDescriptor) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, err
	}
	return t.New().Interface(), nil
}

// begun is a stream whose header is returned with its first message. A stream that fails before that fails like a
// unary call: the error is the answer, with its own HTTP code, and not a line of the stream.
type begun struct {
	grpc.ClientStream
	first proto.Message // nil once it was returned
	err   error         // received in place of it; may be io.EOF
}

// SendMsg implements grpc.ClientStream. If the service has already refused the call without reading, SendMsg's error
// is only that the stream is closed; Header returns the service's status.
func (s *begun) SendMsg(m any) error {
	if err := s.ClientStream.SendMsg(m); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// Header implements grpc.ClientStream. It is called once, and before RecvMsg.
func (s *begun) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	if err != nil {
		return nil, err
	}
	if s.err = s.ClientStream.RecvMsg(s.first); s.err != nil && !errors.Is(s.err, io.EOF) {
		return nil, s.err
	}
	return md, nil
}

// RecvMsg implements grpc.ClientStream.
func (s *begun) RecvMsg(m any) error {
	to, ok := m.(proto.Message)
	if s.first == nil || !ok {
		return s.ClientStream.RecvMsg(m)
	}
	if s.err == nil {
		proto.Merge(to, s.first)
	}
	s.first = nil
	return s.err
}
