package worker

import (
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// apply sets this process's limits. At the memory limit the runtime collects garbage harder; at headroom times that
// the process dies. The kernel kills it when its CPU time is used up.
//
// The hard memory limit is on data, not on address space: Go reserves hundreds of megabytes of that, which cost
// nothing.
func (l Limits) apply() error {
	debug.SetMemoryLimit(l.Memory)
	data, seconds := uint64(l.Memory)*headroom, uint64((l.CPU+time.Second-1)/time.Second) //nolint:gosec // G115: both are positive
	for what, limit := range map[int]uint64{unix.RLIMIT_DATA: data, unix.RLIMIT_CPU: seconds, unix.RLIMIT_NOFILE: maxFiles} {
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("limit resource %d of a worker to %d: %w", what, limit, err)
		}
	}
	return nil
}

// maxFiles allows the pipes, and what the runtime opens to poll them.
const maxFiles = 16
