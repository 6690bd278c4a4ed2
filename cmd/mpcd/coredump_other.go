//go:build !linux

package main

// noCoreDumps does nothing where mpcd is only tried out: the service runs on Linux.
func noCoreDumps() error { return nil }
