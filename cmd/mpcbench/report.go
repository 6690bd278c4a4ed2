package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Report is everything that a run measured, and what follows from it.
type Report struct {
	Machine  Machine              `json:"machine"`
	Started  time.Time            `json:"started"`
	Seconds  float64              `json:"seconds"`
	Quick    bool                 `json:"quick"` // a smoke run: its figures are meaningless
	Early    bool                 `json:"-"`     // it ended before all sections had run; never written to a file
	Begun    map[string]time.Time `json:"begun"` // start of the run that measured a section, by its name
	Targets  []Target             `json:"targets"`
	Primes   *Primes              `json:"primes,omitempty"`
	Pairs    []*Pair              `json:"pairs"`
	Curves   string               `json:"curves,omitempty"` // of Levels
	Levels   []*Level             `json:"levels,omitempty"`
	Bursts   []*Burst             `json:"bursts,omitempty"`
	Wire     *Wire                `json:"wire,omitempty"`
	Overhead *Overhead            `json:"overhead,omitempty"`
	Device   *Device              `json:"device,omitempty"`
}

// keep takes the sections that this run did not measure from an earlier report on the same machine. A missing file is
// not an error.
func (r *Report) keep(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var old Report
	if err := json.Unmarshal(b, &old); err != nil {
		return fmt.Errorf("%s is not a report: %w", path, err)
	}
	if old.Quick != r.Quick || old.Machine.CPU != r.Machine.CPU || old.Machine.Cores != r.Machine.Cores {
		return nil
	}
	for _, s := range sections {
		if _, ok := r.Begun[s.name]; ok {
			continue
		}
		begun, ok := old.Begun[s.name]
		if !ok {
			begun = old.Started
		}
		if p := old.pair(s.name); p != nil {
			r.Pairs = append(r.Pairs, p)
			r.Begun[s.name] = begun
		}
		if s.name == "prime" && old.Primes != nil {
			r.Primes, r.Begun[s.name] = old.Primes, begun
		}
		if s.name == "concurrency" && old.Levels != nil {
			r.Curves, r.Levels, r.Begun[s.name] = old.Curves, old.Levels, begun
		}
		if s.name == "queue" && old.Bursts != nil {
			r.Bursts, r.Begun[s.name] = old.Bursts, begun
		}
		if s.name == "overhead" && old.Overhead != nil {
			r.Overhead, r.Begun[s.name] = old.Overhead, begun
		}
		if s.name == "device" && old.Device != nil {
			r.Device, r.Begun[s.name] = old.Device, begun
		}
		if s.name == "wire" && old.Wire != nil {
			r.Wire, r.Begun[s.name] = old.Wire, begun
		}
	}
	names := sectionNames()
	slices.SortStableFunc(r.Pairs, func(a, b *Pair) int {
		return slices.Index(names, a.Name) - slices.Index(names, b.Name)
	})
	return nil
}

func (r *Report) last() *Pair { return r.Pairs[len(r.Pairs)-1] }

// pair returns the pair with that name, or nil if it was not measured.
func (r *Report) pair(name string) *Pair {
	for _, p := range r.Pairs {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// level returns the level with this many callers, or nil.
func (r *Report) level(callers int) *Level {
	for _, l := range r.Levels {
		if l.Callers == callers {
			return l
		}
	}
	return nil
}

// writeJSON writes the report with every sample to a file.
func (r *Report) writeJSON(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644) //nolint:gosec // G306: figures that everyone may read
}
