package session

import "slices"

// Percent of a whole run at which its steps begin. Generating takes all but a few
// milliseconds; within it a curve has its share by the time it takes.
const (
	percentReading    = 1
	percentParsing    = 2
	percentGenerating = 4
	percentStoring    = 96
)

// span is the part of the generating step that belongs to one curve.
type span struct {
	curve  Curve
	lo, hi uint32 // percent
}

// weight is a curve's part of a run, measured: an ECDSA resharing takes about fifty
// times as long as an EdDSA one, which still wants to be seen moving.
func weight(c Curve) uint32 {
	if c == Secp256k1 {
		return 9
	}
	return 1
}

// newSpan returns the part of c among curves, in their order.
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

// progress reports round k of n; n = 0 means that pre-params are being made.
func (s span) progress(k, n int) Progress {
	p := Progress{Status: StatusGeneratingShare, Curve: s.curve, Percent: s.lo}
	if n > 0 {
		round, rounds := uint32(k), uint32(n) //nolint:gosec // G115: rounds are 1 to 10
		p.Round, p.Rounds = round, rounds
		p.Percent += (s.hi - s.lo) * round / (rounds + 1)
	}
	return p
}
