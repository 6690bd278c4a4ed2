package server

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// early is a stream that was refused before its request was sent.
type early struct{ grpc.ClientStream }

func (early) SendMsg(any) error            { return io.EOF }
func (early) RecvMsg(any) error            { return status.Error(codes.Unauthenticated, "who?") }
func (early) Header() (metadata.MD, error) { return nil, nil }

// A stream's refusal is passed on even if it comes before the request is sent (once an occasional 500).
func TestStreamRefusedEarly(t *testing.T) {
	t.Parallel()
	s := &begun{ClientStream: early{}, first: new(pb.CreateWalletResponse)}
	require.NoError(t, s.SendMsg(new(pb.CreateWalletRequest)))
	_, err := s.Header()
	require.Equal(t, codes.Unauthenticated, status.Code(err))
}

// Errors of the connection to the service itself are translated into the API's.
func TestStatusesWithoutAReason(t *testing.T) {
	t.Parallel()
	for code, want := range map[codes.Code]string{
		codes.Unavailable: "SHUTTING_DOWN", codes.Internal: "INTERNAL", codes.Unknown: "INTERNAL", codes.InvalidArgument: "INVALID_ARGUMENT",
	} {
		st := withReason(status.New(code, "grpc: the client connection is closing"))
		require.Equal(t, want, reason(st))
		require.NotContains(t, st.Message(), "grpc")
	}
	require.Equal(t, codes.DeadlineExceeded, withReason(status.New(codes.DeadlineExceeded, "")).Code())
}

// Any body is decoded or refused; what protojson accepts is decoded as by protojson.
func FuzzBody(f *testing.F) {
	for _, body := range []string{
		"", "{}", "null", "[]", `{"requestId":"x","backupShare":"QUJD","device":null}`, `{"device":{"shareSetId":"a","attempt":"3"}}`,
		`{"request_id":"a","requestId":"b"}`, `{"messages":[{"sequence":1,"hello":{"nonce":"_-8"}},{"end":{}}]}`, `{"messages":[null,1,{"curve":2}]}`,
		`{"curves":[1,"CURVE_ED25519",1e0,7]}`, `{"backupShare":"Q U\nJ D="}`, "{\"a\":\"\xff\"}", `{"afterSequence":"4294967296"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, empty := range []proto.Message{&pb.ProvisionWalletRequest{}, &pb.SendMessagesRequest{}, &pb.CreateWalletRequest{}, &pb.ConfirmShareSetRequest{}} {
			call := &httpCall{sent: map[string]string{}}
			got, want := empty, proto.Clone(empty)
			err := call.readBody(bytes.NewReader(body), got.ProtoReflect())
			if protojson.Unmarshal(body, want) == nil {
				require.NoError(t, err)
				require.Empty(t, call.faults)
				require.True(t, proto.Equal(want, got), "%v, %v", want, got)
			}
			require.LessOrEqual(t, len(call.faults), maxFaults)
			for _, fault := range call.faults {
				require.True(t, utf8.ValidString(fault.Field+fault.Want))
				require.NotEmpty(t, fault.Want)
			}
		}
	})
}

// A panic of the gateway itself is answered with INTERNAL; its value is in no answer and no log. An answer that had
// begun is cut off.
func TestGatewayPanics(t *testing.T) {
	t.Parallel()
	const secret = "correct horse battery staple"
	var log bytes.Buffer
	s := &Server{log: slog.New(slog.NewTextHandler(&log, nil))}
	web := httptest.NewServer(s.front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			_, err := io.WriteString(w, "{")
			assert.NoError(t, err)
			assert.NoError(t, http.NewResponseController(w).Flush())
		}
		panic(errors.New(secret))
	})))
	get := func(path string) (code int, body []byte, err error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, web.URL+path, nil)
		require.NoError(t, err)
		resp, err := web.Client().Do(r)
		require.NoError(t, err)
		defer resp.Body.Close() //nolint:errcheck // it is read as far as it goes
		body, err = io.ReadAll(resp.Body)
		return resp.StatusCode, body, err
	}
	code, body, err := get("/")
	require.NoError(t, err)
	require.Equal(t, http.StatusInternalServerError, code)
	require.Contains(t, string(body), `"INTERNAL"`)
	require.NotContains(t, string(body), secret)
	_, _, err = get("/late")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	web.Close() // waits for both
	require.NotContains(t, log.String(), secret)
	require.Equal(t, 2, strings.Count(log.String(), "the gateway panicked"))
}
