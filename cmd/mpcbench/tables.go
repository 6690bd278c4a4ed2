package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// tables converts the report to tables.
func (r *Report) tables() []*table {
	var all []*table
	if len(r.Targets) > 0 {
		all = append(all, r.targetTable())
	}
	if len(r.Pairs) > 0 {
		all = append(all,
			r.pairTable("Wall seconds", func(p *Pair) Comparison { return p.Wall }),
			r.pairTable("CPU seconds", func(p *Pair) Comparison { return p.CPU }))
	}
	if r.Primes != nil {
		all = append(all, r.primeTable())
	}
	if r.Overhead != nil {
		all = append(all, r.overheadTable())
	}
	if len(r.Levels) > 0 {
		all = append(all, r.levelTable())
	}
	if len(r.Bursts) > 0 {
		all = append(all, r.crowdTable())
	}
	if r.Wire != nil {
		all = append(all, r.wireTable())
	}
	if r.Device != nil {
		all = append(all, r.deviceTable())
	}
	return all
}

func (r *Report) targetTable() *table {
	t := &table{title: "Targets", head: []string{"figure", "at most", "measured", ""}}
	for _, x := range r.Targets {
		measured, verdict := "-", "not measured in this run"
		if x.Measured != nil {
			measured, verdict = strings.TrimSpace(number(*x.Measured)+" "+x.Unit), "missed"
			if x.met() {
				verdict = "met"
			}
		}
		t.add(x.Figure, strings.TrimSpace(number(x.AtMost)+" "+x.Unit), measured, verdict)
	}
	return t
}

func (r *Report) pairTable(title string, of func(*Pair) Comparison) *table {
	t := &table{
		title: title + ": median (quartiles), measured in turn",
		head: []string{"figure", "pairs", "mpcd", "bare tss-lib", "ratio of medians",
			"ratio of each pair: median (least to most)"},
	}
	for _, p := range r.Pairs {
		c := of(p)
		each := c.Ratio.Pairwise
		t.add(p.Title, fmt.Sprint(c.Ours.N), spread(c.Ours), spread(c.Theirs), number(c.Ratio.OfMedians),
			fmt.Sprintf("%s (%s to %s)", number(each.Median), number(each.Min), number(each.Max)))
	}
	return t
}

func (r *Report) primeTable() *table {
	p := r.Primes
	t := &table{
		title: fmt.Sprintf("One %d-bit safe prime, in exponentiations of its size", p.Bits),
		head:  []string{"", "measured", "CPU seconds, mean", "median (quartiles)"},
	}
	t.add("safe prime, one core", fmt.Sprint(p.PrimeCPU.N), number(p.PrimeCPU.Mean), spread(p.PrimeCPU))
	t.add("exponentiation", fmt.Sprint(p.ExpCPU.N*p.Batch), number(p.ExpCPU.Mean), spread(p.ExpCPU))
	t.add("ratio of the means", "", number(p.Ratio), "")
	return t
}

func (r *Report) overheadTable() *table {
	o := r.Overhead
	t := &table{
		title: fmt.Sprintf("What a warm provision spends outside the protocol, TLS 1.3 and a token: %d provisions",
			o.Provisions),
		head: []string{"", "ms, median (quartiles)", "of the wall time, medians"},
	}
	ms := func(s Summary) string {
		return fmt.Sprintf("%s (%s to %s)", number(s.Median*1e3), number(s.Q1*1e3), number(s.Q3*1e3))
	}
	for _, part := range parts {
		t.add(part, ms(o.Parts[part]), number(o.Parts[part].Median/o.Wall.Median))
	}
	t.add("together", "", number(o.Together.Median))
	t.add("the provision", ms(o.Wall), "1")
	return t
}

func (r *Report) levelTable() *table {
	t := &table{
		title: "Concurrency, warm pool, " + r.Curves,
		head: []string{"callers", "provisions", "a minute", "p50, s", "p99, s",
			"first message, p50, ms", "first message, p99, ms", "peak memory, MB"},
	}
	for _, l := range r.Levels {
		t.add(fmt.Sprint(l.Callers), fmt.Sprint(l.Provisions), number(l.PerMinute), number(l.Latency.Median),
			number(l.Latency.P99),
			number(l.FirstMessage.Median*1e3), number(l.FirstMessage.P99*1e3), number(float64(l.PeakBytes)/1e6))
	}
	return t
}

func (r *Report) crowdTable() *table {
	t := &table{
		title: "Many callers at once, ED25519: seconds from the call to the confirmed share set",
		head: []string{"who", "provisions", "a minute", "first", "p50", "p99", "last", "told to retry",
			"peak memory, MB"},
	}
	for _, c := range r.Bursts {
		t.add(c.Who, fmt.Sprint(c.Provisions), number(float64(c.Provisions)/c.Seconds*60), number(c.Latency.Min),
			number(c.Latency.Median),
			number(c.Latency.P99), number(c.Latency.Max), fmt.Sprint(c.Refused), number(float64(c.PeakBytes)/1e6))
	}
	return t
}

// elsewhen lists the sections that were measured in other runs, and when.
func (r *Report) elsewhen() string {
	var s, before string
	for _, x := range sections {
		begun, ok := r.Begun[x.name]
		if !ok || !begun.Before(r.Started) {
			continue
		}
		when := begun.UTC().Format("2006-01-02 15:04 MST")
		if when != before {
			s += ". Of a run of " + when + ": "
		} else {
			s += ", "
		}
		s += x.name
		before = when
	}
	return s
}

func (r *Report) wireTable() *table {
	w := r.Wire
	t := &table{
		title: fmt.Sprintf("Bytes of one provision, %s: median of %d", w.Curves, w.Provisions),
		head:  []string{"", "sent", "received"},
	}
	bytes := func(s Summary) string { return fmt.Sprintf("%.0f", s.Median) }
	t.add(fmt.Sprintf("gRPC: ProvisionWallet, %.0f messages back", w.Messages.Median), bytes(w.Sent), bytes(w.Received))
	t.add("TCP: the whole SDK call, with ConfirmShareSet and HTTP/2", bytes(w.TCPSent), bytes(w.TCPGot))
	return t
}

func (r *Report) deviceTable() *table {
	d := r.Device
	t := &table{
		title: fmt.Sprintf("A device-held provision, %s, and a hosted one of the same service, measured in turn: %d pairs",
			d.Curves, len(d.Held)),
		head: []string{"", "device-held: median (quartiles)", "hosted", "ratio of medians",
			"ratio of each pair: median (least to most)"},
	}
	for _, x := range []struct {
		name string
		c    Comparison
	}{{"wall, s", d.Wall}, {"CPU of the service with its workers, s", d.CPU}} {
		each := x.c.Ratio.Pairwise
		t.add(x.name, spread(x.c.Ours), spread(x.c.Theirs), number(x.c.Ratio.OfMedians),
			fmt.Sprintf("%s (%s to %s)", number(each.Median), number(each.Min), number(each.Max)))
	}
	t.add("wall, SECP256K1, s", spread(d.NearSum), "", "", "")
	t.add(fmt.Sprintf("the same with %s s of delay each way", number(d.Delay)), spread(d.FarSum), "", "", "")
	t.add("bytes of TCP, SECP256K1", fmt.Sprintf("%.0f", d.WireSum.Median), "", "", "")
	t.add("bytes of tss-lib's own messages in them", fmt.Sprintf("%.0f", d.OwnSum.Median), "", "", "")
	t.add(fmt.Sprintf("start of a worker process, ms, of %d", d.Ready.N),
		fmt.Sprintf("%s (%s to %s)", number(d.Ready.Median*1e3), number(d.Ready.Q1*1e3), number(d.Ready.Q3*1e3)), "", "", "")
	return t
}

// about describes where and when the report was made, and its caveats.
func (r *Report) about() string {
	m := r.Machine
	s := fmt.Sprintf("%s, %d cores, %s, %s, %s, %.0f s in all", m.CPU, m.Cores, m.System, m.Go,
		r.Started.UTC().Format("2006-01-02 15:04 MST"), r.Seconds)
	if m.Load != "" {
		s += ", load average before " + m.Load
	}
	if r.Quick {
		s += ". A quick run: these figures are meaningless"
	}
	if r.Early {
		s += ". The run ended early"
	}
	s += r.elsewhen()
	for _, p := range r.Pairs {
		if p.Note != "" {
			s += fmt.Sprintf(". %s: %s", p.Title, p.Note)
		}
	}
	return s + "."
}

// writeText writes all tables for a terminal.
func (r *Report) writeText(w io.Writer) error {
	if _, err := fmt.Fprintln(w, r.about()); err != nil {
		return err
	}
	for _, t := range r.tables() {
		if err := t.text(w); err != nil {
			return err
		}
	}
	return nil
}

// writeMarkdown writes all tables to a file.
func (r *Report) writeMarkdown(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := fmt.Fprintf(f, "%s\n", r.about()); err != nil {
		return err
	}
	for _, t := range r.tables() {
		if err := t.markdown(f); err != nil {
			return err
		}
	}
	return nil
}
