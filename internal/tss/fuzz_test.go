package tss

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
)

// Fuzz targets for the decoders: they never panic, and what they accept encodes to the same bytes again, so that a
// variant encoding cannot carry hidden data.

func FuzzParseShare(f *testing.F) {
	s := Vector(f, Signing)
	for _, b := range s.Bytes {
		f.Add(b)
	}
	f.Add(s.Encoded)
	one, err := s.Shares[Client].Only(Ed25519)
	require.NoError(f, err)
	b, err := one.Encode()
	require.NoError(f, err)
	f.Add(b.Reveal())
	f.Fuzz(func(t *testing.T, b []byte) {
		share, err := ParseShare(b)
		if err != nil {
			require.ErrorIs(t, err, ErrShareMalformed)
			require.Nil(t, share)
			return
		}
		again, err := share.Encode()
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, again.Reveal()))
		// It passes the check only if it is a share of this set.
		if err := s.Record.Check(share, share.Party, s.Encoded); err == nil {
			require.True(t, bytes.Equal(b, s.Bytes[share.Party]) || len(share.Keys) == 1)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	for _, p := range []Purpose{Signing, Backup} {
		s := Vector(f, p)
		f.Add(s.Encoded)
		for i := range s.Record.Keys {
			one := Record{SetID: s.Record.SetID, Keys: s.Record.Keys[i : i+1]}
			b, err := one.Encode()
			require.NoError(f, err)
			f.Add(b)
		}
	}
	f.Add(Vector(f, Signing).Bytes[0])
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := ParseRecord(b)
		if err != nil {
			require.ErrorIs(t, err, ErrRecordMalformed)
			require.Nil(t, rec)
			return
		}
		again, err := rec.Encode()
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, again))
	})
}

func FuzzParsePreParams(f *testing.F) {
	good := preParamsBytes(f)
	f.Add(good)
	f.Add(good[:len(good)/2])
	for _, i := range []int{40, 200, 300, 500, 700, 1000} { // in each kind of field
		b := bytes.Clone(good)
		b[i] ^= 1
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		pp, err := ParsePreParams(secret.New(bytes.Clone(b)))
		if err != nil {
			require.ErrorIs(t, err, ErrPreParams)
			require.Nil(t, pp)
			return
		}
		again, err := pp.Encode()
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, again.Reveal()))
	})
}
