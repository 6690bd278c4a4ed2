// Package bucket rate-limits by key, such as a caller, with one token bucket per key and bounded memory.
//
// It only counts: its users decide what a token stands for and what to answer when none is left. The buckets are
// those of golang.org/x/time/rate.
package bucket

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Set holds one bucket per key. When there are too many, the least recently used one is dropped: it is full again, or
// nearly so. Its methods are safe for concurrent use.
type Set[K comparable] struct {
	limit rate.Limit
	burst int
	most  int

	mu     sync.Mutex // guards the fields below
	of     map[K]*list.Element
	recent *list.List // of *entry[K], most recently used first
}

type entry[K comparable] struct {
	key  K
	left *rate.Limiter
}

// New returns a set of at most that many buckets. Each starts with burst tokens, holds at most burst, and gains limit
// tokens a second.
func New[K comparable](limit rate.Limit, burst, most int) *Set[K] {
	return &Set[K]{limit: limit, burst: burst, most: most, of: make(map[K]*list.Element), recent: list.New()}
}

// Take takes one of key's tokens and returns 0. If there is none it takes nothing, and returns how long until there
// is one.
func (s *Set[K]) Take(key K) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.bucket(key).Reserve()
	if wait = r.Delay(); wait > 0 {
		r.Cancel() // so that a caller that waits this long finds the token
	}
	return wait
}

// Left is Take without taking a token.
func (s *Set[K]) Left(key K) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.of[key]; ok {
		left := e.Value.(*entry[K]).left.Tokens() //nolint:errcheck // holds only *entry[K]
		wait = time.Duration((1 - left) / float64(s.limit) * float64(time.Second))
	}
	return max(wait, 0)
}

// Spend takes a token even if there is none: the bucket then owes it.
func (s *Set[K]) Spend(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bucket(key).Reserve()
}

// bucket must be called with mu held.
func (s *Set[K]) bucket(key K) *rate.Limiter {
	if e, ok := s.of[key]; ok {
		s.recent.MoveToFront(e)
		return e.Value.(*entry[K]).left //nolint:errcheck // holds only *entry[K]
	}
	if s.recent.Len() >= s.most {
		oldest := s.recent.Back()
		delete(s.of, oldest.Value.(*entry[K]).key) //nolint:errcheck // holds only *entry[K]
		s.recent.Remove(oldest)
	}
	e := &entry[K]{key, rate.NewLimiter(s.limit, s.burst)}
	s.of[key] = s.recent.PushFront(e)
	return e.left
}
