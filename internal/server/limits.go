package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/mpcd/mpcd/internal/bucket"
	"github.com/mpcd/mpcd/internal/session"
)

// Limits bound how often calls come: for each caller and method, and, of calls whose
// caller is refused, for each network. The zero value bounds nothing.
type Limits struct {
	Rate  int // calls a second in the long run; 0: no limit
	Burst int // calls at once
}

// limitedError says that calls come too often.
type limitedError struct {
	who, what  string
	retryAfter time.Duration
}

// Error implements error.
func (e *limitedError) Error() string {
	return fmt.Sprintf("%v: %s by %q, retry after %v", session.ErrRateLimited, e.what, e.who, e.retryAfter)
}

// Unwrap makes a limitedError a session.ErrRateLimited.
func (e *limitedError) Unwrap() error { return session.ErrRateLimited }

// Later implements session.LaterError.
func (e *limitedError) Later() time.Duration { return e.retryAfter }

// refusedCalls are what a limiter counts by network and not by caller.
const refusedCalls = "refused calls"

// maxBuckets bounds the memory of a limiter: some 4 MiB.
const maxBuckets = 1 << 14

// limiter holds a token bucket for each pair that it was asked about.
type limiter struct {
	buckets *bucket.Set[bucketKey] // nil: nothing is bound
}

type bucketKey struct{ what, who string }

func newLimiter(l Limits) *limiter {
	if l.Rate <= 0 {
		return &limiter{}
	}
	return &limiter{bucket.New[bucketKey](rate.Limit(l.Rate), max(1, l.Burst), maxBuckets)}
}

// take takes one token, or returns a limitedError.
func (l *limiter) take(what, who string) error {
	if l.buckets == nil {
		return nil
	}
	if d := l.buckets.Take(bucketKey{what, who}); d > 0 {
		return &limitedError{who: who, what: what, retryAfter: d}
	}
	return nil
}

// peerAddress returns where a gRPC call comes from.
func peerAddress(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return networkOf(p.Addr.String())
	}
	return ""
}

// forwardedAddress returns where a call of the gateway's comes from: the gateway puts the
// address that it sees last in the list, behind what the caller may have sent.
func forwardedAddress(ctx context.Context) string {
	all := strings.Join(metadata.ValueFromIncomingContext(ctx, "x-forwarded-for"), ",")
	return networkOf(strings.TrimSpace(all[strings.LastIndex(all, ",")+1:]))
}

// networkOf returns what one party is likely to have of addresses: one of IPv4, 64 bits of
// IPv6.
func networkOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "unknown" // a connection in memory
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	network, err := ip.Prefix(64)
	if err != nil {
		return "unknown"
	}
	return network.String()
}
