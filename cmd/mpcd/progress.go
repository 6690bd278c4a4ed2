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

// view shows the progress of operations: a bar for each on a terminal, or a line for each step. It uses no colour.
type view struct {
	out   io.Writer
	bars  bool // the terminal can move its cursor, and its size is known
	width int  // columns of a terminal without bars; 0: unlimited
}

// newView returns a view that writes to f. If quiet, it shows progress only if f is a terminal.
func newView(f *os.File, quiet bool) *view {
	fd := int(f.Fd())
	if !term.IsTerminal(fd) {
		if quiet {
			return &view{out: io.Discard}
		}
		return &view{out: f}
	}
	width, height, err := term.GetSize(fd)
	if err != nil {
		width, height = 0, 0
	}
	// On a terminal of unknown size, mpb would draw nothing, or blank lines.
	if t := os.Getenv("TERM"); t != "" && t != "dumb" && width > 0 && height > 0 {
		return &view{out: f, bars: true}
	}
	return &view{out: f, width: width}
}

// operation starts to show one operation. It returns a function that takes its progress, and one that must be called
// when the operation has ended.
func (v *view) operation(name string) (report client.ProgressFunc, end func(error)) {
	if v.bars {
		return v.bar(name)
	}
	return v.lines(name)
}

// state is what is shown of an operation.
type state struct {
	name    string // of the operation
	start   time.Time
	percent uint32
	step    string
	brief   string // the step, for narrow terminals
}

func newState(name string) state { return state{name: name, start: time.Now()} }

func (s *state) show(p client.Progress) {
	s.percent, s.step, s.brief = p.Percent, step(p), p.Status
	if p.Curve != "" && p.Rounds > 0 {
		s.brief = fmt.Sprintf("%s %d/%d", p.Status, p.Round, p.Rounds)
	}
}

func (s *state) fail() { s.step, s.brief = "failed", "failed" }

// step describes a progress's step.
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

const (
	longestLine = 66 // columns of a line with the longest step
	leastBar    = 76 // columns for that and a bar
)

// line returns a line that fits into width columns and leaves the last one free. 0: unlimited.
func (s *state) line(width int) string {
	if width == 0 || width > longestLine {
		return fmt.Sprintf("%-9s %3d%%  %5.1fs  %s", s.name, s.percent, time.Since(s.start).Seconds(), s.step)
	}
	return cut(fmt.Sprintf("%-9s %3d%%  %s", s.name, s.percent, s.brief), width)
}

// cut shortens a line of ASCII to a terminal's columns.
func cut(line string, width int) string {
	if width == 0 || len(line) < width {
		return line
	}
	return line[:max(0, width-1)]
}

func (v *view) lines(name string) (report client.ProgressFunc, end func(error)) {
	s := newState(name)
	show := func() {
		_, _ = fmt.Fprintln(v.out, s.line(v.width)) // a failure to show progress is not fatal
	}
	report = func(p client.Progress) {
		s.show(p)
		show()
	}
	return report, func(err error) {
		if err != nil {
			s.fail()
			show()
		}
	}
}

func (v *view) bar(name string) (report client.ProgressFunc, end func(error)) {
	var mu sync.Mutex // guards s and narrow, which the bar's own goroutine reads
	s, narrow := newState(name), false
	bars := mpb.New(mpb.WithOutput(v.out), mpb.WithWidth(30))
	bar := bars.AddBar(100,
		// In a narrow terminal the line replaces the bar. Prepended decorators are called first, so this one determines
		// the terminal's width, which may change.
		mpb.PrependDecorators(decor.Any(func(d decor.Statistics) string {
			mu.Lock()
			defer mu.Unlock()
			if narrow = d.AvailableWidth < leastBar; narrow {
				return fmt.Sprintf("%-*s", max(0, d.AvailableWidth-1), s.line(d.AvailableWidth))
			}
			return fmt.Sprintf("%-9s", name)
		})),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			mu.Lock()
			defer mu.Unlock()
			if narrow {
				return ""
			}
			// Padded to the longest step, so that the bar's size does not change.
			return fmt.Sprintf("%4d%% %6.1fs  %-41s", s.percent, time.Since(s.start).Seconds(), s.step)
		})),
	)
	report = func(p client.Progress) {
		mu.Lock()
		s.show(p)
		mu.Unlock()
		bar.SetCurrent(int64(p.Percent))
	}
	return report, func(err error) {
		if err != nil {
			mu.Lock()
			s.fail()
			mu.Unlock()
			bar.Abort(false)
		} else {
			bar.SetCurrent(100)
		}
		bars.Wait()
	}
}
