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

// dropEmpty takes the empty MPCD_* variables out of the environment: they count as not set.
// A template that has nothing to fill in leaves them.
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

// environment returns the names of the variables that look like mpcd's, in whatever case.
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

// checkEnvironment adds a fault for each MPCD_* variable that no command has, where the
// command that runs reads such variables: a misspelt one would leave its setting at the
// default. Those of other commands are let be. No value is quoted: it may be a secret.
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

// variables returns those that a command, or one below it, reads.
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

// suggest returns the known name that is nearest to a misspelt one, with a prefix, as the end
// of a sentence; or nothing where none is near.
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

// Kubernetes tells every container of a namespace where its Services are, in variables named
// after them (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables):
// of a Service called mpcd, or mpcd-something, these look like ours. No setting of mpcd ends so.
var (
	serviceLink = regexp.MustCompile(`^MPCD_([A-Z0-9_]+_)?` +
		`(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	serviceURL = regexp.MustCompile(`^MPCD_([A-Z0-9_]+_)?PORT$`)
	linkValue  = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

func isServiceLink(name, value string) bool {
	return serviceLink.MatchString(name) || serviceURL.MatchString(name) && linkValue.MatchString(value)
}
