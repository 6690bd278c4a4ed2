package main

import (
	"os"
	"time"

	"github.com/mpcd/mpcd/internal/worker"
)

// workerCmd is what `mpcd serve` starts for each device-held run. Nobody calls it by hand.
type workerCmd struct {
	Memory int64         `help:"Bytes of memory to stay below." required:"" placeholder:"BYTES"`
	CPU    time.Duration `name:"cpu" help:"Processor time after which the kernel ends it." required:"" placeholder:"TIME"`
}

// Help says whose command it is.
func (*workerCmd) Help() string {
	return `Runs the service's side of one device-held run. "mpcd serve" starts these and talks to them
through standard input and output; by hand there is nothing to do with one.`
}

// Run serves one run.
func (w *workerCmd) Run() error {
	return worker.Main(os.Stdin, os.Stdout, worker.Limits{Memory: w.Memory, CPU: w.CPU})
}

// workerFlags are the settings of serve that are about workers.
type workerFlags struct {
	warm   int
	memory int // MiB
	cpu    time.Duration
}

// config makes workers of this program.
func (w *workerFlags) config() worker.Config {
	return worker.Config{
		Args:   []string{os.Args[0], "worker"},
		Limits: worker.Limits{Memory: int64(w.memory) << 20, CPU: w.cpu},
		Warm:   w.warm,
	}
}

// What a worker needs: the largest run takes some 60 MiB and 4 seconds on a usual core.
const (
	workerMemory = 256
	workerCPU    = time.Minute
)
