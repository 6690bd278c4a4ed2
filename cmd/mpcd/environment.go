package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/alecthomas/kong"
)

const envPrefix = "MPCD_"

// dropEmpty unsets empty MPCD_* variables: they count as not set. Deployment templates leave such variables behind.
func dropEmpty() error {
	for _, name := range environment() {
		if os.Getenv(name) == "" {
			if err := os.Unsetenv(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// environment returns the names of the variables that begin with MPCD_, in any case.
func environment() (names []string) {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if len(name) >= len(envPrefix) && strings.EqualFold(name[:len(envPrefix)], envPrefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// checkEnvironment adds a fault for each MPCD_* variable that no command reads, if the selected command reads any:
// otherwise a misspelt variable would silently leave its setting at the default. Variables of other commands are
// ignored. Values are not quoted: they may be secrets.
func checkEnvironment(app *kong.Application, command *kong.Node, f *faults) {
	known := variables(app.Node)
	if command == nil || len(variables(command)) == 0 {
		return
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(known)) {
		names = append(names, strings.TrimPrefix(name, envPrefix))
	}
	for _, name := range environment() {
		if known[name] || isServiceLink(name, os.Getenv(name)) {
			continue
		}
		f.add("environment: there is no variable %s%s", name,
			suggest(envPrefix, strings.ToUpper(name[len(envPrefix):]), names))
	}
}

// variables returns the variables that a command or its subcommands read.
func variables(node *kong.Node) map[string]bool {
	all := map[string]bool{}
	for _, flag := range node.Flags {
		for _, name := range flag.Envs {
			all[name] = true
		}
	}
	for _, child := range node.Children {
		maps.Copy(all, variables(child))
	}
	return all
}

// suggest returns the end of an error that suggests the known name nearest to a misspelt one, or "" if none is near.
func suggest(prefix, name string, known []string) string {
	best, least := "", min(max(2, len(name)/3), len(name))+1
	for _, k := range known {
		if d := levenshtein.ComputeDistance(name, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; the nearest is " + prefix + best
}

// Kubernetes sets variables with the addresses of a namespace's Services in every container
// (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
// Those of a Service called mpcd or mpcd-* begin with MPCD_. No setting of mpcd has such a suffix.
var (
	serviceLink = regexp.MustCompile(`^MPCD_([A-Z0-9_]+_)?` +
		`(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	serviceURL = regexp.MustCompile(`^MPCD_([A-Z0-9_]+_)?PORT$`)
	linkValue  = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

func isServiceLink(name, value string) bool {
	return serviceLink.MatchString(name) || serviceURL.MatchString(name) && linkValue.MatchString(value)
}
