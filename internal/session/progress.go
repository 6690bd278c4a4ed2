package session

import "slices"

// The percentage at which each step of a run begins. Generating takes all but a few milliseconds.
const (
	percentReading    = 1
	percentParsing    = 2
	percentGenerating = 4
	percentStoring    = 96
)

// span is the range of the generating step that belongs to one curve.
type span struct {
	curve  Curve
	lo, hi uint32 // percent
}

// weight returns a curve's relative part of the generating step. Measured, an ECDSA resharing takes fifty times as
// long as an EdDSA one; 9 to 1 keeps the progress of the latter visible.
func weight(c Curve) uint32 {
	if c == Secp256k1 {
		return 9
	}
	return 1
}

// newSpan returns the span of c among curves.
func newSpan(c Curve, curves []Curve) span {
	var before, total uint32
	for _, x := range curves {
		if slices.Index(curves, x) < slices.Index(curves, c) {
			before += weight(x)
		}
		total += weight(x)
	}
	const width = percentStoring - percentGenerating
	return span{c, percentGenerating + width*before/total, percentGenerating + width*(before+weight(c))/total}
}

// progress returns the progress of round k of n; n = 0: pre-params are being made.
func (s span) progress(k, n int) Progress {
	p := Progress{Status: StatusGeneratingShare, Curve: s.curve, Percent: s.lo}
	if n > 0 {
		round, rounds := uint32(k), uint32(n) //nolint:gosec // G115: rounds are 1 to 10
		p.Round, p.Rounds = round, rounds
		p.Percent += (s.hi - s.lo) * round / (rounds + 1)
	}
	return p
}
