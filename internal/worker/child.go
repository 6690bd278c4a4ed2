package worker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"

	workerv1 "github.com/mpcd/mpcd/gen/mpcd/worker/v1"
)

// child is a worker process, as the service sees it.
type child struct {
	cmd    *exec.Cmd
	in     *os.File // to it
	out    *bufio.Reader
	raw    *os.File // underlies out
	stderr *tail
	exited chan struct{} // closed when the process has exited; then cmd.ProcessState is set

	say  sync.Mutex // guards writes to in
	over sync.Once  // of hangUp
}

// self returns the path of this program, which works even if its file was replaced meanwhile.
func self() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}

// start starts a process that is killed when ctx ends, and reaped in a goroutine of wg.
func start(ctx context.Context, wg *sync.WaitGroup, cfg Config) (*child, error) {
	path, err := self()
	if err != nil {
		return nil, err
	}
	theirs, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("a pipe to a worker: %w", err)
	}
	raw, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("a pipe from a worker: %w", err), theirs.Close(), in.Close())
	}
	c := &child{in: in, raw: raw, out: bufio.NewReader(raw), stderr: new(tail), exited: make(chan struct{})}
	c.cmd = exec.CommandContext(ctx, path) //nolint:gosec // G204: it is this program
	c.cmd.Args = slices.Concat(cfg.Args, cfg.Limits.args())
	// The worker gets none of our environment, which may contain secrets. nil would pass on all of it.
	c.cmd.Env = []string{"GOTRACEBACK=single"}
	c.cmd.Dir = "/"
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = theirs, theirOut, c.stderr
	err = c.cmd.Start()
	// The child has its own copies; if it did not start, they are not needed.
	err = errors.Join(err, theirs.Close(), theirOut.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a worker: %w", err), in.Close(), raw.Close())
	}
	wg.Go(func() { // ends with the process
		_ = c.cmd.Wait() // the result is in ProcessState
		close(c.exited)
	})
	return c, nil
}

func (c *child) alive() bool {
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

// kill kills the process. It may be called more than once, and after the process has exited.
func (c *child) kill() { _ = c.cmd.Process.Kill() }

// hangUp kills the process and closes the pipes. It may be called more than once.
func (c *child) hangUp() {
	c.over.Do(func() {
		c.kill()
		_ = c.in.Close() // a pipe has no pending writes
		_ = c.raw.Close()
	})
}

func (c *child) tell(f *workerv1.ToWorker) error {
	c.say.Lock()
	defer c.say.Unlock()
	return write(c.in, f)
}

func (c *child) next() (*workerv1.FromWorker, error) {
	f := new(workerv1.FromWorker)
	return f, read(c.out, f)
}

// state describes how the process ended, with the functions it crashed in, but not their arguments or the panic's
// value, which may come from a device.
func (c *child) state() string {
	<-c.exited
	s := c.cmd.ProcessState
	text := fmt.Sprintf("%v after %v of processor time", s, (s.UserTime() + s.SystemTime()).Round(1e6))
	if at := c.stderr.functions(); len(at) > 0 {
		text += ", in " + strings.Join(at, " < ")
	}
	return text
}

// tail keeps the beginning of a worker's standard error.
type tail struct {
	mu sync.Mutex // guards b
	b  []byte
}

const maxTail = 16 << 10

// Write implements io.Writer. It never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b[:min(len(b), maxTail-len(t.b))]...)
	return len(b), nil
}

// maxFrames is how many functions of a crash are named.
const maxFrames = 6

// functions returns the functions of the first goroutine in a Go crash, innermost first.
func (t *tail) functions() (names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, stack, ok := bytes.Cut(t.b, []byte("\ngoroutine "))
	if !ok {
		return nil
	}
	for line := range strings.Lines(string(stack)) {
		name, _, call := strings.Cut(strings.TrimSpace(line), "(")
		switch {
		case strings.TrimSpace(line) == "" || len(names) == maxFrames:
			return names
		case call && !strings.HasPrefix(line, "\t") && !strings.Contains(name, " ") && !strings.HasPrefix(name, "panic"):
			names = append(names, name[strings.LastIndex(name, "/")+1:])
		}
	}
	return names
}
