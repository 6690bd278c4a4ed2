package tss_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// The committed messages, with which the fuzz targets start, are one of each type that a client sends.
func TestMessages(t *testing.T) {
	if *write {
		writeMessages(t)
	}
	all, err := tss.ReadMessages()
	require.NoError(t, err)
	require.Len(t, all, 32)
	for name, payload := range all {
		require.Equal(t, name, nameOf(tss.Message{Payload: payload}))
	}
}

func writeMessages(t *testing.T) {
	out := map[msgName]string{}
	for _, c := range tss.Curves() {
		for _, s := range subjects(c) {
			for name, m := range s.honest(t)[tss.Client] {
				out[name] = hex.EncodeToString(tss.Cut(t, m.Payload))
			}
		}
	}
	b, err := json.MarshalIndent(out, "", "  ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(tss.MessagesFile, append(b, '\n'), 0o600))
}
