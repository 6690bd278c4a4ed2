package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// raw is a device without tss-lib parties: it sends what its test makes it send.
type raw struct {
	s       *servertest.Service
	as      *session.Caller
	req     deviceRun
	id      string // the session's
	attempt uint32
	heard   chan struct{} // closed with the service's first part
	ended   <-chan answer
}

// begins makes a device's call over gRPC, and returns when it has received its session and attempt.
func begins(t testing.TB, s *servertest.Service, as *session.Caller, req deviceRun) *raw {
	t.Helper()
	ctx, cancel := context.WithCancel(servertest.As(t.Context(), as.Name, as.Scopes...))
	t.Cleanup(cancel)
	m := method(t, req)
	stream, err := s.Conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()))
	require.NoError(t, err)
	require.NoError(t, stream.SendMsg(req))
	require.NoError(t, stream.CloseSend())
	d := &raw{s: s, as: as, req: req, heard: make(chan struct{})}
	told := make(chan *pb.Progress, 1)
	d.ended = later(func() (a answer) { // ends with the stream
		defer close(told)
		heard := sync.OnceFunc(func() { close(d.heard) })
		for {
			resp := newResponse(t, m)
			if err := stream.RecvMsg(resp); err != nil {
				a.status = status.New(codes.OK, "")
				if !errors.Is(err, io.EOF) {
					a.status = status.Convert(err)
				}
				return a
			}
			a.messages = append(a.messages, resp)
			ev, ok := resp.(deviceEvent)
			if ok && ev.GetProgress() != nil && len(a.messages) == 1 {
				told <- ev.GetProgress()
			}
			if ok && ev.GetMessage() != nil {
				heard()
			}
		}
	})
	p := <-told
	if p == nil { // it was refused at once
		return d
	}
	d.id, d.attempt = p.GetSessionId(), p.GetAttempt()
	return d
}

// hello is a device's first part, still without a proof.
func hello(t testing.TB, req deviceRun) *pb.ProtocolMessage {
	t.Helper()
	return &pb.ProtocolMessage{Sequence: 1, Hello: goodHello(t, req)}
}

// saysHello sends a hello proven with h's share; without a proof if h has none.
func (d *raw) saysHello(t testing.TB, h held) {
	t.Helper()
	m := hello(t, d.req)
	if h.share != nil {
		rec := &session.Session{ID: d.id, Attempt: d.attempt, Operation: operationOf(d.req)}
		m.Hello.Proof = proof(t, m.GetHello(), d.req, rec, h)
	}
	ack, st := d.says(m)
	require.Equal(t, codes.OK, st.Code(), "%v", st)
	require.Equal(t, uint32(1), ack)
}

func operationOf(req deviceRun) session.Operation {
	switch req.(type) {
	case *pb.CreateWalletRequest:
		return session.OpCreate
	case *pb.BackupWalletRequest:
		return session.OpBackup
	case *pb.ProvisionWalletRequest:
		return session.OpProvision
	}
	return session.OpSign
}

// says sends parts as they are.
func (d *raw) says(parts ...*pb.ProtocolMessage) (ack uint32, st *status.Status) {
	resp, err := d.s.SendMessages(servertest.As(context.Background(), d.as.Name, d.as.Scopes...), &pb.SendMessagesRequest{
		SessionId: d.id, Instance: d.req.GetDevice().GetInstance(), Attempt: d.attempt, Messages: parts,
	})
	return resp.GetAck(), status.Convert(err)
}

// runs waits until the device's run has its slot.
func (d *raw) runs(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool {
		rec, err := d.s.Store.Session(t.Context(), d.id)
		return err == nil && rec.State == session.Running && rec.Attempt == d.attempt
	}, 2*time.Minute, 5*time.Millisecond)
}
