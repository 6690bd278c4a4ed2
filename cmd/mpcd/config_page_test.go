package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// docs/CONFIGURATION.md has a row for each flag of serve, and for nothing else.
func TestConfigurationPageHasEverySetting(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(&cli{})
	require.NoError(t, err)
	var flags []string
	for _, command := range parser.Model.Leaves(true) {
		if command.Path() != "serve" {
			continue
		}
		for _, flag := range command.Flags {
			if flag.Name != "help" {
				flags = append(flags, flag.Name)
			}
		}
	}
	require.Greater(t, len(flags), 30)

	text, err := os.ReadFile(filepath.Join(repoRoot, "docs/CONFIGURATION.md"))
	require.NoError(t, err)
	var rows []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+) \\|").FindAllStringSubmatch(string(text), -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			rows = append(rows, name[1])
		}
	}
	slices.Sort(flags)
	slices.Sort(rows)
	require.Equal(t, flags, rows)
}
