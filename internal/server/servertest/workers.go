package servertest

import (
	"os"
	"time"

	"github.com/mpcd/mpcd/internal/worker"
)

// workerArg makes a test's binary a worker.
const workerArg = "mpcd-worker"

// Main is for the TestMain of a package whose tests have workers: where the binary was
// started as one, it is one, and never returns.
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

// Workers are processes of the test's own binary, so many of them warm. They have more
// room than a service's: the race detector takes its share.
func Workers(warm int) *worker.Config {
	return &worker.Config{Args: []string{os.Args[0], workerArg}, Warm: warm, Limits: worker.Limits{Memory: 2 << 30, CPU: 10 * time.Minute}}
}
