package main

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// call is one ProvisionWallet call as its caller sees it. Bytes are gRPC's: messages with their five bytes of
// framing, and headers as compressed.
type call struct {
	begun    time.Time
	first    time.Duration // until the first message of the answer arrived
	messages int           // in the answer
	sent     int64
	received int64
}

// meter observes the calls of one connection, as a grpc stats.Handler, and counts the connection's bytes.
type meter struct {
	sent, received atomic.Int64 // bytes of TCP payload
	refused        atomic.Int64 // calls that were told when to retry
	own            atomic.Int64 // bytes of tss-lib's own messages, in both directions

	mu    sync.Mutex // guards calls, and the calls in flight
	calls []*call    // those that have ended
}

type callKey struct{}

// TagRPC implements stats.Handler.
func (m *meter) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if !strings.HasSuffix(info.FullMethodName, "/ProvisionWallet") {
		return ctx
	}
	return context.WithValue(ctx, callKey{}, new(call))
}

// hpkeBytes is what encryption to a device adds to a message: a key and a tag.
const hpkeBytes = 32 + 16

// count counts the tss-lib messages in a gRPC message.
func (m *meter) count(payload any) {
	var all []*mpcdv1.ProtocolMessage
	switch p := payload.(type) {
	case interface {
		GetMessage() *mpcdv1.ProtocolMessage
	}:
		all = append(all, p.GetMessage())
	case *mpcdv1.SendMessagesRequest:
		all = p.GetMessages()
	}
	for _, x := range all {
		n := len(x.GetPayload())
		if x.GetPrivate() {
			n -= hpkeBytes
		}
		m.own.Add(int64(n))
	}
}

// HandleRPC implements stats.Handler.
func (m *meter) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.InPayload:
		m.count(s.Payload)
	case *stats.OutPayload:
		m.count(s.Payload)
	}
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch s := s.(type) {
	case *stats.Begin:
		c.begun = s.BeginTime
	case *stats.OutPayload:
		c.sent += int64(s.WireLength)
	case *stats.InHeader:
		c.received += int64(s.WireLength)
	case *stats.InTrailer:
		c.received += int64(s.WireLength)
	case *stats.InPayload:
		if c.messages == 0 {
			c.first = s.RecvTime.Sub(c.begun)
		}
		c.messages++
		c.received += int64(s.WireLength)
	case *stats.End:
		m.calls = append(m.calls, c)
		for _, d := range status.Convert(s.Error).Details() {
			if _, ok := d.(*errdetails.RetryInfo); ok {
				m.refused.Add(1)
			}
		}
	}
}

// TagConn implements stats.Handler.
func (m *meter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (m *meter) HandleConn(context.Context, stats.ConnStats) {}

// take returns the calls that have ended since the last take.
func (m *meter) take() []*call {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = nil
	return calls
}

// dial connects and counts.
func (m *meter) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &countingConn{Conn: c, m: m}, nil
}

type countingConn struct {
	net.Conn
	m *meter
}

// Read implements net.Conn.
func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.m.received.Add(int64(n))
	return n, err
}

// Write implements net.Conn.
func (c *countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.m.sent.Add(int64(n))
	return n, err
}
