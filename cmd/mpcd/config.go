package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// config is a YAML file as a source of flags: below flags and environment, above the
// defaults.
type config struct {
	path   string
	values map[string]any
}

// loadConfig reads the file and refuses keys that the command does not have, all at once.
func loadConfig(path string, node *kong.Node) (kong.Resolver, error) {
	b, err := os.ReadFile(path) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c := &config{path: path}
	if err := yaml.Unmarshal(b, &c.values); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	known := map[string]bool{}
	for _, f := range node.Flags {
		known[f.Name] = f.Name != "config" && f.Name != "help"
	}
	var faults []error
	for key := range c.values {
		if !known[key] {
			faults = append(faults, fmt.Errorf("configuration %s: there is no setting %q", path, key))
		}
	}
	return c, errors.Join(faults...)
}

// Validate implements kong.Resolver.
func (c *config) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver.
func (c *config) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return nil, nil //nolint:nilnil // kong's word for "not from here"
		}
	}
	v, ok := c.values[flag.Name]
	if !ok {
		return nil, nil //nolint:nilnil // see above
	}
	return fmt.Sprint(v), nil
}
