package server

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// early is a stream that was refused before its request was sent.
type early struct{ grpc.ClientStream }

func (early) SendMsg(any) error            { return io.EOF }
func (early) RecvMsg(any) error            { return status.Error(codes.Unauthenticated, "who?") }
func (early) Header() (metadata.MD, error) { return nil, nil }

// A stream's refusal is answered as it is, also where it comes before the request is sent:
// that was a 500 now and then.
func TestAStreamThatIsRefusedEarly(t *testing.T) {
	t.Parallel()
	s := &begun{ClientStream: early{}, first: new(pb.CreateWalletResponse)}
	require.NoError(t, s.SendMsg(new(pb.CreateWalletRequest)))
	_, err := s.Header()
	require.Equal(t, codes.Unauthenticated, status.Code(err))
}

// What comes of the connection to the service itself is said in the API's words.
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
