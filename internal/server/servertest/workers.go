package servertest

import (
	"flag"
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
	var l worker.Limits
	f := flag.NewFlagSet(workerArg, flag.ExitOnError)
	f.Int64Var(&l.Memory, "memory", 0, "")
	f.DurationVar(&l.CPU, "cpu", 0, "")
	_ = f.Parse(os.Args[2:]) // exits
	if err := worker.Main(os.Stdin, os.Stdout, l); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// Workers are processes of the test's own binary, so many of them warm. They have more
// room than a service's: the race detector takes its share.
func Workers(warm int) *worker.Config {
	return &worker.Config{Args: []string{os.Args[0], workerArg}, Warm: warm, Limits: worker.Limits{Memory: 2 << 30, CPU: 10 * time.Minute}}
}
