package tss

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireStrict checks that a decoder rejects, with the given sentinel, variant encodings of the value that b encodes:
// a map of fewer than 22 pairs, of which the first has the kind (key 0) and the second the version (key 1).
func requireStrict(t *testing.T, b []byte, limit int, want error, decode func([]byte) error) {
	t.Helper()
	require.NoError(t, decode(bytes.Clone(b)), "the positive control")
	require.EqualValues(t, 0xa0, b[0]&0xe0)
	require.Equal(t, []byte{0x00, 0x60}, []byte{b[1], b[2] & 0xe0})
	kindEnd := 3 + int(b[2]&0x1f)
	kind, version, rest := b[1:kindEnd], b[kindEnd:kindEnd+2], b[kindEnd+2:]
	require.Equal(t, []byte{0x01, formatVersion}, version)
	third := rest[:2+1+16] // key 2: a byte string, of which 16 bytes are enough
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	pairs := func(n int) []byte { return []byte{b[0] + byte(n)} }
	str := func(s string) []byte { return append([]byte{0x60 + byte(len(s))}, s...) }
	for name, bad := range map[string][]byte{
		"nothing":              {},
		"null":                 {0xf6},
		"undefined":            {0xf7},
		"an integer":           {0x01},
		"an empty map":         {0xa0},
		"an array":             {0x80},
		"a string":             str("mpcd share"),
		"trailing byte":        join(b, []byte{0x00}),
		"twice":                join(b, b),
		"indefinite map":       join([]byte{0xbf}, b[1:], []byte{0xff}),
		"long map head":        join([]byte{0xb8, b[0] & 0x1f}, b[1:]),
		"a duplicate key":      join(pairs(1), b[1:], version),
		"a duplicate kind":     join(pairs(1), kind, b[1:]),
		"an unknown key":       join(pairs(1), b[1:], []byte{0x14, 0x00}),
		"an unknown low key":   join(pairs(1), []byte{0x20, 0x00}, b[1:]),
		"an unknown text key":  join(pairs(1), b[1:], str("x"), []byte{0x00}),
		"a missing kind":       join(pairs(-1), version, rest),
		"a missing version":    join(pairs(-1), kind, rest),
		"out of order":         join(pairs(0), version, kind, rest),
		"a long key":           join(pairs(0), []byte{0x18, 0x00}, kind[1:], version, rest),
		"a long version":       join(pairs(0), kind, []byte{0x01, 0x18, 0x01}, rest),
		"a longer version":     join(pairs(0), kind, []byte{0x01, 0x1b, 0, 0, 0, 0, 0, 0, 0, 1}, rest),
		"a float version":      join(pairs(0), kind, []byte{0x01, 0xf9, 0x3c, 0x00}, rest),
		"a big number version": join(pairs(0), kind, []byte{0x01, 0xc2, 0x41, 0x01}, rest),
		"version 0":            join(pairs(0), kind, []byte{0x01, 0x00}, rest),
		"version 2":            join(pairs(0), kind, []byte{0x01, 0x02}, rest),
		"version -1":           join(pairs(0), kind, []byte{0x01, 0x20}, rest),
		"a null version":       join(pairs(0), kind, []byte{0x01, 0xf6}, rest),
		"another kind":         join(pairs(0), []byte{0x00}, str("mpcd other"), version, rest),
		"an empty kind":        join(pairs(0), []byte{0x00, 0x60}, version, rest),
		"a kind of bytes":      join(pairs(0), []byte{0x00, 0x40 | kind[1]&0x1f}, kind[2:], version, rest),
		"a long kind head":     join(pairs(0), []byte{0x00, 0x78, kind[1] & 0x1f}, kind[2:], version, rest),
		"an indefinite kind":   join(pairs(0), []byte{0x00, 0x7f}, kind[1:], []byte{0xff}, version, rest),
		"tagged":               join([]byte{0xd9, 0xd9, 0xf7}, b),
		"a tagged version":     join(pairs(0), kind, []byte{0x01, 0xc1, 0x01}, rest),
		"a missing value":      join(pairs(0), kind, version),
		"a null value":         join(pairs(0), kind, version, []byte{rest[0], 0xf6}, rest[len(third):]),
		"an integer value":     join(pairs(0), kind, version, []byte{rest[0], 0x00}, rest[len(third):]),
		"nested":               join(pairs(0), kind, []byte{0x01}, bytes.Repeat([]byte{0x81}, 3000), []byte{0x01}, rest),
		"a huge map":           {0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a huge string":        {0xa1, 0x00, 0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"too long":             join(b, make([]byte, limit+1-len(b))),
	} {
		err := decode(bad)
		require.ErrorIs(t, err, want, name)
	}
}
