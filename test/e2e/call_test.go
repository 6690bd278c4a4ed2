package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// answer is the result of a call over either transport.
type answer struct {
	messages []proto.Message // all of a stream's, or the one response
	status   *status.Status  // OK, or the error

	// Over HTTP only.
	code   int
	header http.Header
}

// call makes one call of the RPC that takes req, as a caller (nil: servertest.Dev).
type call func(t testing.TB, s *servertest.Service, as *session.Caller, req proto.Message) answer

// later makes a call in a goroutine that ends with it. If an assertion fails there, the channel is closed, and the
// test receives an empty answer.
func later(call func() answer) <-chan answer {
	ended := make(chan answer, 1)
	go func() {
		defer close(ended)
		ended <- call()
	}()
	return ended
}

// transports are the two transports.
var transports = map[string]call{"gRPC": overGRPC, "HTTP": overHTTP}

// method finds the RPC that takes req.
func method(t testing.TB, req proto.Message) protoreflect.MethodDescriptor {
	t.Helper()
	all := pb.File_mpcd_v1_wallet_service_proto.Services().ByName("WalletService").Methods()
	for i := range all.Len() {
		if all.Get(i).Input().FullName() == req.ProtoReflect().Descriptor().FullName() {
			return all.Get(i)
		}
	}
	require.FailNow(t, "no RPC takes it", "%T", req)
	return nil
}

func newResponse(t testing.TB, m protoreflect.MethodDescriptor) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
	require.NoError(t, err)
	return typ.New().Interface()
}

func overGRPC(t testing.TB, s *servertest.Service, as *session.Caller, req proto.Message) (a answer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if as != nil {
		ctx = servertest.As(ctx, as.Name, as.Scopes...)
	}
	m := method(t, req)
	path := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	if !m.IsStreamingServer() {
		resp := newResponse(t, m)
		err := s.Conn.Invoke(ctx, path, req, resp)
		if err == nil {
			a.messages = append(a.messages, resp)
		}
		a.status = status.Convert(err)
		return a
	}
	stream, err := s.Conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err != nil { // there is no connection
		a.status = status.Convert(err)
		return a
	}
	if err := stream.SendMsg(req); !errors.Is(err, io.EOF) { // a refusal is read below
		require.NoError(t, err)
	}
	require.NoError(t, stream.CloseSend())
	for {
		resp := newResponse(t, m)
		err := stream.RecvMsg(resp)
		if errors.Is(err, io.EOF) {
			a.status = status.New(codes.OK, "")
			return a
		}
		if err != nil {
			a.status = status.Convert(err)
			return a
		}
		a.messages = append(a.messages, resp)
	}
}

// routes repeats the HTTP rules of mpcd_gateway.yaml, so that the tests do not read them from the code under test.
var routes = map[protoreflect.Name]string{
	"CreateWallet":    "POST /v1/wallets",
	"BackupWallet":    "POST /v1/wallets/{wallet_id}:backup",
	"ProvisionWallet": "POST /v1/wallets/{wallet_id}:provision",
	"ConfirmShareSet": "POST /v1/wallets/{wallet_id}/shareSets/{share_set_id}:confirm",
	"RevokeShareSet":  "POST /v1/wallets/{wallet_id}/shareSets/{share_set_id}:revoke",
	"ReleaseShareSet": "POST /v1/wallets/{wallet_id}/shareSets/{share_set_id}:release",
	"Sign":            "POST /v1/wallets/{wallet_id}:sign",
	"SignWithDevice":  "POST /v1/wallets/{wallet_id}:signWithDevice",
	"GetWallet":       "GET /v1/wallets/{wallet_id}",
	"ListWallets":     "GET /v1/wallets",
	"GetSession":      "GET /v1/sessions/{session_id}",
	"CancelSession":   "POST /v1/sessions/{session_id}:cancel",
	"SendMessages":    "POST /v1/sessions/{session_id}/messages",
}

func overHTTP(t testing.TB, s *servertest.Service, as *session.Caller, req proto.Message) answer {
	t.Helper()
	m := method(t, req)
	verb, path, body := request(t, m, req)
	header := http.Header{}
	if as != nil {
		header.Set("Authorization", servertest.Bearer(as.Name, as.Scopes...))
	}
	resp := send(t, s, verb, path, header, body)
	defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the test has failed
	return read(t, m, resp)
}

// request returns the HTTP request of a call.
func request(t testing.TB, m protoreflect.MethodDescriptor, req proto.Message) (verb, path string, body []byte) {
	t.Helper()
	verb, path, _ = strings.Cut(routes[m.Name()], " ")
	encoded, err := protojson.Marshal(req)
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(encoded, &fields))
	for _, name := range slices.Collect(maps.Keys(fields)) {
		inPath := "{" + string(req.ProtoReflect().Descriptor().Fields().ByJSONName(name).Name()) + "}"
		if text, ok := fields[name].(string); ok && strings.Contains(path, inPath) {
			path = strings.ReplaceAll(path, inPath, url.PathEscape(text))
			delete(fields, name)
		}
	}
	if verb == http.MethodGet {
		query := url.Values{}
		for name, v := range fields {
			text, ok := v.(string)
			if n, isNumber := v.(float64); isNumber {
				text, ok = strconv.FormatFloat(n, 'f', -1, 64), true
			}
			require.True(t, ok, "%s is neither text nor number", name)
			query.Set(name, text)
		}
		return verb, path + "?" + query.Encode(), nil
	}
	body, err = json.Marshal(fields)
	require.NoError(t, err)
	return verb, path, body
}

// send sends an HTTP request to the gateway. The caller closes the response's body.
func send(t testing.TB, s *servertest.Service, verb, path string, header http.Header, body []byte) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), verb, s.URL+path, bytes.NewReader(body))
	require.NoError(t, err)
	maps.Copy(req.Header, header)
	resp, err := s.HTTP.Do(req)
	require.NoError(t, err)
	return resp
}

// read reads an answer over HTTP in the form that docs/HTTP.md describes: an error is a bare status with its HTTP
// code, or, after a stream's first message, the stream's last line.
func read(t testing.TB, m protoreflect.MethodDescriptor, resp *http.Response) answer {
	t.Helper()
	a := answer{status: status.New(codes.OK, ""), code: resp.StatusCode, header: resp.Header}
	require.Equal(t, []string{"no-store"}, resp.Header.Values("Cache-Control"))
	require.Len(t, resp.Header.Values("X-Request-Id"), 1)
	all, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if resp.StatusCode != http.StatusOK || !m.IsStreamingServer() {
		require.Equal(t, []string{"application/json"}, resp.Header.Values("Content-Type"))
		if resp.StatusCode == http.StatusOK {
			a.messages = append(a.messages, decoded(t, m, all))
		} else {
			a.status = decodedStatus(t, all)
		}
		return a
	}
	require.Equal(t, []string{"application/x-ndjson"}, resp.Header.Values("Content-Type"))
	require.Equal(t, []string{"no"}, resp.Header.Values("X-Accel-Buffering"))
	for line := range bytes.Lines(all) {
		require.True(t, bytes.HasSuffix(line, []byte("\n")), "every message is a line of its own")
		require.Equal(t, codes.OK, a.status.Code(), "nothing comes after an error")
		var one struct{ Result, Error json.RawMessage }
		require.NoError(t, json.Unmarshal(line, &one))
		if one.Error != nil {
			require.Nil(t, one.Result)
			require.NotEmpty(t, a.messages, "before the first message an error has an HTTP code of its own")
			a.status = decodedStatus(t, one.Error)
		} else {
			require.NotNil(t, one.Result, "%s", line)
			a.messages = append(a.messages, decoded(t, m, one.Result))
		}
	}
	return a
}

func decoded(t testing.TB, m protoreflect.MethodDescriptor, b []byte) proto.Message {
	t.Helper()
	msg := newResponse(t, m)
	require.NoError(t, protojson.Unmarshal(b, msg), "%s", b)
	return msg
}

func decodedStatus(t testing.TB, b []byte) *status.Status {
	t.Helper()
	var p spb.Status
	require.NoError(t, protojson.Unmarshal(b, &p), "%s", b)
	require.NotZero(t, p.GetCode(), "%s", b)
	return status.FromProto(&p)
}

// info returns the ErrorInfo of a status and the names in its BadRequest, and requires at most one of each.
func info(t testing.TB, st *status.Status) (i *errdetails.ErrorInfo, fields []string) {
	t.Helper()
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			require.Nil(t, i)
			i = d
		case *errdetails.BadRequest:
			require.Nil(t, fields)
			for _, v := range d.GetFieldViolations() {
				require.NotEmpty(t, v.GetDescription())
				require.Contains(t, st.Message(), v.GetField(), "the sentence names every field")
				fields = append(fields, v.GetField())
			}
		case *errdetails.RetryInfo: // of an error that may pass
			require.True(t, d.GetRetryDelay().IsValid())
		default:
			require.Fail(t, "a detail of another kind", "%T", d)
		}
	}
	return i, fields
}

// refused requires that a call was refused with a reason. fields are those at fault, in any order; over HTTP they
// have JSON's names.
func refused(t testing.TB, a answer, code codes.Code, reason string, fields ...string) {
	t.Helper()
	require.Equal(t, code, a.status.Code(), a.status.Message())
	i, got := info(t, a.status)
	if reason == "" {
		require.Nil(t, i)
	} else {
		require.NotNil(t, i, a.status.Message())
		require.Equal(t, "mpcd", i.GetDomain())
		require.Equal(t, reason, i.GetReason(), a.status.Message())
	}
	if a.header != nil {
		fields = slices.Clone(fields)
		for i := range fields {
			fields[i] = camel(fields[i])
		}
	}
	require.ElementsMatch(t, fields, got)
	require.NotEmpty(t, a.status.Message())
}

// camel returns a path of proto fields in JSON's names.
func camel(path string) string {
	words := strings.Split(path, "_")
	for i := 1; i < len(words); i++ {
		words[i] = strings.ToUpper(words[i][:1]) + words[i][1:]
	}
	return strings.Join(words, "")
}

// httpCodes are the HTTP status codes that callers see.
var httpCodes = map[codes.Code]int{
	codes.OK: 200, codes.InvalidArgument: 400, codes.FailedPrecondition: 400, codes.Unauthenticated: 401, codes.PermissionDenied: 403,
	codes.NotFound: 404, codes.Aborted: 409, codes.ResourceExhausted: 429, codes.Internal: 500, codes.DataLoss: 500,
	codes.Unimplemented: 501, codes.Unavailable: 503,
}

// done requires that a call succeeded, and returns its last message.
func done[M proto.Message](t testing.TB, a answer) M {
	t.Helper()
	require.Equal(t, codes.OK, a.status.Code(), "%v", a.status)
	require.NotEmpty(t, a.messages)
	m, ok := a.messages[len(a.messages)-1].(M)
	require.True(t, ok, "%T", a.messages[0])
	return m
}
