package servertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stat returns the fields of a process after its name (proc(5): stat, from the third on), or nil if it has ended.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	if f := strings.Fields(rest); len(f) > 1 && f[0] != "Z" {
		return f
	}
	return nil
}

// Children returns the running child processes of a process.
func Children(t testing.TB, parent int) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, name := range all {
		pid, err := strconv.Atoi(filepath.Base(name))
		require.NoError(t, err)
		if f := stat(pid); f != nil && f[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Gone waits until processes have ended.
func Gone(t testing.TB, pids []int) {
	t.Helper()
	for _, pid := range pids {
		require.Eventually(t, func() bool { return stat(pid) == nil }, 2*time.Minute, 20*time.Millisecond, "process %d", pid)
	}
}
