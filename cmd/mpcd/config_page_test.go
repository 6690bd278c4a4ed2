package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// serveNode returns the parser's node for serve.
func serveNode(c *cli) *kong.Node {
	for _, node := range newParser(c).Model.Children {
		if node.Name == "serve" {
			return node
		}
	}
	return nil
}

// docs/CONFIGURATION.md has a row with the default for each setting of serve, and no other rows.
func TestConfigurationPageHasEverySetting(t *testing.T) {
	t.Parallel()
	defaults := map[string]string{}
	for _, flag := range serveNode(&cli{}).Flags {
		defaults[flag.Name] = flag.Default
		switch {
		case flag.IsBool():
			defaults[flag.Name] = "off"
		case flag.Default == "0":
			defaults[flag.Name] = "0: " // followed by its meaning
		case flag.Default == "":
			defaults[flag.Name] = "none"
		}
	}
	require.Greater(t, len(defaults), 30)
	// For these settings the page describes what an empty value means.
	for name, without := range map[string]string{
		"db":            "`mpcd.db` in the working directory",
		"keyset":        "with `dev`: beside the database",
		"custodian-url": "kept here, sealed",
		"webhook-ca":    "the system's",
	} {
		require.Equal(t, "none", defaults[name], name)
		defaults[name] = without
	}

	page, err := os.ReadFile(filepath.Join(repoRoot, "docs/CONFIGURATION.md"))
	require.NoError(t, err)
	written := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+) \\| ([^|]+) \\|").FindAllStringSubmatch(string(page), -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			require.NotContains(t, written, name[1])
			written[name[1]] = row[2]
			if zero, _, ok := strings.Cut(row[2], ": "); ok && zero == "0" {
				written[name[1]] = "0: "
			}
		}
	}
	require.Equal(t, defaults, written)
}

// deploy/mpcd.yaml has only settings of serve, with valid values. A setting with a default that is not commented out
// has that default.
func TestExampleConfigurationIsOfSettings(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile(filepath.Join(repoRoot, "deploy/mpcd.yaml"))
	require.NoError(t, err)
	var serve cli
	node := serveNode(&serve)
	flags := map[string]*kong.Flag{}
	var names []string
	for _, flag := range node.Flags {
		require.NoError(t, flag.Reset())
		flags[flag.Name] = flag
		names = append(names, flag.Name)
	}

	seen := 0
	for line := range strings.Lines(string(example)) {
		text, optional := strings.CutPrefix(line, "# ")
		var pair map[string]string
		name, _, _ := strings.Cut(text, ":")
		if optional && !slices.Contains(names, name) {
			continue // prose
		}
		require.NoError(t, yaml.Unmarshal([]byte(text), &pair), line)
		for name, value := range pair {
			seen++
			flag := flags[name]
			require.NotNil(t, flag, line)
			require.NoError(t, flag.Parse(kong.ScanAsType(kong.FlagValueToken, value), flag.Target), line)
			var found faults
			serve.Serve.all.read(&found)
			require.Empty(t, found, line)
			if !optional && flag.Default != "" {
				require.Equal(t, flag.Default, value, line)
			}
		}
	}
	require.Greater(t, seen, 20)
	var found faults
	_, err = parseConfig("mpcd.yaml", example, node, &found)
	require.NoError(t, err)
	require.Empty(t, found)
}

// The help of serve shows the default and the environment variable of each setting.
func TestServeHelpShowsEverySetting(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "mpcd", "serve", "--help").Output()
	require.NoError(t, err)
	help := strings.Join(strings.Fields(string(out)), " ")
	for _, flag := range serveNode(&cli{}).Flags {
		_, text, ok := strings.Cut(help, flag.Summary()+" ")
		require.True(t, ok, flag.Summary())
		text, variable, _ := strings.Cut(text, " ($")
		variable, _, _ = strings.Cut(variable, ")")
		require.Equal(t, "MPCD_"+strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_")), variable)
		if !flag.IsBool() && flag.Default != "" && flag.Default != "0" {
			require.Contains(t, text, "(default: "+flag.Default+")", flag.Name)
		}
	}
}
