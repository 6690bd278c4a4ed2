// Package app wires a running mpcd together, from the database to the server. The command, the benchmark and the
// tests start the same thing.
//
// It has no logic and no state of its own. Its caller is trusted for the settings, and the given authenticator for
// who calls.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"

	"filippo.io/age"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mpcd/mpcd/internal/custody"
	"github.com/mpcd/mpcd/internal/policy"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/webhook"
	"github.com/mpcd/mpcd/internal/worker"
)

// App is everything between a database and a server.
type App struct {
	Store    *store.Store
	Sessions *session.Service
	Server   *server.Server
	Pool     *preparams.Pool
	workers  *worker.Pool
	stop     func() // ends background work, and waits for it
}

// Options say what an App is made of.
type Options struct {
	DB string // as store.Open takes it
	// Lock is the lock on DB, whose file shows whether DB is a copy or an older state; nil: no other process uses the
	// database, and it is new.
	Lock     *store.FileLock
	Keyset   *seal.Keyset
	Sessions session.Config
	Pool     preparams.Config
	Auth     server.Authenticator
	Server   server.Config
	// Custodian reaches an external custodian, which keeps the server shares of BACKUP sets; nil: they are kept here.
	// With a Recipient they are encrypted to it before they are sent.
	Custodian *webhook.Client
	Recipient *age.X25519Recipient
	// CustodianDeletes reaches the same custodian to tell it what to delete; nil: it is not told, and the list of
	// deletions grows.
	CustodianDeletes *webhook.Client
	// Worker configures the processes of the service's side of device-held runs. Without Args these run in this
	// process.
	Worker worker.Config
	Policy *webhook.Client      // reaches an authoriser; nil: there is none
	Wrap   func(*session.Ports) // may wrap the ports, as a benchmark does; may be nil
}

// Open wires a service together. The caller closes it.
func Open(ctx context.Context, o Options, log *slog.Logger) (*App, error) {
	st, err := store.Open(ctx, o.DB)
	if err != nil {
		return nil, err
	}
	st.LogTo(log)
	if err := o.recognise(ctx, st, log); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	sealer, err := seal.New(ctx, o.Keyset, st)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	keeper := custody.NewManaged(sealer)
	pool := preparams.NewPool(st, sealer, o.Pool, log)
	ports := session.Ports{
		Wallets: st, Sessions: st, Budgets: st, Housekeeper: st, Sealer: sealer, ServerShares: keeper, Custodian: keeper,
		PreParams: pool, Log: log,
	}
	workers := worker.NewPool(o.Worker, log)
	if len(o.Worker.Args) > 0 {
		ports.ServerSide = workers.Run
	}
	o.outside(&ports, keeper, st)
	sessions, err := session.New(ctx, ports, o.sessions())
	if err != nil {
		workers.Close()
		return nil, errors.Join(err, st.Close())
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(workerMetrics(workers)...)
	resealer := seal.NewResealer(sealer, st, log)
	registry.MustRegister(pool, rowsLeft(resealer), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	webhooks := o.webhooks()
	for _, c := range webhooks {
		registry.MustRegister(c)
	}
	o.Server.Detail = func() map[string]string { return circuits(webhooks) }
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { _ = pool.Fill(background) }) // ends with stop; it logs its own errors
	wg.Go(func() { sessions.Sweep(background) })
	wg.Go(func() { resealer.Run(background) }) // ends with stop, or when nothing is left
	wg.Go(func() { o.delete(background, st, log) })
	return &App{
		Store:    st,
		Sessions: sessions,
		Pool:     pool,
		workers:  workers,
		Server:   server.New(sessions, o.Auth, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), log, o.Server),
		stop: func() {
			stop()
			wg.Wait()
			for _, c := range webhooks {
				c.Close()
			}
		},
	}, nil
}

// recognise drops the pool of pre-params if the database is a copy or an older state of itself.
func (o *Options) recognise(ctx context.Context, st *store.Store, log *slog.Logger) error {
	if o.Lock == nil {
		return nil
	}
	r, err := st.Recognise(ctx, o.Lock)
	if err == nil && r.Why != "" {
		const dropped = "the pool of pre-params was dropped and fills anew: its sets may have been used already; see " +
			"docs/RESTORING.md"
		log.Warn(dropped, "why", r.Why, "sets", r.Dropped)
	}
	return err
}

// webhooks returns the clients of external services, by name.
func (o *Options) webhooks() map[string]*webhook.Client {
	all := map[string]*webhook.Client{"custodian": o.Custodian, "custodian-delete": o.CustodianDeletes, "policy": o.Policy}
	maps.DeleteFunc(all, func(_ string, c *webhook.Client) bool { return c == nil })
	return all
}

// circuits describes the circuits of external services.
func circuits(webhooks map[string]*webhook.Client) map[string]string {
	detail := map[string]string{}
	for name, c := range webhooks {
		detail[name] = "circuit " + c.Circuit()
	}
	return detail
}

// sessions returns the settings of sessions. While pre-params are short, new wallets of one caller take at most a
// quarter of the server's sets, which are half of the pool.
func (o *Options) sessions() session.Config {
	c := o.Sessions
	if c.Creates == 0 && o.Pool.Depth > 0 {
		c.Creates = max(1, o.Pool.Depth/8)
	}
	return c
}

// outside puts external services in place of the built-in ones, as configured.
func (o *Options) outside(ports *session.Ports, keeper *custody.Managed, list session.Deletions) {
	if o.Custodian != nil {
		ports.Custodian = custody.NewWebhook(custody.WebhookConfig{Client: o.Custodian, Recipient: o.Recipient,
			Before: keeper, Deletions: list})
	}
	if o.Policy != nil {
		ports.Policy = policy.NewWebhook(o.Policy)
	}
	if o.Wrap != nil {
		o.Wrap(ports)
	}
}

// delete tells the custodian what to delete until ctx is done, if configured.
func (o *Options) delete(ctx context.Context, list session.Deletions, log *slog.Logger) {
	if o.CustodianDeletes != nil {
		custody.NewDeleter(o.CustodianDeletes, list, log).Run(ctx)
	}
}

// workerMetrics returns the metrics of worker processes.
func workerMetrics(p *worker.Pool) (all []prometheus.Collector) {
	for state, count := range map[string]func(worker.Stats) int{
		"warm": func(s worker.Stats) int { return s.Warm },
		"busy": func(s worker.Stats) int { return s.Busy },
	} {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "mpcd", Name: "workers", Help: "Worker processes of device-held runs.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count(p.Stats())) }))
	}
	return append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "mpcd", Name: "worker_starts_total", Help: "Worker processes that were started.",
	}, func() float64 { return float64(p.Stats().Started) }), prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "mpcd", Name: "worker_deaths_total", Help: "Worker processes that died in a run: something got past " +
			"every check, or a limit was reached.",
	}, func() float64 { return float64(p.Stats().Died) }))
}

// rowsLeft is the metric of a keyset rotation's progress.
func rowsLeft(r *seal.Resealer) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "mpcd", Name: "reseal_rows_left", Help: "Rows that are still sealed under an older key of the keyset.",
	}, func() float64 { return float64(r.Left()) })
}

// Close ends running sessions and closes the database.
func (s *App) Close() error {
	s.stop()
	s.Sessions.Close()
	s.workers.Close()
	if err := s.Store.Close(); err != nil {
		return fmt.Errorf("close the database: %w", err)
	}
	return nil
}

// DevCaller is the caller of a service without authentication: it has every right.
func DevCaller(context.Context) (session.Caller, error) {
	return session.Caller{Name: "dev", Scopes: []session.Scope{session.ScopeRead, session.ScopeWrite, session.ScopeSign,
		session.ScopeAdmin}}, nil
}
