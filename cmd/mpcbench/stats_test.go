package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummarize(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	s := summarize(values)
	require.Equal(t, Summary{N: 4, Mean: 2.5, Median: 2.5, Q1: 1.75, Q3: 3.25, P99: 4, Min: 1, Max: 4}, s)
	require.Equal(t, []float64{4, 1, 3, 2}, values, "the values keep their order: they belong to pairs")

	require.Equal(t, Summary{N: 1, Mean: 7, Median: 7, Q1: 7, Q3: 7, P99: 7, Min: 7, Max: 7}, summarize([]float64{7}))
	require.InDelta(t, 3, summarize([]float64{5, 1, 3}).Median, 0)
}

// Of fewer than a hundred values the 99th percentile is the largest; of two hundred it is
// the third largest.
func TestP99IsAMeasuredValue(t *testing.T) {
	var values []float64
	for i := range 200 {
		values = append(values, float64(i+1))
	}
	require.InDelta(t, 198, summarize(values).P99, 0)
	require.InDelta(t, 99, summarize(values[:99]).P99, 0)
}

func TestRatio(t *testing.T) {
	r := ratio([]float64{1, 2, 9}, []float64{2, 2, 3})
	require.InDelta(t, 1, r.OfMedians, 0) // 2 / 2
	require.Equal(t, 3, r.Pairwise.N)
	require.InDelta(t, 1, r.Pairwise.Median, 0) // of 0.5, 1, 3
	require.InDelta(t, 0.5, r.Pairwise.Min, 0)
	require.InDelta(t, 3, r.Pairwise.Max, 0)
}

func TestCompareKeepsDimensionsApart(t *testing.T) {
	p := &Pair{Ours: []Sample{{Wall: 1, CPU: 10}, {Wall: 3, CPU: 30}},
		Theirs: []Sample{{Wall: 2, CPU: 5}, {Wall: 2, CPU: 5}}}
	p.compare()
	require.InDelta(t, 1, p.Wall.Ratio.OfMedians, 0)
	require.InDelta(t, 4, p.CPU.Ratio.OfMedians, 0)
	require.InDelta(t, 20, p.CPU.Ours.Median, 0)
	require.InDelta(t, 1.5, p.Wall.Ratio.Pairwise.Max, 0)
}

func TestNumber(t *testing.T) {
	for want, v := range map[string]float64{"0": 0, "0.0833": 1.0 / 12, "0.000350": 0.00035, "1.10": 1.1, "36.7": 36.66,
		"1234": 1234.4, "0.250": 0.25} {
		require.Equal(t, want, number(v))
	}
}

func TestTargetsAreComputed(t *testing.T) {
	warm := &Pair{Name: "warm", Ours: []Sample{{Wall: 1.2, CPU: 1}}, Theirs: []Sample{{Wall: 1, CPU: 1}}}
	warm.compare()
	r := &Report{Pairs: []*Pair{warm}, Primes: &Primes{Ratio: 700}}
	r.judge()
	require.Len(t, r.Targets, len(bounds))
	verdicts := map[string]string{}
	for _, row := range r.targetTable().rows {
		verdicts[row[0]] = row[2] + " " + row[3]
	}
	require.Equal(t, "1.20 missed", verdicts["warm provision, both curves, wall / bare tss-lib"])
	require.Equal(t, "700 met", verdicts["CPU of one 1024-bit safe prime / 1024-bit exponentiations, means"])
	require.Equal(t, "- not measured in this run", verdicts["peak memory at concurrency 16"])

	r.Quick = true
	r.judge()
	require.Empty(t, r.Targets, "figures of a quick run are not checked against targets")
}
