package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// noCoreDumps keeps the kernel from writing this process's memory, which may hold shares,
// to a file, and other processes of the same user from reading or tracing it. Children
// inherit the first.
func noCoreDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("core dumps cannot be disabled: %w", err)
	}
	// A pipe in core_pattern gets dumps whatever the limit is, but none of such a process.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("core dumps cannot be disabled: %w", err)
	}
	return nil
}
