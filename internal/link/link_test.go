package link

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

func part(n byte) tss.Part { return tss.Part{MAC: []byte{n}} }

// sent is an end that has sent n parts.
func sent(t *testing.T, n int) *End {
	t.Helper()
	e := new(End)
	for i := range n {
		require.NoError(t, e.Send(part(byte(i+1))))
	}
	return e
}

// sequences returns the sequence numbers of parts, each of which must be as part made it.
func sequences(t *testing.T, parts []Numbered) (out []uint32) {
	t.Helper()
	for _, p := range parts {
		require.Equal(t, part(byte(p.Sequence)), p.Part)
		out = append(out, p.Sequence)
	}
	return out
}

// Parts are kept until they are acknowledged. An older acknowledgement, or one of parts that were not sent, drops
// nothing.
func TestKeptUntilAcknowledged(t *testing.T) {
	t.Parallel()
	e := sent(t, 3)
	require.Equal(t, []uint32{1, 2, 3}, sequences(t, e.After(0)))
	require.Equal(t, []uint32{3}, sequences(t, e.After(2)))
	require.Empty(t, e.After(3))
	require.Empty(t, e.After(1<<32-1))
	for _, beyond := range []uint32{0, 4, 1<<32 - 1} {
		require.Zero(t, e.Acknowledge(beyond))
		require.Equal(t, []uint32{1, 2, 3}, sequences(t, e.After(0)))
	}
	require.Equal(t, uint32(2), e.Acknowledge(2))
	for _, nothing := range []uint32{0, 1, 2, 4} {
		require.Equal(t, uint32(2), e.Acknowledge(nothing))
		require.Equal(t, []uint32{3}, sequences(t, e.After(0)))
	}
	require.NoError(t, e.Send(part(4)))
	require.Equal(t, []uint32{3, 4}, sequences(t, e.After(1)))
	require.Equal(t, uint32(4), e.Acknowledge(4))
	require.Empty(t, e.After(0))
	require.Equal(t, &Numbered{Sequence: 4, Part: part(4)}, e.Last(), "it is known although it is acknowledged")
}

// Only as many unacknowledged parts are kept as a run has.
func TestKeepsAtMostMaxParts(t *testing.T) {
	t.Parallel()
	e := sent(t, tss.MaxParts)
	require.ErrorIs(t, e.Send(part(0)), ErrFull)
	require.Len(t, e.After(0), tss.MaxParts)
	require.Equal(t, uint32(tss.MaxParts), e.Last().Sequence)
	require.Equal(t, uint32(1), e.Acknowledge(1))
	require.NoError(t, e.Send(part(tss.MaxParts+1)))
	require.Equal(t, uint32(tss.MaxParts+1), e.Last().Sequence)
}

// Each part is accepted once and in order; repeats, and parts after a gap, are skipped.
func TestAcceptedOnceInOrder(t *testing.T) {
	t.Parallel()
	e := new(End)
	var got []tss.Part
	take := func(sequences ...uint32) uint32 {
		var parts []Numbered
		for _, n := range sequences {
			parts = append(parts, Numbered{Sequence: n, Part: part(byte(n))})
		}
		ack, err := e.Take(parts, func(p tss.Part) (bool, error) {
			got = append(got, p)
			return true, nil
		})
		require.NoError(t, err)
		require.Equal(t, e.Taken(), ack)
		return ack
	}
	require.Zero(t, take())
	require.Zero(t, take(0, 2, 3, 1<<32-1), "a gap")
	require.Empty(t, got)
	require.Equal(t, uint32(2), take(1, 2))
	require.Equal(t, uint32(2), take(1, 2), "again")
	require.Equal(t, uint32(3), take(2, 3, 3, 5), "again, and a gap")
	require.Equal(t, uint32(5), take(4, 5))
	require.Equal(t, []tss.Part{part(1), part(2), part(3), part(4), part(5)}, got)
}

// A part that is not accepted is not acknowledged, and neither are later ones; it is accepted when it is sent again.
func TestNotAccepted(t *testing.T) {
	t.Parallel()
	e := new(End)
	parts := []Numbered{{Sequence: 1, Part: part(1)}, {Sequence: 2, Part: part(2)}, {Sequence: 3, Part: part(3)}}
	broken := errors.New("no")
	for _, why := range []error{nil, broken} {
		asked := 0
		ack, err := e.Take(parts, func(p tss.Part) (bool, error) {
			asked++
			return p.MAC[0] == 1, why
		})
		require.Equal(t, why, err)
		require.Equal(t, uint32(1), ack)
		require.Equal(t, uint32(1), e.Taken())
		require.LessOrEqual(t, asked, 2)
	}
	ack, err := e.Take(parts, func(tss.Part) (bool, error) { return true, nil })
	require.NoError(t, err)
	require.Equal(t, uint32(3), ack)
}

// Parts carry acknowledgements, repeated ones too.
func TestAcknowledgementsTravelWithParts(t *testing.T) {
	t.Parallel()
	a, b := sent(t, 3), sent(t, 1)
	all := func(tss.Part) (bool, error) { return true, nil }
	ack, err := b.Take(a.After(0)[:2], all)
	require.NoError(t, err)
	require.Equal(t, uint32(2), ack)
	require.Equal(t, []Numbered{{Sequence: 1, Ack: 2, Part: part(1)}}, b.After(0))
	require.Equal(t, uint32(2), b.Last().Ack)
	_, err = a.Take(b.After(0), all)
	require.NoError(t, err)
	require.Equal(t, []uint32{3}, sequences(t, a.After(0)))
	_, err = b.Take(a.After(0), all)
	require.NoError(t, err)
	again := []Numbered{{Sequence: 1, Ack: 3, Part: part(1)}}
	_, err = a.Take(again, func(tss.Part) (bool, error) { return false, errors.New("it came before") })
	require.NoError(t, err)
	require.Empty(t, a.After(0))
}
