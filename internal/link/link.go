// Package link numbers the parts that the two sides of a device-held run send each other, so that
// streams may break between them: each side keeps what the other has not acknowledged, and takes
// each part once, in order. The service and the SDK have an End each. What carries the parts, and
// when, is theirs.
package link

import (
	"errors"

	"github.com/mpcd/mpcd/internal/tss"
)

// Numbered is a part with its place among its sender's, from 1.
type Numbered struct {
	Sequence uint32
	Ack      uint32 // the last part of the other side that the sender has
	Part     tss.Part
}

// ErrFull is for a part too many: the other side has acknowledged none of as many as a run has.
var ErrFull = errors.New("the other side acknowledges nothing")

// End is one side's end of a link. Its zero value has sent and taken nothing. It is not safe for
// concurrent use: whoever has it guards it.
type End struct {
	kept  []tss.Part // sent after acked
	acked uint32     // the last of the parts sent that the other side has
	last  tss.Part   // of the parts sent, acknowledged or not
	taken uint32     // the last of the other side's parts that this one has
}

// Send numbers a part and keeps it.
func (e *End) Send(p tss.Part) error {
	if len(e.kept) == tss.MaxParts {
		return ErrFull
	}
	e.kept, e.last = append(e.kept, p), p
	return nil
}

// sent returns the sequence of the last part that was sent.
func (e *End) sent() uint32 { return e.acked + uint32(len(e.kept)) } //nolint:gosec // G115: at most tss.MaxParts

// After returns the parts behind a sequence that the other side has not acknowledged.
func (e *End) After(sequence uint32) (out []Numbered) {
	for i, p := range e.kept {
		if n := e.acked + uint32(i) + 1; n > sequence {
			out = append(out, Numbered{Sequence: n, Ack: e.taken, Part: p})
		}
	}
	return out
}

// Last returns the last part that was sent, whether it was acknowledged or not.
func (e *End) Last() *Numbered { return &Numbered{Sequence: e.sent(), Ack: e.taken, Part: e.last} }

// Acknowledge drops what the other side says that it has, and returns the last part that it has
// acknowledged so far. What it says of parts that were not sent is passed over.
func (e *End) Acknowledge(ack uint32) uint32 {
	if ack > e.acked && ack <= e.sent() {
		e.kept, e.acked = e.kept[ack-e.acked:], ack
	}
	return e.acked
}

// Taken returns the sequence of the last part that was taken; 0: none was.
func (e *End) Taken() uint32 { return e.taken }

// Take takes what the other side sent, as far as it goes on without a gap, and returns the last
// sequence that was taken so far: what came before is passed over. put says whether it has taken
// a part. A part that it has not taken comes again.
func (e *End) Take(parts []Numbered, put func(tss.Part) (bool, error)) (ack uint32, err error) {
	for _, p := range parts {
		e.Acknowledge(p.Ack)
		if p.Sequence != e.taken+1 { // it came before, or one before it did not
			continue
		}
		taken, err := put(p.Part)
		if !taken {
			return e.taken, err
		}
		e.taken++
	}
	return e.taken, nil
}
