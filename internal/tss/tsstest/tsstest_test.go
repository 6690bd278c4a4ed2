package tsstest_test

import (
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

var write = flag.Bool("write", false, "make new pre-params and write them to preparams.txt")

// sets is the maximum number of sets that a service and its devices need in one test. With one database, each is
// claimed only once.
const sets = 32

func TestWrite(t *testing.T) {
	if !*write {
		require.Equal(t, sets, tsstest.NewSource().Len())
		return
	}
	var lines strings.Builder
	for range sets {
		pp, err := tss.GeneratePreParams(t.Context(), 0)
		require.NoError(t, err)
		b, err := pp.Encode()
		require.NoError(t, err)
		lines.WriteString(hex.EncodeToString(b.Reveal()) + "\n")
	}
	require.NoError(t, os.WriteFile("preparams.txt", []byte(lines.String()), 0o600))
}

func TestSetsAreDistinctAndValid(t *testing.T) {
	src := tsstest.NewSource()
	seen := map[string]bool{}
	for range src.Len() {
		pp, err := src.PreParams(t.Context())
		require.NoError(t, err)
		n, nTilde := pp.Moduli()
		require.False(t, seen[n.String()] || seen[nTilde.String()])
		seen[n.String()], seen[nTilde.String()] = true, true
	}
}
