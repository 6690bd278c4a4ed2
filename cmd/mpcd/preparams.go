package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/tss"
)

// preparamsCmd groups the commands for a service's pool of pre-params. A running service fills its pool itself; these
// commands are for filling it before a peak, or before the service starts.
type preparamsCmd struct {
	Generate preparamsGenerateCmd `cmd:"" help:"Make sets of pre-params, into a service's pool or into a file."`
	Status   preparamsStatusCmd   `cmd:"" help:"Show how many sets a service's pool has, for each party."`
	Drop     preparamsDropCmd     `cmd:"" help:"Erase a service's pool. Run this after a database was restored or copied, before its service starts: see docs/RESTORING.md."`
}

// poolFlags are the flags for the pool of a service, which may be running.
type poolFlags struct {
	DB     string `help:"The service's database, as in sqlite:///var/lib/mpcd/mpcd.db." placeholder:"URL" env:"MPCD_DB"`
	Keyset string `help:"File with the service's keyset." placeholder:"FILE" env:"MPCD_KEYSET"`
	KMS    string `name:"keyset-kms" help:"The KMS key that wraps the keyset, where one does; see mpcd keyset --help." placeholder:"URI" env:"MPCD_KEYSET_KMS"`
}

var errNoDB = errors.New("--db is missing: name the service's database")

// open returns the pool, and a function that closes it.
func (f *poolFlags) open(ctx context.Context) (*preparams.Pool, func() error, error) {
	var missing []error
	if f.DB == "" {
		missing = append(missing, errNoDB)
	}
	if f.Keyset == "" {
		missing = append(missing, errors.New("--keyset is missing: name the service's keyset"))
	}
	if len(missing) > 0 {
		return nil, nil, usageError{errors.Join(missing...)}
	}
	keyset, err := loadKeyset(ctx, f.Keyset, f.KMS)
	if err != nil {
		return nil, nil, err
	}
	st, err := store.Open(ctx, f.DB)
	if err != nil {
		return nil, nil, err
	}
	sealer, err := seal.New(ctx, keyset, st)
	if err != nil {
		return nil, nil, errors.Join(err, st.Close())
	}
	return preparams.NewPool(st, sealer, preparams.Config{}, slog.New(slog.DiscardHandler)), st.Close, nil
}

type preparamsGenerateCmd struct {
	poolFlags
	Number  int       `short:"n" help:"How many sets to make." required:"" placeholder:"N"`
	Out     shareFile `help:"New file, mode 0600, one set a line in hex, instead of a pool. As secret as shares, and not encrypted." placeholder:"FILE"`
	Workers int       `help:"How many cores to use; 0: all." default:"0"`
	JSON    bool      `help:"Print one JSON object on standard output."`
}

// Run generates sets, and stores each at once.
func (cmd *preparamsGenerateCmd) Run(ctx context.Context) (err error) {
	if cmd.Number < 1 || cmd.Workers < 0 {
		return usageError{errors.New("-n must be at least 1, and --workers not negative")}
	}
	add, end, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	start := time.Now()
	progress := newCounter(newView(os.Stderr, cmd.JSON), int64(cmd.Number))
	for range cmd.Number {
		pp, err := tss.GeneratePreParams(ctx, cmd.Workers)
		if err == nil {
			err = add(pp)
		}
		if err != nil {
			progress.end(err)
			return err
		}
		progress.add()
	}
	progress.end(nil)
	took := time.Since(start).Seconds()
	if cmd.JSON {
		return json.NewEncoder(os.Stdout).Encode(struct {
			Sets    int     `json:"sets"`
			Seconds float64 `json:"seconds"`
		}{cmd.Number, took})
	}
	_, err = fmt.Printf("%d sets in %.1f s, %.2f s each\n", cmd.Number, took, took/float64(cmd.Number))
	return err
}

// open returns a function that adds sets to the pool or the file, and one that closes it.
func (cmd *preparamsGenerateCmd) open(ctx context.Context) (
	add func(*tss.PreParams) error, end func() error, err error,
) {
	if cmd.Out == "" {
		pool, closePool, err := cmd.poolFlags.open(ctx)
		if err != nil {
			return nil, nil, err
		}
		return func(pp *tss.PreParams) error { return addEven(ctx, pool, pp) }, closePool, nil
	}
	file, err := os.OpenFile(string(cmd.Out), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, err
	}
	return func(pp *tss.PreParams) error {
		defer pp.Wipe()
		b, err := pp.Encode()
		if err != nil {
			return err
		}
		defer b.Wipe()
		_, err = io.WriteString(file, hex.EncodeToString(b.Reveal())+"\n")
		return err
	}, func() error { return errors.Join(file.Sync(), file.Close()) }, nil
}

// addEven adds a set for the party that has fewer sets.
func addEven(ctx context.Context, pool *preparams.Pool, pp *tss.PreParams) error {
	st, err := pool.Status(ctx)
	if err != nil {
		pp.Wipe()
		return err
	}
	party := tss.Server
	if st.Sets[tss.Client] < st.Sets[tss.Server] {
		party = tss.Client
	}
	return pool.Add(ctx, party, pp)
}

// counter shows how many sets of a known number are done, the rate, and the estimated time left.
type counter struct {
	view  *view
	total int64
	done  int64
	start time.Time
	bars  *mpb.Progress // nil without a terminal
	bar   *mpb.Bar
}

func newCounter(v *view, total int64) *counter {
	c := &counter{view: v, total: total, start: time.Now()}
	if !v.bars {
		return c
	}
	c.bars = mpb.New(mpb.WithOutput(v.out), mpb.WithWidth(30))
	c.bar = c.bars.AddBar(total,
		mpb.PrependDecorators(decor.CountersNoUnit("pre-params %d of %d")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return "  " + c.rate() })),
	)
	return c
}

// rate is called from the bar's goroutine, and reads no field that changes meanwhile.
func (c *counter) rate() string {
	done := c.done
	if c.bar != nil {
		done = c.bar.Current()
	}
	if done == 0 {
		return "searching for safe primes"
	}
	each := time.Since(c.start) / time.Duration(done)
	return fmt.Sprintf("%.1f a minute, %v left", time.Minute.Seconds()/each.Seconds(),
		(each * time.Duration(c.total-done)).Round(time.Second))
}

func (c *counter) add() {
	c.done++
	if c.bar != nil {
		c.bar.Increment()
		return
	}
	line := fmt.Sprintf("pre-params %d of %d  %s", c.done, c.total, c.rate())
	_, _ = fmt.Fprintln(c.view.out, cut(line, c.view.width)) // a failure to show progress is not fatal
}

func (c *counter) end(err error) {
	if c.bar == nil {
		return
	}
	if err != nil {
		c.bar.Abort(false)
	}
	c.bars.Wait()
}

type preparamsStatusCmd struct {
	poolFlags
	JSON bool `help:"Print one JSON object on standard output."`
}

// Run shows the pool.
func (cmd *preparamsStatusCmd) Run(ctx context.Context) (err error) {
	pool, closePool, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closePool()) }()
	st, err := pool.Status(ctx)
	if err != nil {
		return err
	}
	var age *float64
	text := fmt.Sprintf("%d sets are ready, %d for the client's party and %d for the server's",
		st.Depth(), st.Sets[tss.Client], st.Sets[tss.Server])
	if !st.Oldest.IsZero() {
		seconds := time.Since(st.Oldest).Seconds()
		age = &seconds
		text += fmt.Sprintf(", the oldest was made %v ago", time.Since(st.Oldest).Round(time.Second))
	}
	if cmd.JSON {
		return json.NewEncoder(os.Stdout).Encode(struct {
			Depth     int      `json:"depth"`
			Client    int      `json:"client"`
			Server    int      `json:"server"`
			OldestAge *float64 `json:"oldestAgeSeconds,omitempty"`
		}{st.Depth(), st.Sets[tss.Client], st.Sets[tss.Server], age})
	}
	_, err = fmt.Println(text)
	return err
}

type preparamsDropCmd struct {
	poolFlags      // only DB is used
	JSON      bool `help:"Print one JSON object on standard output."`
}

// Run drops every set.
func (cmd *preparamsDropCmd) Run(ctx context.Context) (err error) {
	if cmd.DB == "" {
		return usageError{errNoDB}
	}
	path, err := store.Path(cmd.DB)
	if err != nil {
		return usageError{fmt.Errorf("--db: %w", err)}
	}
	// store.Open would create the database, and a mistyped name would be reported as a dropped pool.
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("--db: %w: name the service's database", err)
	}
	st, err := store.Open(ctx, cmd.DB)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	n, err := st.Renew(ctx, "dropped by hand")
	if err != nil {
		return err
	}
	if cmd.JSON {
		return json.NewEncoder(os.Stdout).Encode(struct {
			Dropped int `json:"dropped"`
		}{n})
	}
	_, err = fmt.Printf("%d sets were dropped. A running service fills its pool anew.\n", n)
	return err
}
