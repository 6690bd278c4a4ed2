// Command report turns the JSON reports of ghz into what is kept of a load test: the
// same reports without their data, which holds shares, ghz's own summary of each, and a
// Markdown table of all.
//
// It measures nothing. It lives here, and not in the main module, since ghz's imports
// clash with that one's.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bojand/ghz/printer"
	"github.com/bojand/ghz/runner"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: report TABLE.md REPORT.json...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "report: %v\n", err)
		os.Exit(1)
	}
}

var errFailed = errors.New("some calls failed: see the column of answers")

func run(out string, reports []string) error {
	var table strings.Builder
	table.WriteString("| call | calls | at once | a second | average | p50 | p95 | p99 | slowest | answers |\n|" +
		strings.Repeat(" --- |", 10) + "\n")
	failed := false
	for _, path := range reports {
		r, err := keep(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		table.WriteString(row(r))
		failed = failed || len(r.ErrorDist) > 0 || r.Count == 0
	}
	if err := os.WriteFile(out, []byte(table.String()), 0o600); err != nil {
		return err
	}
	if failed {
		return errFailed
	}
	return nil
}

// keep takes the data out of a report, and writes ghz's summary beside it.
func keep(path string) (*runner.Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r runner.Report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	r.Options.Data = nil
	for suffix, format := range map[string]string{".json": "pretty", ".txt": "summary"} {
		var text bytes.Buffer
		if err := (&printer.ReportPrinter{Out: &text, Report: &r}).Print(format); err != nil {
			return nil, err
		}
		if err := os.WriteFile(strings.TrimSuffix(path, filepath.Ext(path))+suffix, text.Bytes(), 0o600); err != nil {
			return nil, err
		}
	}
	return &r, nil
}

func row(r *runner.Report) string {
	at := map[int]string{50: "-", 95: "-", 99: "-"}
	for _, l := range r.LatencyDistribution {
		at[l.Percentage] = duration(l.Latency)
	}
	var answers []string
	for status, n := range r.StatusCodeDist {
		answers = append(answers, fmt.Sprintf("%d %s", n, status))
	}
	slices.Sort(answers)
	return fmt.Sprintf("| %s | %d | %d | %.2f | %s | %s | %s | %s | %s | %s |\n", r.Name, r.Count,
		r.Options.Concurrency, r.Rps,
		duration(r.Average), at[50], at[95], at[99], duration(r.Slowest), strings.Join(answers, ", "))
}

func duration(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
