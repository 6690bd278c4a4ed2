// Package tsstest has committed pre-params for tests, so that tests need not search for primes, and runs the two sides
// of a single protocol. The pre-params are public, like everything in this repository, so their keys protect nothing:
// no program of mpcd may import this package, which a test of the import graph checks.
package tsstest

import (
	"context"
	_ "embed"
	"encoding/hex"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// preParams has one encoded set per line, in hex. It was made by:
//
//	go test ./internal/tss/tsstest -run TestWrite -write
//
//go:embed preparams.txt
var preParams string

// Source returns the committed sets in turn, and starts again after the last one. A test that needs distinct moduli
// must use no more than Len sets of one Source. It is safe for concurrent use.
type Source struct {
	sets []string
	next atomic.Uint64
}

// NewSource returns a Source that starts with the first set.
func NewSource() *Source { return &Source{sets: strings.Fields(preParams)} }

// Len returns the number of distinct sets.
func (s *Source) Len() int { return len(s.sets) }

// PreParams returns the next set.
func (s *Source) PreParams(context.Context) (*tss.PreParams, error) {
	b, err := hex.DecodeString(s.sets[(s.next.Add(1)-1)%uint64(len(s.sets))])
	if err != nil {
		return nil, err
	}
	return tss.ParsePreParams(secret.New(b))
}

// Claim implements session.PreParams. Since a service never uses a set twice, it fails after the last one.
func (s *Source) Claim(ctx context.Context, _ tss.Party) (*tss.PreParams, error) {
	if s.next.Load() >= uint64(len(s.sets)) {
		return nil, errors.New("no more committed pre-params")
	}
	return s.PreParams(ctx)
}

// ClaimReady implements session.PreParams as Claim does.
func (s *Source) ClaimReady(ctx context.Context, p tss.Party) (*tss.PreParams, error) {
	return s.Claim(ctx, p)
}

// Ready implements session.PreParams: a set is always ready.
func (s *Source) Ready(context.Context, tss.Party) (plenty bool, err error) { return false, nil }

// Pause does nothing: a Source does no work in the background.
func (s *Source) Pause() {}

// Resume does nothing.
func (s *Source) Resume() {}

// Pair returns the next two sets, for the two sides of a hosted run.
func (s *Source) Pair(t testing.TB) [2]*tss.PreParams {
	t.Helper()
	var pair [2]*tss.PreParams
	for i := range pair {
		pp, err := s.PreParams(t.Context())
		require.NoError(t, err)
		pair[i] = pp
	}
	return pair
}
