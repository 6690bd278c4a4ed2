package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/mpcd/mpcd/client"
)

// view shows the progress of operations: a bar for each on a terminal, a line for each
// step anywhere else.
type view struct {
	out      io.Writer
	terminal bool
}

// newView shows progress on f. quiet shows none, unless f is a terminal.
func newView(f *os.File, quiet bool) *view {
	terminal := term.IsTerminal(int(f.Fd()))
	if quiet && !terminal {
		return &view{out: io.Discard}
	}
	return &view{out: f, terminal: terminal}
}

// operation starts to show one operation. It returns where its progress goes, and what
// ends it, which must be called.
func (v *view) operation(name string) (report client.ProgressFunc, end func(error)) {
	if v.terminal {
		return v.bar(name)
	}
	return v.lines(name)
}

// step is the part of a progress that a person reads.
func step(p client.Progress) string {
	var b strings.Builder
	b.WriteString(p.Status)
	switch {
	case p.Status == client.StatusQueued && p.QueuePosition > 0:
		fmt.Fprintf(&b, ", %d ahead", p.QueuePosition)
	case p.Curve != "" && p.Rounds > 0:
		fmt.Fprintf(&b, ", %s, round %d of %d", p.Curve, p.Round, p.Rounds)
	case p.Curve == string(client.CurveSecp256k1):
		fmt.Fprintf(&b, ", %s, pre-params", p.Curve)
	case p.Curve != "":
		fmt.Fprintf(&b, ", %s", p.Curve)
	}
	return b.String()
}

func (v *view) lines(name string) (report client.ProgressFunc, end func(error)) {
	start := time.Now()
	line := func(percent uint32, text string) {
		// Progress that cannot be shown is no reason to fail.
		_, _ = fmt.Fprintf(v.out, "%-9s %3d%%  %5.1fs  %s\n", name, percent, time.Since(start).Seconds(), text)
	}
	var percent uint32
	report = func(p client.Progress) {
		percent = p.Percent
		line(percent, step(p))
	}
	return report, func(err error) {
		if err != nil {
			line(percent, "failed")
		}
	}
}

func (v *view) bar(name string) (report client.ProgressFunc, end func(error)) {
	var mu sync.Mutex // guards text, which the bar's own goroutine reads
	text := ""
	start := time.Now()
	bars := mpb.New(mpb.WithOutput(v.out), mpb.WithWidth(30))
	bar := bars.AddBar(100,
		mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-9s", name))),
		mpb.AppendDecorators(
			decor.Percentage(decor.WC{W: 5}),
			decor.Any(func(decor.Statistics) string {
				mu.Lock()
				defer mu.Unlock()
				// As wide as the longest text, so that the bar keeps its size.
				return fmt.Sprintf(" %6.1fs  %-41s", time.Since(start).Seconds(), text)
			}),
		),
	)
	report = func(p client.Progress) {
		mu.Lock()
		text = step(p)
		mu.Unlock()
		bar.SetCurrent(int64(p.Percent))
	}
	return report, func(err error) {
		if err != nil {
			mu.Lock()
			text = "failed"
			mu.Unlock()
			bar.Abort(false)
		} else {
			bar.SetCurrent(100)
		}
		bars.Wait()
	}
}
