package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
)

// Every way in which Go code prints values by accident prints only the placeholder.
func TestBytesNeverPrints(t *testing.T) {
	s := secret.New([]byte("hunter2"))
	type holder struct {
		Name   string
		Secret secret.Bytes
		Deep   *secret.Bytes
		hidden secret.Bytes // fmt calls no methods of unexported fields
		deeper *secret.Bytes
	}
	h := holder{Name: "n", Secret: s, Deep: &s, hidden: s, deeper: &s}
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("m", "s", s, "p", &s, "h", h)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "s", s, "p", &s, "h", h)
	js, err := json.Marshal(h)
	require.NoError(t, err)

	outputs := []string{log.String(), string(js), fmt.Errorf("wrapped: %v", s).Error()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		outputs = append(outputs, fmt.Sprintf(verb, s), fmt.Sprintf(verb, &s), fmt.Sprintf(verb, h), fmt.Sprintf(verb, &h), fmt.Sprintf(verb, []secret.Bytes{s}))
	}
	for _, out := range outputs {
		require.NotContains(t, out, "hunter2")
		require.NotContains(t, out, fmt.Sprintf("%x", "hunter2"))
		require.NotContains(t, out, fmt.Sprintf("%d", []byte("hunter2")))
	}
	require.Equal(t, secret.Redacted, fmt.Sprint(s))
	require.Equal(t, "hunter2", string(s.Reveal()), "the positive control: the bytes are there")
}

func TestWipeAndEqual(t *testing.T) {
	s := secret.New([]byte("hunter2"))
	require.True(t, s.Equal(secret.New([]byte("hunter2"))))
	require.False(t, s.Equal(secret.New([]byte("hunter3"))))
	require.False(t, s.Equal(secret.Bytes{}))
	s.Wipe()
	require.Equal(t, make([]byte, 7), s.Reveal())
	secret.Bytes{}.Wipe()
}
