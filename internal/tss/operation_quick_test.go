package tss_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// Progress is told where somebody looks, and both sides know the share that the device keeps.
func TestJointTellsItsRounds(t *testing.T) {
	t.Parallel()
	d := newDevice("CREATE", nil, tss.Ed25519)
	var told atomic.Int32
	d.joints[tss.Client].Progress = func(c tss.Curve, k, n int) {
		if c == tss.Ed25519 && k > 0 && k <= n {
			told.Add(1)
		}
	}
	out, errs := d.run(t.Context())
	require.NoError(t, errors.Join(errs[:]...))
	require.Positive(t, told.Load())
	client := out[tss.Client]
	require.Positive(t, client.Encoded.Len(), "the device has its share to keep")
	require.Equal(t, sha256.Sum256(client.Encoded.Reveal()), client.ShareHash)
	require.Equal(t, client.ShareHash, out[tss.Server].ShareHash)
}

// A set that cannot be encoded is none, on both sides, and nobody is to blame.
func TestJointOfNoPurpose(t *testing.T) {
	t.Parallel()
	d := newDevice("CREATE", nil, tss.Ed25519)
	for _, j := range d.joints {
		j.Purpose = 0
	}
	out, errs := d.run(t.Context())
	require.Equal(t, [2]*tss.Output{}, out)
	require.ErrorIs(t, errors.Join(errs[:]...), tss.ErrRecordMalformed)
	require.NotErrorAs(t, errors.Join(errs[:]...), new(*tss.ProtocolError))
}

// script is a Link that hands over what a test says, and takes everything.
type script struct {
	parts []tss.Part
	err   error // behind the parts; nil: nothing comes any more
}

func (s *script) Send(context.Context, tss.Part) error { return nil }

func (s *script) Recv(ctx context.Context) (tss.Part, error) {
	if len(s.parts) > 0 {
		p := s.parts[0]
		s.parts = s.parts[1:]
		return p, nil
	}
	if s.err != nil {
		return tss.Part{}, s.err
	}
	<-ctx.Done()
	return tss.Part{}, context.Cause(ctx)
}

// A side whose other side says what it may not, or whose link breaks, ends at once and says
// which: the other one is to blame for what it said, and nobody for a link.
func TestJointEndsWithItsFirstError(t *testing.T) {
	t.Parallel()
	run := func(s *script) error {
		j := newDevice("CREATE", nil, tss.Ed25519).joints[tss.Server]
		out, err := j.Run(t.Context(), s)
		require.Nil(t, out)
		return err
	}
	require.ErrorIs(t, run(&script{err: io.ErrUnexpectedEOF}), io.ErrUnexpectedEOF)
	for name, parts := range map[string][]tss.Part{
		"a word first":     {{MAC: []byte{1}}},
		"a hello of none":  {{Hello: &tss.Hello{}}},
		"two hellos":       {{Hello: &tss.Hello{}}, {Hello: &tss.Hello{}}},
		"an end and hello": {{End: &tss.End{}}, {Hello: &tss.Hello{}}},
	} {
		pe := new(tss.ProtocolError)
		require.ErrorAs(t, run(&script{parts: parts}), &pe, name)
		require.Equal(t, tss.Client, pe.Culprit, name)
	}
}
