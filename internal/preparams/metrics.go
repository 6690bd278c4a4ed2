package preparams

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mpcd/mpcd/internal/tss"
)

// metrics counts sets. Depth and age are read from the store when metrics are collected.
type metrics struct {
	pool *Pool

	made, claimed, misses, refused, invalid, expired prometheus.Counter
	depth, ready, target, oldest                     *prometheus.Desc
}

func newMetrics(p *Pool) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "mpcd", Subsystem: "preparams", Name: name, Help: help})
	}
	gauge := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName("mpcd", "preparams", name), help, labels, nil)
	}
	return &metrics{
		pool:    p,
		made:    counter("made_total", "Sets of pre-params that were added to the pool."),
		claimed: counter("claimed_total", "Sets that runs took from the pool."),
		misses:  counter("misses_total", "Runs that found the pool empty and generated their own set."),
		refused: counter("refused_total", "Device-held runs that were refused because the pool was empty."),
		invalid: counter("invalid_total", "Sets that were dropped because they could not be opened or failed validation."),
		expired: counter("expired_total", "Sets that were erased unused because of their age."),
		depth:   gauge("depth", "Sets that are ready, for both parties together."),
		ready:   gauge("ready", "Sets that are ready for a party.", "party"),
		target:  gauge("target_depth", "Sets that the pool should hold."),
		oldest:  gauge("oldest_age_seconds", "Age of the oldest set; 0 if there is none."),
	}
}

func (m *metrics) counters() []prometheus.Counter {
	return []prometheus.Counter{m.made, m.claimed, m.misses, m.refused, m.invalid, m.expired}
}

// Describe implements prometheus.Collector.
func (p *Pool) Describe(ch chan<- *prometheus.Desc) {
	m := p.metrics
	for _, c := range m.counters() {
		c.Describe(ch)
	}
	ch <- m.depth
	ch <- m.ready
	ch <- m.target
	ch <- m.oldest
}

// scrapeTimeout bounds that read.
const scrapeTimeout = 2 * time.Second

// Collect implements prometheus.Collector.
func (p *Pool) Collect(ch chan<- prometheus.Metric) {
	m := p.metrics
	for _, c := range m.counters() {
		c.Collect(ch)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	st, err := p.Status(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(m.depth, err)
		return
	}
	age := 0.0
	if !st.Oldest.IsZero() {
		age = time.Since(st.Oldest).Seconds()
	}
	ch <- prometheus.MustNewConstMetric(m.depth, prometheus.GaugeValue, float64(st.Depth()))
	for _, party := range []tss.Party{tss.Client, tss.Server} {
		ch <- prometheus.MustNewConstMetric(m.ready, prometheus.GaugeValue, float64(st.Sets[party]), party.String())
	}
	ch <- prometheus.MustNewConstMetric(m.target, prometheus.GaugeValue, float64(st.Target))
	ch <- prometheus.MustNewConstMetric(m.oldest, prometheus.GaugeValue, age)
}
