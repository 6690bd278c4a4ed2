package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// faults are the errors in a configuration, collected so that all can be reported at once.
type faults []error

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

// join adds the errors that err joins. err may be nil.
func (f *faults) join(err error) {
	if err == nil {
		return
	}
	if all, ok := err.(interface{ Unwrap() []error }); ok { // not errors.As: a nested join is one fault
		for _, one := range all.Unwrap() {
			f.join(one)
		}
		return
	}
	*f = append(*f, err)
}

// Error lists the faults.
func (f faults) Error() string {
	if len(f) == 1 {
		return f[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the configuration has %d faults:", len(f))
	for _, err := range f {
		fmt.Fprintf(&b, "\n  - %v", err)
	}
	return b.String()
}

// Unwrap returns the faults.
func (f faults) Unwrap() []error { return f }

// config is a YAML file as a source of flag values. The command line and the environment take precedence over it. A
// value is a string, or a list of strings for a repeatable flag.
type config map[string]any

// loadConfig reads the file. Unknown keys, and values that are not scalars, are added to f.
func loadConfig(path string, node *kong.Node, f *faults) (config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return parseConfig(path, b, node, f)
}

func parseConfig(path string, b []byte, node *kong.Node, f *faults) (config, error) {
	var keys map[string]yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(b)).Decode(&keys); err != nil && !errors.Is(err, io.EOF) {
		// The decoder's error may quote the file.
		return nil, fmt.Errorf("configuration %s is not YAML with one \"name: value\" a line: %s", path, where(err))
	}
	var settings []string
	repeatable := map[string]bool{}
	for _, flag := range node.Flags {
		if flag.Name != "config" && flag.Name != "help" {
			settings = append(settings, flag.Name)
			repeatable[flag.Name] = flag.IsSlice()
		}
	}
	c := config{}
	for _, key := range sortedKeys(keys) {
		switch value := keys[key]; {
		case !slices.Contains(settings, key):
			f.add("configuration %s: there is no setting %q%s", path, key, suggest("", key, settings))
		case repeatable[key] && value.Kind == yaml.SequenceNode && !slices.ContainsFunc(value.Content, notText):
			var all []any
			for _, one := range value.Content {
				all = append(all, one.Value)
			}
			c[key] = all
		case value.Kind != yaml.ScalarNode || value.Tag == "!!null":
			f.add("configuration %s: %s has no single value", path, key)
		default:
			c[key] = value.Value
		}
	}
	return c, nil
}

func notText(n *yaml.Node) bool { return n.Kind != yaml.ScalarNode || n.Tag == "!!null" }

// where returns the position that a YAML error reports.
func where(err error) string {
	line := strings.Index(err.Error(), "line ")
	if line < 0 {
		return "it cannot be read"
	}
	number, _, _ := strings.Cut(err.Error()[line+len("line "):], ":")
	return "see line " + number
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Validate implements kong.Resolver.
func (c config) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver.
func (c config) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return nil, nil //nolint:nilnil // for kong: this resolver has no value
		}
	}
	if v, ok := c[flag.Name]; ok {
		return v, nil
	}
	return nil, nil //nolint:nilnil // see above
}
