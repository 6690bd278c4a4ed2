package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// noCoreDumps disables core dumps, since this process's memory may contain shares, and prevents other processes of the
// same user from reading its memory or tracing it. Child processes inherit only the former.
func noCoreDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("core dumps cannot be disabled: %w", err)
	}
	// If core_pattern is a pipe, the limit does not apply, but a process that is not dumpable is not dumped.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("core dumps cannot be disabled: %w", err)
	}
	return nil
}
