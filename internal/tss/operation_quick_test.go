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

// A side reports its progress, and both sides learn the hash of the client's encoded share.
func TestOperationReportsProgress(t *testing.T) {
	t.Parallel()
	d := newDevice("CREATE", nil, tss.Ed25519)
	var calls atomic.Int32
	d.operations[tss.Client].Progress = func(c tss.Curve, k, n int) {
		if c == tss.Ed25519 && k > 0 && k <= n {
			calls.Add(1)
		}
	}
	out, errs := d.run(t.Context())
	require.NoError(t, errors.Join(errs[:]...))
	require.Positive(t, calls.Load())
	client := out[tss.Client]
	require.Positive(t, client.Encoded.Len(), "the client's encoded share")
	require.Equal(t, sha256.Sum256(client.Encoded.Reveal()), client.ShareHash)
	require.Equal(t, client.ShareHash, out[tss.Server].ShareHash)
}

// If the new record cannot be encoded, both sides fail and blame nobody.
func TestOperationWithoutPurpose(t *testing.T) {
	t.Parallel()
	d := newDevice("CREATE", nil, tss.Ed25519)
	for _, j := range d.operations {
		j.Purpose = 0
	}
	out, errs := d.run(t.Context())
	require.Equal(t, [2]*tss.Output{}, out)
	require.ErrorIs(t, errors.Join(errs[:]...), tss.ErrRecordMalformed)
	require.NotErrorAs(t, errors.Join(errs[:]...), new(*tss.ProtocolError))
}

// script is a Link that returns given parts, and discards what is sent.
type script struct {
	parts []tss.Part
	err   error // returned after the parts; nil: Recv waits for ctx
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

// A side ends at the first wrong part, for which it blames the other side, or when its link breaks, for which it blames
// nobody.
func TestOperationEndsWithTheFirstError(t *testing.T) {
	t.Parallel()
	run := func(s *script) error {
		j := newDevice("CREATE", nil, tss.Ed25519).operations[tss.Server]
		out, err := j.Run(t.Context(), s)
		require.Nil(t, out)
		return err
	}
	require.ErrorIs(t, run(&script{err: io.ErrUnexpectedEOF}), io.ErrUnexpectedEOF)
	for name, parts := range map[string][]tss.Part{
		"a MAC first":      {{MAC: []byte{1}}},
		"an empty hello":   {{Hello: &tss.Hello{}}},
		"two hellos":       {{Hello: &tss.Hello{}}, {Hello: &tss.Hello{}}},
		"an end and hello": {{End: &tss.End{}}, {Hello: &tss.Hello{}}},
	} {
		pe := new(tss.ProtocolError)
		require.ErrorAs(t, run(&script{parts: parts}), &pe, name)
		require.Equal(t, tss.Client, pe.Culprit, name)
	}
}
