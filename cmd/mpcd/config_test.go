package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// Parsing an arbitrary configuration file succeeds or fails without a panic, returns only known settings, and its
// errors quote no value.
func FuzzConfig(f *testing.F) {
	example, err := os.ReadFile(filepath.Join(repoRoot, "deploy/mpcd.yaml"))
	require.NoError(f, err)
	for _, seed := range []string{string(example), "", "db: a\ndb: b", "slots: [1]", "a: &a [*a]", "- 1", "grace: !!int x",
		"? {a: b}\n: c", "<<: {db: x}", "slots: 1\n---\nslots: 2", "\x00"} {
		f.Add([]byte(seed))
	}
	var serve *kong.Node
	for _, node := range newParser(&cli{}).Model.Children {
		if node.Name == "serve" {
			serve = node
		}
	}
	require.NotNil(f, serve)
	known := map[string]bool{}
	for _, flag := range serve.Flags {
		known[flag.Name] = true
	}
	const canary = "hunter2hunter2"
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, append(b[:len(b):len(b)], "\ndb: "+canary+"\n"...),
			append(b[:len(b):len(b)], "\nkeyset: ["+canary+"\n"...)} {
			var found faults
			c, err := parseConfig("mpcd.yaml", b, serve, &found)
			if err != nil {
				require.Nil(t, c)
				require.NotContains(t, err.Error(), canary)
			}
			require.NotContains(t, found.Error(), canary)
			for key := range c {
				require.True(t, known[key], "%q", key)
				require.NotContains(t, []string{"config", "help"}, key)
			}
		}
	})
}
