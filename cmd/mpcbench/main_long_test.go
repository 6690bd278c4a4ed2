//go:build long

package main

import (
	"bytes"
	"encoding/json"
	"image/png"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A quick run goes through the whole program with tiny counts: search, service, network of bare parties, callers,
// report, plot.
func TestLongQuickRun(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	var out, progress bytes.Buffer
	args := []string{"--quick", "--json", file("b.json"), "--markdown", file("b.md"), "--plot", file("b.png"),
		"--cpuprofile", file("b.prof")}
	require.NoError(t, run(t.Context(), args, &out, &progress), "%s", &progress)

	var r Report
	raw, err := os.ReadFile(file("b.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &r))
	require.True(t, r.Quick)
	require.Empty(t, r.Targets)
	for _, name := range []string{"prime", "eddsa", "filling"} {
		p := r.pair(name)
		require.NotNil(t, p, name)
		require.Len(t, p.Ours, quickPlan.samples, name)
		require.Len(t, p.Theirs, quickPlan.samples, name)
		for _, s := range append(p.Ours, p.Theirs...) {
			require.Positive(t, s.Wall, name)
			require.Positive(t, s.CPU, name)
		}
	}
	require.Nil(t, r.pair("warm"), "only what was measured is shown")
	require.Len(t, r.Primes.Primes, quickPlan.primes)
	require.Len(t, r.Levels, len(quickPlan.callers))
	for _, l := range r.Levels {
		require.Len(t, l.Latencies, l.Provisions)
		require.Len(t, l.Firsts, l.Provisions)
		require.Positive(t, l.FirstMessage.Min)
		require.Less(t, l.FirstMessage.Max, l.Latency.Max)
		require.Positive(t, l.PeakBytes)
	}
	require.Positive(t, r.Overhead.Together.Min)
	require.Less(t, r.Overhead.Together.Max, 1.0)
	for _, part := range parts {
		require.Positive(t, r.Overhead.Parts[part].Min, part)
	}
	require.Len(t, r.Bursts, 2)
	for _, c := range r.Bursts {
		require.Len(t, c.Latencies, c.Provisions)
		require.Positive(t, c.PeakBytes)
	}
	require.Greater(t, r.Wire.TCPSent.Median, r.Wire.Sent.Median)
	require.Greater(t, r.Wire.TCPGot.Median, r.Wire.Received.Median)
	require.Greater(t, r.Wire.Messages.Median, 2.0)

	text, err := os.ReadFile(file("b.md"))
	require.NoError(t, err)
	for _, s := range []string{out.String(), string(text)} {
		require.Contains(t, s, "these figures are meaningless")
		require.Contains(t, s, "warm provision, ED25519")
		require.NotContains(t, s, "SECP256K1")
		require.NotContains(t, s, "NaN")
	}
	f, err := os.Open(file("b.png"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	img, err := png.Decode(f)
	require.NoError(t, err)
	require.Greater(t, img.Bounds().Dx(), 600)
	require.Contains(t, progress.String(), "eddsa 2/2")
}

// Bare tss-lib must really reshare, or no figure here means anything. reshare itself checks the new key against the
// old one, which it must not change.
func TestLongBareECDSA(t *testing.T) {
	k, err := newBare(t.Context(), bothCurves)
	require.NoError(t, err)
	xi := new(big.Int).Set(k.ecdsa.saves[0].Xi)
	require.NoError(t, k.give(t.Context()))
	require.NoError(t, k.reshare(t.Context()))
	require.True(t, k.ecdsa.saves[0].Xi.Cmp(xi) == 0 && xi.Sign() > 0)
}
