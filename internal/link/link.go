// Package link numbers and acknowledges the parts that the two sides of a device-held run send each other, so that a
// run survives a broken stream: each side keeps its parts until the other has acknowledged them, and accepts each part
// once, in order. The service and the SDK have an End each, and transport the parts themselves.
package link

import (
	"errors"

	"github.com/mpcd/mpcd/internal/tss"
)

// Numbered is a part with its sequence number, which starts at 1 for each sender.
type Numbered struct {
	Sequence uint32
	Ack      uint32 // the last part of the other side that the sender has received
	Part     tss.Part
}

// ErrFull is returned by Send if the other side has not acknowledged as many parts as a run has at most.
var ErrFull = errors.New("the other side does not acknowledge parts")

// End is one side's end of a link. Its zero value has sent and received nothing. It is not safe for concurrent use.
type End struct {
	kept  []tss.Part // the parts sent after acked
	acked uint32     // the last sent part that the other side has acknowledged
	last  tss.Part   // the last part sent, acknowledged or not
	taken uint32     // the last of the other side's parts that was accepted
}

// Send numbers a part and keeps it until it is acknowledged. It returns ErrFull if too many parts are not.
func (e *End) Send(p tss.Part) error {
	if len(e.kept) == tss.MaxParts {
		return ErrFull
	}
	e.kept, e.last = append(e.kept, p), p
	return nil
}

// sent returns the sequence number of the last part sent.
func (e *End) sent() uint32 { return e.acked + uint32(len(e.kept)) } //nolint:gosec // G115: at most tss.MaxParts

// After returns the parts after a sequence number that the other side has not acknowledged.
func (e *End) After(sequence uint32) (out []Numbered) {
	for i, p := range e.kept {
		if n := e.acked + uint32(i) + 1; n > sequence {
			out = append(out, Numbered{Sequence: n, Ack: e.taken, Part: p})
		}
	}
	return out
}

// Last returns the last part sent, acknowledged or not.
func (e *End) Last() *Numbered { return &Numbered{Sequence: e.sent(), Ack: e.taken, Part: e.last} }

// Acknowledge drops the parts that the other side has received, and returns the last one that it has acknowledged so
// far. It ignores acknowledgements of parts that were not sent.
func (e *End) Acknowledge(ack uint32) uint32 {
	if ack > e.acked && ack <= e.sent() {
		e.kept, e.acked = e.kept[ack-e.acked:], ack
	}
	return e.acked
}

// Taken returns the sequence number of the last part accepted; 0: none.
func (e *End) Taken() uint32 { return e.taken }

// Take passes new parts of the other side to put, in order and up to the first gap, and returns the sequence number of
// the last part accepted so far. It skips parts that were accepted before. put returns whether it accepted the part;
// one that it did not must be sent again.
func (e *End) Take(parts []Numbered, put func(tss.Part) (bool, error)) (ack uint32, err error) {
	for _, p := range parts {
		e.Acknowledge(p.Ack)
		if p.Sequence != e.taken+1 { // a repeat, or after a gap
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
