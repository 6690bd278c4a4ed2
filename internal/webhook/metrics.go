package webhook

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
)

// metrics counts tries. The circuit's state is read when metrics are collected.
type metrics struct {
	client  *Client
	tries   *prometheus.CounterVec
	circuit *prometheus.Desc
}

func newMetrics(c *Client) *metrics {
	labels := prometheus.Labels{"webhook": c.cfg.Name}
	return &metrics{
		client: c,
		tries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "mpcd", Subsystem: "webhook", Name: "tries_total", ConstLabels: labels,
			Help: "Tries to send a message: taken, refused (it will not be tried again), failed, " +
				"or ended (the caller stopped waiting).",
		}, []string{"outcome"}),
		circuit: prometheus.NewDesc("mpcd_webhook_circuit", "0: closed, messages are sent. 1: half-open, one is tried. 2: open, messages fail at once.", nil, labels),
	}
}

func (m *metrics) count(err error) {
	outcome := "refused"
	switch {
	case err == nil:
		outcome = "taken"
	case retryable(err):
		outcome = "failed"
	case errors.As(err, new(endedError)):
		outcome = "ended"
	}
	m.tries.WithLabelValues(outcome).Inc()
}

// Describe implements prometheus.Collector.
func (c *Client) Describe(ch chan<- *prometheus.Desc) {
	c.metrics.tries.Describe(ch)
	ch <- c.metrics.circuit
}

// Collect implements prometheus.Collector.
func (c *Client) Collect(ch chan<- prometheus.Metric) {
	c.metrics.tries.Collect(ch)
	state := map[gobreaker.State]float64{gobreaker.StateClosed: 0, gobreaker.StateHalfOpen: 1, gobreaker.StateOpen: 2}[c.circuit.State()]
	ch <- prometheus.MustNewConstMetric(c.metrics.circuit, prometheus.GaugeValue, state)
}
