package main

import (
	"encoding/json"
	"os"
	"time"
)

// Report is all that a run measured, and what follows from it.
type Report struct {
	Machine Machine   `json:"machine"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Quick   bool      `json:"quick"` // a smoke run: its figures mean nothing
	Early   bool      `json:"-"`     // it ended before all sections had run; never written to a file
	Targets []Target  `json:"targets"`
	Primes  *Primes   `json:"primes,omitempty"`
	Pairs   []*Pair   `json:"pairs"`
	Curves  string    `json:"curves,omitempty"` // of Levels
	Levels  []*Level  `json:"levels,omitempty"`
	Wire    *Wire     `json:"wire,omitempty"`
}

func (r *Report) last() *Pair { return r.Pairs[len(r.Pairs)-1] }

// pair returns the pair of that name, or nil where it was not measured.
func (r *Report) pair(name string) *Pair {
	for _, p := range r.Pairs {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// level returns the level with so many callers, or nil.
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
	return os.WriteFile(path, append(b, '\n'), 0o644) //nolint:gosec // G306: figures, for everybody to read
}
