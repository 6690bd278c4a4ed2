package client_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/tss"
)

// Printing and encoding a share or a client does not reveal the share or the password.
func TestRedaction(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	share, backup := backedUp(t, c)
	show := func(v any) []string {
		var out []string
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			out = append(out, fmt.Sprintf(verb, v))
		}
		b, err := json.Marshal(v)
		require.NoError(t, err)
		var text, lines bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&lines, nil)).Info("x", "v", v)
		return append(out, string(b), text.String(), lines.String())
	}
	b := share.Bytes()
	secrets := []string{
		password, string(b[100:120]), hex.EncodeToString(b[100:120]), fmt.Sprintf("%X", b[100:120]), fmt.Sprintf("%d", b[100:120])[1:20],
		base64.StdEncoding.EncodeToString(b[99:120]),
	}
	require.Contains(t, fmt.Sprintf("%d", b), secrets[4], "positive control")
	for _, v := range []any{share, *share, []*client.Share{share}, struct{ S client.Share }{*share}, map[string]*client.Share{"a": share}} {
		for _, shown := range show(v) {
			for _, s := range secrets {
				require.NotContains(t, shown, s)
			}
		}
	}
	for _, v := range []any{share, *share} {
		for _, shown := range show(v) {
			require.Contains(t, shown, "[redacted]")
		}
	}
	for _, v := range []any{c, backup} {
		for _, shown := range show(v) {
			for _, s := range secrets {
				require.NotContains(t, shown, s)
			}
		}
	}
}

func TestParseShare(t *testing.T) {
	f, conn := newFake(t)
	share, err := newClient(t, f, conn).CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	good := share.Bytes()
	theirs, err := tss.ParseShare(good)
	require.NoError(t, err)
	theirs.Party = tss.Server
	server, err := theirs.Encode()
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"nothing": nil, "text": []byte("share"), "cut": good[:len(good)-1], "more": append(share.Bytes(), 0), "oversized": make([]byte, 1<<20),
		"the service's": server.Reveal(),
	} {
		_, err := client.ParseShare(b)
		require.ErrorIs(t, err, client.ErrNotAShare, name)
	}

	got, err := client.ParseShare(good)
	require.NoError(t, err)
	clear(good)
	require.Equal(t, share.Bytes(), got.Bytes(), "ParseShare keeps no reference to its input")
	clear(got.Bytes())
	require.Equal(t, share.Bytes(), got.Bytes(), "Bytes returns a copy")
	got.Wipe()
	require.Equal(t, make([]byte, len(good)), got.Bytes())
}
