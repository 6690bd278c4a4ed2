package main

import (
	"fmt"
	"io"
	"time"
)

// progress shows how far the benchmark is.
type progress struct {
	out   io.Writer
	start time.Time
}

func (p *progress) step(format string, args ...any) {
	// Failing to show progress is not a reason to fail.
	_, _ = fmt.Fprintf(p.out, "%7.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}
