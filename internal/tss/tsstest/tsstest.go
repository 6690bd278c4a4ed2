// Package tsstest holds committed pre-params for tests, so that no test searches
// primes unless primes are what it tests. They are public, like everything in this
// repository, and therefore worthless as keys: no program of mpcd imports this package,
// which a test over the import graph keeps.
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

// preParams has one set a line, in hex. Made by:
//
//	go test ./internal/tss/tsstest -run TestWrite -write
//
//go:embed preparams.txt
var preParams string

// Source hands out the committed sets in turn, and starts again at the end. A wallet
// that wants fresh moduli for each of its sets gets them while it uses no more than
// there are.
type Source struct {
	sets []string
	next atomic.Uint64
}

// NewSource returns a source of its own.
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

// Claim implements session.PreParams. A service takes each set once, whatever the party and
// the wallet, so that it fails after the last one.
func (s *Source) Claim(ctx context.Context, _ tss.Party) (*tss.PreParams, error) {
	if s.next.Load() >= uint64(len(s.sets)) {
		return nil, errors.New("no more committed pre-params")
	}
	return s.PreParams(ctx)
}

// ClaimReady is Claim.
func (s *Source) ClaimReady(ctx context.Context, p tss.Party) (*tss.PreParams, error) {
	return s.Claim(ctx, p)
}

// Ready says that there is one.
func (s *Source) Ready(context.Context, tss.Party) (plenty bool, err error) { return false, nil }

// Pause does nothing: a Source makes nothing in the background.
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
