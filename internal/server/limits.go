package server

import (
	"container/list"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

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

// refusedCalls are what a limiter counts by network and not by caller.
const refusedCalls = "refused calls"

// maxBuckets bounds the memory of a limiter: some 4 MiB.
const maxBuckets = 1 << 14

// limiter holds a token bucket for each pair that it was asked about. Where there are too
// many, the one goes that was not asked about for the longest time: it is full again, or
// nearly so.
type limiter struct {
	limits Limits

	mu      sync.Mutex // guards what follows
	buckets map[bucketKey]*list.Element
	recent  *list.List // of *bucket, the last used in front
}

type bucketKey struct{ what, who string }

type bucket struct {
	key  bucketKey
	left *rate.Limiter
}

func newLimiter(l Limits) *limiter {
	return &limiter{limits: l, buckets: make(map[bucketKey]*list.Element), recent: list.New()}
}

// take takes one token, or returns a limitedError.
func (l *limiter) take(what, who string) error {
	if l.limits.Rate <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.bucket(bucketKey{what, who}).Reserve()
	if d := r.Delay(); d > 0 {
		r.Cancel() // who waits as it is told is let through then
		return &limitedError{who: who, what: what, retryAfter: d}
	}
	return nil
}

// bucket must be called with mu held.
func (l *limiter) bucket(key bucketKey) *rate.Limiter {
	if e, ok := l.buckets[key]; ok {
		l.recent.MoveToFront(e)
		return e.Value.(*bucket).left //nolint:errcheck // nothing else is put in
	}
	if l.recent.Len() >= maxBuckets {
		oldest := l.recent.Back()
		delete(l.buckets, oldest.Value.(*bucket).key) //nolint:errcheck // nothing else is put in
		l.recent.Remove(oldest)
	}
	b := &bucket{key, rate.NewLimiter(rate.Limit(l.limits.Rate), max(1, l.limits.Burst))}
	l.buckets[key] = l.recent.PushFront(b)
	return b.left
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
