//go:build !linux

package main

// noCoreDumps does nothing: production services run on Linux.
func noCoreDumps() error { return nil }
