package main

import (
	"math"
	"slices"
)

// Summary describes a sample of measured values in one unit.
type Summary struct {
	N      int     `json:"n"`
	Mean   float64 `json:"mean"`
	Median float64 `json:"median"`
	Q1     float64 `json:"q1"`
	Q3     float64 `json:"q3"`
	P99    float64 `json:"p99"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// summarize summarises values, which must not be empty. It does not modify them.
func summarize(values []float64) Summary {
	sorted := slices.Sorted(slices.Values(values))
	sum := 0.0
	for _, v := range sorted {
		sum += v
	}
	return Summary{
		N:      len(sorted),
		Mean:   sum / float64(len(sorted)),
		Median: quantile(sorted, 0.5),
		Q1:     quantile(sorted, 0.25),
		Q3:     quantile(sorted, 0.75),
		P99:    nearestRank(sorted, 0.99),
		Min:    sorted[0],
		Max:    sorted[len(sorted)-1],
	}
}

// quantile interpolates between the two nearest values (type 7 of Hyndman and Fan,
// 1996: what R, NumPy and spreadsheets do).
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	lo := int(math.Floor(at))
	hi := min(lo+1, len(sorted)-1)
	return sorted[lo] + (at-float64(lo))*(sorted[hi]-sorted[lo])
}

// nearestRank returns a measured value: interpolation would flatter the tail of a small sample, for which this
// returns the largest value.
func nearestRank(sorted []float64, q float64) float64 {
	return sorted[max(int(math.Ceil(q*float64(len(sorted)))), 1)-1]
}

// Ratio compares two samples of equal length that were measured alternately.
type Ratio struct {
	OfMedians float64 `json:"ofMedians"`
	Pairwise  Summary `json:"pairwise"` // of each value to the one measured right before or after it
}

// ratio divides a by b, which must be of equal length, not empty, and positive.
func ratio(a, b []float64) Ratio {
	each := make([]float64, len(a))
	for i := range a {
		each[i] = a[i] / b[i]
	}
	return Ratio{OfMedians: summarize(a).Median / summarize(b).Median, Pairwise: summarize(each)}
}
