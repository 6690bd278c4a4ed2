package preparams_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// claimFrom names the database of a child process that claims everything it can get.
const claimFrom = "MPCD_TEST_CLAIM_FROM"

func TestMain(m *testing.M) {
	if path := os.Getenv(claimFrom); path != "" {
		claimAll(path)
		return
	}
	// tss-lib's logger starts a goroutine when it is linked in.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}

// rig is a pool on a real store with a real keyset.
type rig struct {
	path   string
	store  *store.Store
	sealer *seal.Sealer
	log    *bytes.Buffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{path: filepath.Join(t.TempDir(), "pool.db"), log: new(bytes.Buffer)}
	r.open(t)
	keyset, err := seal.Ephemeral()
	require.NoError(t, err)
	r.sealer, err = seal.New(t.Context(), keyset, r.store)
	require.NoError(t, err)
	return r
}

func (r *rig) open(t *testing.T) {
	t.Helper()
	st, err := store.Open(t.Context(), "sqlite://"+r.path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = st.Close() })
	r.store = st
}

func (r *rig) pool(depth int) *preparams.Pool {
	cfg := preparams.Config{Depth: depth, MaxAge: time.Hour, Workers: 1}
	return preparams.NewPool(r.store, r.sealer, cfg, slog.New(slog.NewTextHandler(r.log, nil)))
}

// add puts n committed sets into the pool, for one party.
func add(t *testing.T, p *preparams.Pool, party tss.Party, n int) {
	t.Helper()
	src := tsstest.NewSource()
	for range n {
		pp, err := src.PreParams(t.Context())
		require.NoError(t, err)
		require.NoError(t, p.Add(t.Context(), party, pp))
	}
}

// ago returns a time that is not too old.
func ago(minutes int) time.Time { return time.Now().Add(-time.Duration(minutes) * time.Minute) }

func counter(t *testing.T, p *preparams.Pool, name string) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	require.NoError(t, reg.Register(p))
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "mpcd_preparams_"+name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func depth(t *testing.T, p *preparams.Pool) int {
	t.Helper()
	st, err := p.Status(t.Context())
	require.NoError(t, err)
	return st.Depth()
}

// If many callers empty a pool, each set goes to exactly one of them.
func TestGoroutinesNeverGetTheSameSet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(0)
	const n = 12
	add(t, p, tss.Server, n)
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			pp, err := p.Claim(t.Context(), tss.Server)
			if err != nil {
				t.Error(err)
				return
			}
			modulus, _ := pp.Moduli()
			mu.Lock()
			defer mu.Unlock()
			if seen[modulus.String()] {
				t.Error("a set was handed out twice")
			}
			seen[modulus.String()] = true
		})
	}
	wg.Wait()
	require.Len(t, seen, n)
	require.Zero(t, depth(t, p))
	require.InDelta(t, n, counter(t, p, "claimed_total"), 0)
}

// If two processes empty one database's pool, each set goes to exactly one of them.
func TestProcessesNeverGetTheSameSet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const n = 200
	for i := range n {
		require.NoError(t, r.store.AddPreParams(t.Context(), fmt.Sprintf("set-%03d", i), tss.Server, []byte("x"), time.Now()))
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	claimed := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	took := make([]int, 2)
	for i := range took {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), exe)
			cmd.Env = append(os.Environ(), claimFrom+"="+r.path)
			out, err := cmd.Output()
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for id := range strings.Lines(string(out)) {
				claimed[strings.TrimSpace(id)]++
				took[i]++
			}
		})
	}
	wg.Wait()
	require.Len(t, claimed, n)
	require.Equal(t, n, took[0]+took[1])
}

func claimAll(path string) {
	ctx := context.Background()
	st, err := store.Open(ctx, "sqlite://"+path)
	if err != nil {
		panic(err)
	}
	out := bufio.NewWriter(os.Stdout)
	for {
		id, _, err := st.ClaimPreParams(ctx, tss.Server, time.Time{})
		if err != nil {
			panic(err)
		}
		if id == "" {
			break
		}
		_, _ = fmt.Fprintln(out, id)
	}
	_ = out.Flush()
	_ = st.Close()
}

// The pool fills to its depth and no further, and what it generated survives a restart.
func TestFillsToDepthAndSurvivesARestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(2)
	add(t, p, tss.Server, 1) // a search takes seconds: one is enough
	ctx, stop := context.WithCancel(t.Context())
	filled := make(chan error)
	go func() { filled <- p.Fill(ctx) }()
	require.Eventually(t, func() bool { return depth(t, p) == 2 }, time.Minute, 10*time.Millisecond)
	stop()
	require.NoError(t, <-filled)
	require.NoError(t, r.store.Close())

	r.open(t)
	p = r.pool(2)
	require.Equal(t, 2, depth(t, p))
	for _, party := range []tss.Party{tss.Client, tss.Server} {
		pp, err := p.Claim(t.Context(), party)
		require.NoError(t, err)
		require.NoError(t, pp.Validate(), "with all primality rounds")
	}
	require.InDelta(t, 2, counter(t, p, "claimed_total"), 0)
	require.InDelta(t, 0, counter(t, p, "misses_total"), 0)
}

// The pool does not fill while a run computes, and continues when the last one has ended.
func TestFillingPausesForRuns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(1)
	p.Pause()
	p.Pause()
	ctx, stop := context.WithCancel(t.Context())
	filled := make(chan error)
	go func() { filled <- p.Fill(ctx) }()
	p.Resume()
	// One run still computes. Filling, which takes about a second, must not even start; the pool has no counter that
	// shows that, so this waits to see that nothing happens.
	require.Never(t, func() bool { return depth(t, p) > 0 }, 3*time.Second, 100*time.Millisecond)
	p.Resume()
	require.Eventually(t, func() bool { return depth(t, p) == 1 }, time.Minute, 10*time.Millisecond)
	stop()
	require.NoError(t, <-filled)
}

// A pause during a search cancels the search, not the filler.
func TestPauseCancelsASearch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(1)
	ctx, stop := context.WithCancel(t.Context())
	filled := make(chan error)
	go func() { filled <- p.Fill(ctx) }()
	for range 20 {
		p.Pause()
		p.Resume()
	}
	require.Eventually(t, func() bool { return depth(t, p) == 1 }, time.Minute, 10*time.Millisecond)
	stop()
	require.NoError(t, <-filled)
	require.Empty(t, r.log.String())
}

func TestEmptyPoolGeneratesASet(t *testing.T) {
	t.Parallel()
	p := newRig(t).pool(0)
	pp, err := p.Claim(t.Context(), tss.Server)
	require.NoError(t, err)
	require.NoError(t, pp.Validate())
	require.InDelta(t, 1, counter(t, p, "misses_total"), 0)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.Claim(ctx, tss.Server)
	require.ErrorIs(t, err, context.Canceled)
}

// Rows that were altered, swapped or sealed under another keyset are dropped and counted, and the next one is handed
// out.
func TestInvalidSetsAreDroppedAndCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(0)
	require.NoError(t, r.store.AddPreParams(t.Context(), "garbage", tss.Server, []byte("not sealed"), ago(3)))
	add(t, p, tss.Server, 2)
	id, sealed, err := r.store.ClaimPreParams(t.Context(), tss.Server, time.Time{}) // the garbage is the oldest
	require.NoError(t, err)
	require.Equal(t, "garbage", id)
	_, other, err := r.store.ClaimPreParams(t.Context(), tss.Server, time.Time{})
	require.NoError(t, err)
	// A valid ciphertext in another row, and one with a flipped bit.
	require.NoError(t, r.store.AddPreParams(t.Context(), "swapped", tss.Server, other, ago(3)))
	flipped := bytes.Clone(other)
	flipped[len(flipped)/2] ^= 1
	require.NoError(t, r.store.AddPreParams(t.Context(), "flipped", tss.Server, flipped, ago(2)))
	require.NoError(t, r.store.AddPreParams(t.Context(), "garbage", tss.Server, sealed, ago(1)))

	pp, err := p.Claim(t.Context(), tss.Server)
	require.NoError(t, err)
	require.NoError(t, pp.Validate())
	require.InDelta(t, 3, counter(t, p, "invalid_total"), 0)
	require.InDelta(t, 1, counter(t, p, "claimed_total"), 0)
	require.Zero(t, depth(t, p))
}

// A set that decrypts but is not valid is dropped too.
func TestSealedGarbageIsDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(0)
	pp, err := tsstest.NewSource().PreParams(t.Context())
	require.NoError(t, err)
	plain, err := pp.Encode()
	require.NoError(t, err)
	plain.Reveal()[plain.Len()-1] ^= 1 // beta: alpha*beta is no longer 1 mod pq
	_, err = tss.ParsePreParams(plain)
	require.ErrorIs(t, err, tss.ErrPreParams)
	sealed, err := r.sealer.Seal(plain, session.PreParamsLabel("bad", tss.Server))
	require.NoError(t, err)
	require.NoError(t, r.store.AddPreParams(t.Context(), "bad", tss.Server, sealed, ago(3)))
	add(t, p, tss.Server, 1) // the next one, so that no search is needed
	_, err = p.Claim(t.Context(), tss.Server)
	require.NoError(t, err)
	require.InDelta(t, 1, counter(t, p, "invalid_total"), 0)
	require.NotContains(t, r.log.String(), hex.EncodeToString(plain.Reveal()[20:40]))
}

func TestOldSetsAreErased(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(0)
	add(t, p, tss.Server, 1)
	require.NoError(t, r.store.AddPreParams(t.Context(), "old", tss.Server, []byte("x"), time.Now().Add(-2*time.Hour)))
	require.Equal(t, 2, depth(t, p))
	require.InDelta(t, 7200, counter(t, p, "oldest_age_seconds"), 60)
	ctx, stop := context.WithCancel(t.Context())
	filled := make(chan error)
	go func() { filled <- p.Fill(ctx) }()
	require.Eventually(t, func() bool { return depth(t, p) == 1 }, time.Minute, 10*time.Millisecond)
	stop()
	require.NoError(t, <-filled)
	require.InDelta(t, 1, counter(t, p, "expired_total"), 0)
}

// A set belongs to one party: a row whose party was changed in the database does not decrypt.
func TestSetsNeverChangeParties(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(4)
	src := tsstest.NewSource()
	made := map[tss.Party]string{}
	for _, party := range []tss.Party{tss.Client, tss.Server} {
		pp, err := src.PreParams(t.Context())
		require.NoError(t, err)
		n, _ := pp.Moduli()
		made[party] = n.String()
		require.NoError(t, p.Add(t.Context(), party, pp))
	}
	for _, party := range []tss.Party{tss.Server, tss.Client} {
		pp, err := p.ClaimReady(t.Context(), party)
		require.NoError(t, err)
		n, _ := pp.Moduli()
		require.Equal(t, made[party], n.String())
		_, err = p.ClaimReady(t.Context(), party)
		require.ErrorIs(t, err, session.ErrOverloaded, "a party does not get the other's set")
	}

	pp, err := src.PreParams(t.Context())
	require.NoError(t, err)
	plain, err := pp.Encode()
	require.NoError(t, err)
	sealed, err := r.sealer.Seal(plain, session.PreParamsLabel("moved", tss.Client))
	require.NoError(t, err)
	require.NoError(t, r.store.AddPreParams(t.Context(), "moved", tss.Server, sealed, time.Now()))
	_, err = p.ClaimReady(t.Context(), tss.Server)
	require.ErrorIs(t, err, session.ErrOverloaded)
	require.InDelta(t, 1, counter(t, p, "invalid_total"), 0)
}

// A set that is too old is not claimed, even before the filler erases it.
func TestOldSetsAreNotClaimed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(1)
	require.NoError(t, r.store.AddPreParams(t.Context(), "old", tss.Server, []byte("x"), ago(61)))
	_, err := p.ClaimReady(t.Context(), tss.Server)
	require.ErrorIs(t, err, session.ErrOverloaded)
	require.InDelta(t, 0, counter(t, p, "invalid_total"), 0)
	require.Equal(t, 1, depth(t, p))
}

// With a pool, a run that must not search is refused when the pool is empty, and told when to retry; without one
// (depth 0) it searches.
func TestEmptyPoolRefusesReadyClaims(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(2)
	for range 2 {
		var refused *session.NoPreParamsError
		require.ErrorAs(t, ready(t, p), &refused)
		require.GreaterOrEqual(t, refused.RetryAfter, time.Second)
		_, err := p.ClaimReady(t.Context(), tss.Server)
		require.ErrorAs(t, err, &refused)
	}
	require.InDelta(t, 4, counter(t, p, "refused_total"), 0)
	add(t, p, tss.Client, 1)
	require.ErrorIs(t, ready(t, p), session.ErrOverloaded)
	add(t, p, tss.Server, 1)
	require.NoError(t, ready(t, p))
	_, err := p.ClaimReady(t.Context(), tss.Server)
	require.NoError(t, err)
	require.ErrorIs(t, ready(t, p), session.ErrOverloaded)

	p = r.pool(0)
	require.NoError(t, ready(t, p))
	pp, err := p.ClaimReady(t.Context(), tss.Server)
	require.NoError(t, err)
	require.NoError(t, pp.Validate())
	require.InDelta(t, 1, counter(t, p, "misses_total"), 0)
}

// A refused run gets its set even if hosted runs compute without a break.
func TestRefusedRunsAreNotStarved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(2)
	p.Pause()
	ctx, stop := context.WithCancel(t.Context())
	filled := make(chan error)
	go func() { filled <- p.Fill(ctx) }()
	require.Never(t, func() bool { return depth(t, p) > 0 }, time.Second, 100*time.Millisecond, "the control")
	require.ErrorIs(t, ready(t, p), session.ErrOverloaded)
	require.Eventually(t, func() bool { return depth(t, p) == 1 }, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, ready(t, p))
	require.Never(t, func() bool { return depth(t, p) > 1 }, time.Second, 100*time.Millisecond,
		"then filling pauses again")
	p.Resume()
	require.Eventually(t, func() bool { return depth(t, p) == 2 }, 2*time.Minute, 10*time.Millisecond)
	stop()
	require.NoError(t, <-filled)
	st, err := p.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, [2]int{1, 1}, st.Sets)
}

// There are plenty of a party's sets if more than three quarters of its target are there.
func TestPlenty(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.pool(8) // four for each
	for n, want := range []bool{1: false, 2: false, 3: false, 4: true} {
		if n == 0 {
			continue
		}
		add(t, p, tss.Server, 1)
		plenty, err := p.Ready(t.Context(), tss.Server)
		require.NoError(t, err)
		require.Equal(t, want, plenty, "%d sets", n)
	}
	plenty, err := r.pool(0).Ready(t.Context(), tss.Server)
	require.NoError(t, err)
	require.True(t, plenty, "without a pool there are always plenty")
}

func ready(t *testing.T, p *preparams.Pool) error {
	t.Helper()
	_, err := p.Ready(t.Context(), tss.Server)
	return err
}
