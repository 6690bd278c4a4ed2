package worker

import (
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// apply sets the limits for this process. At the memory's the runtime collects harder;
// at headroom times as much it dies. The kernel kills it when its processor time is up.
//
// The second is a limit on data, not on address space: Go reserves hundreds of megabytes
// of that, which cost nothing.
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

// maxFiles is a few more than the pipes, and what the runtime opens to wait for them.
const maxFiles = 16
