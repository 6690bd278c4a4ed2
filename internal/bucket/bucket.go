// Package bucket keeps a token bucket for each key, such as a caller, in bounded memory.
//
// It decides nothing: whoever asks says what a token stands for, and what is answered where there
// is none. It knows no callers and no errors of theirs. Buckets are golang.org/x/time/rate's.
package bucket

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Set holds the buckets of its keys. Where there are too many, the one goes that was not asked
// about for the longest time: it is full again, or nearly so. Its methods may be called by any
// number of goroutines.
type Set[K comparable] struct {
	limit rate.Limit
	burst int
	most  int

	mu     sync.Mutex // guards what follows
	of     map[K]*list.Element
	recent *list.List // of *entry[K], the last used in front
}

type entry[K comparable] struct {
	key  K
	left *rate.Limiter
}

// New returns a set of at most so many buckets. Each begins with burst tokens, holds no more, and
// gets limit a second.
func New[K comparable](limit rate.Limit, burst, most int) *Set[K] {
	return &Set[K]{limit: limit, burst: burst, most: most, of: make(map[K]*list.Element), recent: list.New()}
}

// Take takes a token of the key's and returns 0, or takes none and returns how long it is until
// there is one.
func (s *Set[K]) Take(key K) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.bucket(key).Reserve()
	if wait = r.Delay(); wait > 0 {
		r.Cancel() // who waits as it is told finds it
	}
	return wait
}

// Left is Take without taking.
func (s *Set[K]) Left(key K) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.of[key]; ok {
		left := e.Value.(*entry[K]).left.Tokens() //nolint:errcheck // nothing else is put in
		wait = time.Duration((1 - left) / float64(s.limit) * float64(time.Second))
	}
	return max(wait, 0)
}

// Spend takes a token that need not be there yet.
func (s *Set[K]) Spend(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bucket(key).Reserve()
}

// bucket must be called with mu held.
func (s *Set[K]) bucket(key K) *rate.Limiter {
	if e, ok := s.of[key]; ok {
		s.recent.MoveToFront(e)
		return e.Value.(*entry[K]).left //nolint:errcheck // nothing else is put in
	}
	if s.recent.Len() >= s.most {
		oldest := s.recent.Back()
		delete(s.of, oldest.Value.(*entry[K]).key) //nolint:errcheck // nothing else is put in
		s.recent.Remove(oldest)
	}
	e := &entry[K]{key, rate.NewLimiter(s.limit, s.burst)}
	s.of[key] = s.recent.PushFront(e)
	return e.left
}
