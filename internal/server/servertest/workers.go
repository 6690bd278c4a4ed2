package servertest

import (
	"os"
	"time"

	"github.com/mpcd/mpcd/internal/worker"
)

// workerArg makes a test's binary a worker.
const workerArg = "mpcd-worker"

// Main is for the TestMain of a package whose tests use workers: in a process started as a worker it runs one, and
// never returns.
func Main() {
	if len(os.Args) < 2 || os.Args[1] != workerArg {
		return
	}
	limits, err := worker.ParseLimits(os.Args[2:])
	if err == nil {
		err = worker.Main(os.Stdin, os.Stdout, limits)
	}
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// Workers configures worker processes of the test's own binary, with this many warm ones. Their memory limit is
// higher than a service's: the race detector needs some.
func Workers(warm int) *worker.Config {
	return &worker.Config{Args: []string{os.Args[0], workerArg}, Warm: warm, Limits: worker.Limits{Memory: 2 << 30, CPU: 10 * time.Minute}}
}
