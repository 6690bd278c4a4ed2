package main

import (
	"os"
	"time"

	"github.com/mpcd/mpcd/internal/worker"
)

// workerCmd is started by `mpcd serve` for each device-held run, and not meant to be run by hand.
type workerCmd struct {
	Memory int64         `help:"Bytes of memory to stay below." required:"" placeholder:"BYTES"`
	CPU    time.Duration `name:"cpu" help:"Processor time before the kernel kills it." required:"" placeholder:"TIME"`
}

// Help describes the command.
func (*workerCmd) Help() string {
	return `Runs the service's side of one device-held run. "mpcd serve" starts workers and communicates
with them through standard input and output. This command is not meant to be run by hand.`
}

// Run serves one run.
func (w *workerCmd) Run() error {
	return worker.Main(os.Stdin, os.Stdout, worker.Limits{Memory: w.Memory, CPU: w.CPU})
}

// workerFlags are the settings of serve for workers.
type workerFlags struct {
	warm   int
	memory int // MiB
	cpu    time.Duration
}

// config returns the configuration of workers that run this program.
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
