package main

// Target is a bound on a figure.
type Target struct {
	Figure   string   `json:"figure"`
	Unit     string   `json:"unit"`
	AtMost   float64  `json:"atMost"`
	Measured *float64 `json:"measured"` // nil if this run did not measure it
}

// met reports whether the figure is within its bound. It must have been measured.
func (t *Target) met() bool { return *t.Measured <= t.AtMost }

// bound is a target before a run.
type bound struct {
	figure, unit string
	atMost       float64
	of           func(*Report) (float64, bool)
}

const (
	noUnit       = ""
	milliseconds = "ms"
	seconds      = "s"
	megabytes    = "MB" // 10^6 bytes
)

var bounds = []bound{
	{"CPU of one pre-params set / tss-lib's", noUnit, 1.0 / 12, cpuRatio("preparams")},
	{"CPU of one 1024-bit safe prime / 1024-bit exponentiations, means", noUnit, 1000, func(r *Report) (float64, bool) {
		if r.Primes == nil {
			return 0, false
		}
		return r.Primes.Ratio, true
	}},
	{"warm provision, both curves, wall / bare tss-lib", noUnit, 1.10, wallRatio("warm")},
	{"the same while the pool is filled", noUnit, 1.20, wallRatio("filling")},
	{"authentication, audit, storing, sealing and custody / wall of a warm provision", noUnit, 0.03,
		func(r *Report) (float64, bool) {
			if r.Overhead == nil {
				return 0, false
			}
			return r.Overhead.Together.Median, true
		}},
	{"cold provision, wall / bare tss-lib with its own search", noUnit, 0.25, wallRatio("cold")},
	{"CPU of a provisioned device, fresh pre-params included / bare tss-lib", noUnit, 0.25, cpuRatio("cold")},
	{"first progress message at concurrency 1, median", milliseconds, 20, func(r *Report) (float64, bool) {
		l := r.level(1)
		if l == nil {
			return 0, false
		}
		return l.FirstMessage.Median * 1e3, true
	}},
	{"peak memory at concurrency 16", megabytes, 400, func(r *Report) (float64, bool) {
		l := r.level(16)
		if l == nil {
			return 0, false
		}
		return float64(l.PeakBytes) / 1e6, true
	}},
	{"device-held provision, wall / hosted", noUnit, 1.15,
		ofDevice(func(d *Device) float64 { return d.Wall.Ratio.OfMedians })},
	{"the service's CPU in a device-held provision / in a hosted one", noUnit, 0.60,
		ofDevice(func(d *Device) float64 { return d.CPU.Ratio.OfMedians })},
	{"a worker's start, median", milliseconds, 150, ofDevice(func(d *Device) float64 { return d.Ready.Median * 1e3 })},
	{"what 100 ms of delay each way add to a device-held provision, SECP256K1, medians", seconds, 2,
		ofDevice(func(d *Device) float64 {
			return d.FarSum.Median - d.NearSum.Median
		})},
	{"bytes of a device-held provision, SECP256K1 / tss-lib's own messages", noUnit, 1.10,
		ofDevice(func(d *Device) float64 {
			return d.WireSum.Median / d.OwnSum.Median
		})},
}

func ofDevice(figure func(*Device) float64) func(*Report) (float64, bool) {
	return func(r *Report) (float64, bool) {
		if r.Device == nil {
			return 0, false
		}
		return figure(r.Device), true
	}
}

func wallRatio(pair string) func(*Report) (float64, bool) {
	return func(r *Report) (float64, bool) {
		p := r.pair(pair)
		if p == nil {
			return 0, false
		}
		return p.Wall.Ratio.OfMedians, true
	}
}

func cpuRatio(pair string) func(*Report) (float64, bool) {
	return func(r *Report) (float64, bool) {
		p := r.pair(pair)
		if p == nil {
			return 0, false
		}
		return p.CPU.Ratio.OfMedians, true
	}
}

// judge checks the report against the bounds, except for a quick run.
func (r *Report) judge() {
	r.Targets = nil
	if r.Quick {
		return
	}
	for _, b := range bounds {
		t := Target{Figure: b.figure, Unit: b.unit, AtMost: b.atMost}
		if v, ok := b.of(r); ok {
			t.Measured = &v
		}
		r.Targets = append(r.Targets, t)
	}
}
