package safeprime

import (
	"fmt"
	"io"
	"sync"
)

// The cut-offs of the health tests, for bytes of full entropy and a false positive rate of at most 2^-60 per test, so
// that a million tests stay within 2^-40.
const (
	// repetitionCutoff: 1 + ceil(60/8), NIST SP 800-90B section 4.4.1.
	repetitionCutoff = 9
	// proportionWindow and proportionCutoff: section 4.4.2. The cut-off is the smallest c for which a byte occurs c-1
	// times among the 511 that follow it with probability <= 2^-60.
	proportionWindow = 512
	proportionCutoff = 26
	// startupBytes are read, tested and discarded first: section 4.3, requirement 10.
	startupBytes = 1024
)

// source is the random source of one Find call, monitored by the health tests of NIST SP 800-90B section 4.4 and by a
// test for cycles.
type source struct {
	mu sync.Mutex // guards the fields below, and calls of r
	r  io.Reader

	err  error  // the first failure; it is permanent
	n    uint64 // bytes seen
	last byte
	run  int // how often last occurred in a row

	sample byte // what the proportion test counts in its current window
	count  int

	recent uint64 // the last eight bytes
	anchor uint64 // eight earlier ones
}

// newSource runs the start-up test.
func newSource(r io.Reader) (*source, error) {
	s := &source{r: r}
	var b [startupBytes]byte
	if err := s.fill(b[:]); err != nil {
		return nil, err
	}
	return s, nil
}

// fill fills b or returns an ErrRandomSource. A single Read must suffice: a short read is not to be expected of a
// source fit for keys, and retrying might never end.
func (s *source) fill(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	n, err := s.r.Read(b)
	switch {
	case err != nil:
		s.err = fmt.Errorf("%w: %w", ErrRandomSource, err)
	case n != len(b):
		s.err = fmt.Errorf("%w: short read, %d of %d bytes", ErrRandomSource, n, len(b))
	}
	for i := 0; i < len(b) && s.err == nil; i++ {
		s.err = s.observe(b[i])
	}
	if s.err != nil {
		clear(b)
	}
	return s.err
}

// observe runs the three continuous tests on one more byte.
func (s *source) observe(b byte) error {
	if s.n == 0 || b != s.last {
		s.last, s.run = b, 0
	}
	if s.run++; s.run >= repetitionCutoff {
		return fmt.Errorf("%w: repetition count test", ErrRandomSource)
	}

	if s.n%proportionWindow == 0 {
		s.sample, s.count = b, 0
	}
	if b == s.sample {
		s.count++
	}
	if s.count >= proportionCutoff {
		return fmt.Errorf("%w: adaptive proportion test", ErrRandomSource)
	}

	// Those two miss periods longer than some 20 bytes. This is Brent's cycle search: the anchor moves at powers of
	// two, so every cycle eventually returns to it. By chance eight bytes equal the anchor once in 2^64.
	s.n++
	s.recent = s.recent<<8 | uint64(b)
	if s.n > 8 && s.recent == s.anchor {
		return fmt.Errorf("%w: the bytes repeat", ErrRandomSource)
	}
	if s.n >= 8 && s.n&(s.n-1) == 0 {
		s.anchor = s.recent
	}
	return nil
}
