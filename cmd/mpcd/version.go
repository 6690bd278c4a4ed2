package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// version and commit are set by the release build: -ldflags "-X main.version=... -X main.commit=...".
var (
	version = "dev"
	commit  = ""
)

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// Run prints the version.
func (v *versionCmd) Run() error {
	info := struct {
		Version string `json:"version"`
		Commit  string `json:"commit"`
		Go      string `json:"go"`
	}{version, buildCommit(), runtime.Version()}
	if v.JSON {
		return json.NewEncoder(os.Stdout).Encode(info)
	}
	_, err := fmt.Printf("mpcd %s, commit %s, %s\n", info.Version, info.Commit, info.Go)
	return err
}

// buildCommit returns commit, or else the commit that the go command recorded.
func buildCommit() string {
	if commit != "" {
		return commit
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
