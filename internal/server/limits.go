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

// Limits bound the rate of calls: per caller and method, and, for calls that are not authenticated, per network. The
// zero value sets no limits.
type Limits struct {
	Rate  int // sustained calls per second; 0: no limit
	Burst int // calls at once
}

// limitedError is returned for calls that exceed a rate.
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

// refusedCalls is what a limiter counts per network rather than per caller.
const refusedCalls = "refused calls"

// maxBuckets bounds the memory of a limiter: some 4 MiB.
const maxBuckets = 1 << 14

// limiter has a token bucket per pair of a method and a caller.
type limiter struct {
	buckets *bucket.Set[bucketKey] // nil: no limit
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

// peerAddress returns the address that a gRPC call comes from.
func peerAddress(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return networkOf(p.Addr.String())
	}
	return ""
}

// forwardedAddress returns the address that a gateway call comes from: the gateway appends the peer's address to the
// list, after anything that the caller may have sent.
func forwardedAddress(ctx context.Context) string {
	all := strings.Join(metadata.ValueFromIncomingContext(ctx, "x-forwarded-for"), ",")
	return networkOf(strings.TrimSpace(all[strings.LastIndex(all, ",")+1:]))
}

// networkOf returns the range of addresses that one party is likely to have: a single IPv4 address, or 64 bits of
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
