package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHelp checks that the help of every command describes all of its flags.
func TestHelp(t *testing.T) {
	t.Parallel()
	parser := newParser(&cli{})
	for _, command := range parser.Model.Leaves(true) {
		args := append(strings.Fields(command.Path()), "--help")
		out, err := exec.CommandContext(t.Context(), "mpcd", args...).Output()
		require.NoError(t, err, args)
		require.Contains(t, string(out), "Usage: mpcd "+command.Path(), args)
		require.NotEmpty(t, command.Help, args)
		for _, flag := range command.Flags {
			require.Contains(t, string(out), "--"+flag.Name, args)
			require.NotEmpty(t, flag.Help, "%s --%s", args, flag.Name)
		}
	}
}

// TestWalletCommandsTakeTheSameFlags checks that a script can pass the same flags to every wallet command.
func TestWalletCommandsTakeTheSameFlags(t *testing.T) {
	t.Parallel()
	parser := newParser(&cli{})
	seen := 0
	for _, command := range parser.Model.Leaves(true) {
		if !strings.HasPrefix(command.Path(), "wallet ") {
			continue
		}
		seen++
		var names []string
		for _, flag := range command.Flags {
			names = append(names, flag.Name)
		}
		require.Subset(t, names, []string{"addr", "json", "tls-ca", "tls-cert", "tls-key", "token-file"}, command.Path())
	}
	require.Greater(t, seen, 10)
}
