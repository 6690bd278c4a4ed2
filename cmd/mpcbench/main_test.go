package main

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A run of some sections keeps an earlier run's results of the others, and says when they were measured.
func TestOtherSectionsAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.json")
	m := thisMachine()
	long := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	old := &Report{Machine: m, Started: long, Begun: map[string]time.Time{},
		Pairs: []*Pair{{Name: "warm"}, {Name: "cold"}}, Primes: &Primes{Bits: 1}, Wire: &Wire{Curves: "old"}}
	require.NoError(t, old.writeJSON(path))
	r := &Report{Machine: m, Started: time.Now(), Begun: map[string]time.Time{"wire": time.Now(), "cold": time.Now()},
		Pairs: []*Pair{{Name: "cold", Title: "new"}}, Wire: &Wire{Curves: "new"}}
	require.NoError(t, r.keep(path))
	require.Len(t, r.Pairs, 2)
	require.Equal(t, "warm", r.Pairs[0].Name)
	require.Equal(t, "new", r.Pairs[1].Title)
	require.Equal(t, "new", r.Wire.Curves)
	require.Equal(t, 1, r.Primes.Bits)
	require.Contains(t, r.about(), "Of a run of 2026-01-02 03:04 UTC: prime, warm.")
	other := &Report{Started: time.Now(), Begun: map[string]time.Time{}}
	require.NoError(t, other.keep(path))
	require.Empty(t, other.Pairs, "another machine's figures")
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{{"--only", "warm,nothing"}, {"--no-such-flag"}, {"stray"}} {
		var out, errs bytes.Buffer
		require.ErrorAs(t, run(t.Context(), args, &out, &errs), new(usageError))
		require.NotEmpty(t, errs.String())
		require.Empty(t, out.String())
	}
}

func TestChosenSectionsKeepTheirOrder(t *testing.T) {
	got, err := chosen("wire,prime", true)
	require.NoError(t, err)
	require.Equal(t, "prime", got[0].name)
	require.Equal(t, "wire", got[1].name)
	all, err := chosen("", false)
	require.NoError(t, err)
	require.Len(t, all, len(sections))
}
