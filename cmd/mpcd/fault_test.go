package main

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	_ "modernc.org/sqlite" // for a process that locks a service's database

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// maxFileSize limits the size to which a process can grow a file, to simulate a full disk.
func maxFileSize(t *testing.T, pid int, bytes uint64) {
	t.Helper()
	require.NoError(t, unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil))
}

// faulty is a service whose database will be made to fail.
type faulty struct {
	*api
	svc           *running
	first, backup held // ACTIVE
	pending       held // a SIGNING set
}

func startFaulty(t *testing.T) *faulty {
	t.Helper()
	svc, err := startService(t.TempDir(), "mpcd", os.Environ(), "--dev", "--log-level=debug")
	require.NoError(t, err)
	t.Cleanup(svc.kill)
	f := &faulty{api: dialService(t, svc), svc: svc}
	f.first, f.backup = f.stocked(t)
	f.pending, err = f.provision(t.Context(), f.backup, uuid.NewString(), "")
	require.NoError(t, err)
	return f
}

// refusesChanges makes every kind of changing call concurrently, and requires that all fail as INTERRUPTED while reads
// succeed. It returns the calls by name.
func (f *faulty) refusesChanges(t *testing.T) map[string]func(context.Context) error {
	t.Helper()
	before := f.states(t, f.first.wallet)
	calls := map[string]func(context.Context) error{
		"confirm": func(ctx context.Context) error { return f.confirm(ctx, f.pending) },
		"revoke": func(ctx context.Context) error {
			_, err := f.RevokeShareSet(ctx, &mpcdv1.RevokeShareSetRequest{WalletId: f.pending.wallet, ShareSetId: f.pending.set})
			return err
		},
	}
	for i := range 6 { // 24 calls: more than could wait for the database in turn
		create, backup, provision, sign := uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString()
		calls[fmt.Sprint("create ", i)] = func(ctx context.Context) error { _, err := f.create(ctx, create, ""); return err }
		calls[fmt.Sprint("backup ", i)] = func(ctx context.Context) error {
			_, err := f.api.backup(ctx, f.first, backup, "")
			return err
		}
		calls[fmt.Sprint("provision ", i)] = func(ctx context.Context) error {
			_, err := f.provision(ctx, f.backup, provision, "")
			return err
		}
		calls[fmt.Sprint("sign ", i)] = func(ctx context.Context) error { return f.sign(ctx, f.first, sign) }
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for name, call := range calls {
		wg.Go(func() {
			if err := interrupted(call(ctx)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, before, f.states(t, f.first.wallet), "nothing was changed, and it can be read")
	return calls
}

// recovers requires that the service works as before.
func (f *faulty) recovers(t *testing.T, calls map[string]func(context.Context) error) {
	t.Helper()
	for name, call := range calls {
		if name == "revoke" {
			continue // f.pending is confirmed below
		}
		require.NoError(t, call(t.Context()), name)
	}
	require.NoError(t, f.sign(t.Context(), f.pending, uuid.NewString()))
	revoke := calls["revoke"]
	require.NoError(t, revoke(t.Context()))
	require.Error(t, f.sign(t.Context(), f.pending, uuid.NewString()))
	require.NoError(t, f.svc.stop())
	out, err := exec.CommandContext(t.Context(), "mpcd", "audit", "verify", "--db", f.database()).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func (f *faulty) database() string { return "sqlite://" + filepath.Join(f.svc.cmd.Dir, "mpcd.db") }

// TestFullDisk limits the disk space of a running service: first to nothing, and then to some pages more each time, so
// that a run fails at many of its writes in turn. TestLongFullDisk uses steps of a page or two, so that it fails at
// each.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	fullDisk(t, 24<<10)
}

func fullDisk(t *testing.T, step uint64) {
	t.Helper()
	f := startFaulty(t)
	pid := f.svc.cmd.Process.Pid
	const said = "the database cannot be used"

	maxFileSize(t, pid, 0)
	calls := f.refusesChanges(t)
	require.Equal(t, 1, strings.Count(f.svc.text(), said), f.svc.text())
	require.Contains(t, f.svc.text(), "the disk fails, or is full")
	maxFileSize(t, pid, unix.RLIM_INFINITY)

	newest, err := f.provision(t.Context(), f.backup, uuid.NewString(), "")
	require.NoError(t, err)
	sessionID, refused, cut := "", 0, 0
	f.each = func(m proto.Message) {
		if p, ok := m.(interface{ GetProgress() *mpcdv1.Progress }); ok && p.GetProgress() != nil {
			sessionID = p.GetProgress().GetSessionId()
		}
	}
	for space := uint64(0); ; space += step {
		for _, h := range []held{f.first, newest} { // newest is PENDING
			require.Equal(t, h.set == f.first.set, f.sign(t.Context(), h, uuid.NewString()) == nil)
		}
		require.NoError(t, f.confirm(t.Context(), newest)) // this truncates SQLite's log
		id, before := uuid.NewString(), f.states(t, f.first.wallet)
		sessionID = ""
		maxFileSize(t, pid, space)
		newest, err = f.provision(t.Context(), f.backup, id, "")
		if err == nil {
			maxFileSize(t, pid, unix.RLIM_INFINITY)
			require.NoError(t, f.confirm(t.Context(), newest))
			break
		}
		require.NoError(t, interrupted(err), "with space for %d bytes", space)
		require.Equal(t, before, f.states(t, f.first.wallet))
		begun := sessionID
		if begun == "" {
			refused++
		} else { // it is not taken to run still
			cut++
			s, err := f.GetSession(t.Context(), &mpcdv1.GetSessionRequest{SessionId: begun})
			require.NoError(t, err)
			require.Equal(t, mpcdv1.SessionState_SESSION_STATE_INTERRUPTED, s.GetSession().GetState())
			require.Equal(t, "INTERRUPTED", s.GetSession().GetError().GetReason())
		}
		maxFileSize(t, pid, unix.RLIM_INFINITY)
		newest, err = f.provision(t.Context(), f.backup, id, "")
		require.NoError(t, err, "the same request succeeds once there is space")
		if begun != "" {
			require.Equal(t, begun, sessionID, "as the next attempt of the same session")
		}
	}
	require.Positive(t, refused)
	require.Greater(t, cut, 1, "it failed at its later writes too")
	require.NoError(t, f.sign(t.Context(), newest, uuid.NewString()))
	f.recovers(t, calls)
	require.Equal(t, strings.Count(f.svc.text(), said), strings.Count(f.svc.text(), "the database can be used again"))
}

// TestLockedDatabase has another process lock the database for longer than calls wait.
func TestLockedDatabase(t *testing.T) {
	t.Parallel()
	f := startFaulty(t)
	release := holdDatabase(t, strings.TrimPrefix(f.database(), "sqlite://"))
	calls := f.refusesChanges(t)
	require.Equal(t, 1, strings.Count(f.svc.text(), "the database cannot be used"), f.svc.text())
	require.Contains(t, f.svc.text(), "another process has it locked")
	release()
	f.recovers(t, calls)
	require.Contains(t, f.svc.text(), "the database can be used again")
}

// holdDatabase locks a database from another process until release is called.
func holdDatabase(t *testing.T, path string) (release func()) {
	t.Helper()
	holder := exec.CommandContext(t.Context(), "hold-lock", path)
	in, err := holder.StdinPipe()
	require.NoError(t, err)
	out, err := holder.StdoutPipe()
	require.NoError(t, err)
	holder.Stderr = os.Stderr
	require.NoError(t, holder.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "locked\n", line)
	return func() {
		require.NoError(t, in.Close())
		require.NoError(t, holder.Wait())
	}
}

// holdLock is the program hold-lock FILE: it begins an exclusive transaction, prints "locked", and ends with its
// standard input.
func holdLock() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", os.Args[1])
	if err == nil {
		db.SetMaxOpenConns(1)
		_, err = db.ExecContext(ctx, "BEGIN EXCLUSIVE")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hold-lock:", err)
		os.Exit(1)
	}
	fmt.Println("locked")
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is closed
	if err := db.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "hold-lock:", err)
		os.Exit(1)
	}
}

// TestReadOnlyDatabase starts a service whose user can read its database, but not write to it or to its folder: it
// fails with a clear error and changes nothing. Once that is corrected, it works as before.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, dir os.FileMode }{
		"the file":   {0o400, 0o700},
		"the folder": {0o600, 0o500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFaulty(t)
			require.NoError(t, f.svc.stop())
			dir := f.svc.cmd.Dir
			path := filepath.Join(dir, "mpcd.db")
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			serve := exec.CommandContext(t.Context(), unprivileged(t, dir), append([]string{"serve", "--dev"}, noPorts...)...)
			serve.Dir, serve.Env = dir, []string{"HOME=" + dir}
			if os.Getuid() == 0 { // modes do not apply to root
				serve.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			}
			require.NoError(t, os.Chmod(path, c.file))
			require.NoError(t, os.Chmod(dir, c.dir))
			out, err := serve.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "%s", out)
			require.Equal(t, exitFailed, exit.ExitCode(), "%s", out)
			require.Contains(t, string(out), "mpcd.db: it cannot be written: the service's user needs to write the file and "+
				"its directory")
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, before, after)

			require.NoError(t, os.Chmod(dir, 0o700))
			require.NoError(t, os.Chmod(path, 0o600))
			svc, err := startService(dir, "mpcd", os.Environ(), "--dev")
			require.NoError(t, err)
			t.Cleanup(svc.kill)
			a := dialService(t, svc)
			require.NoError(t, a.sign(t.Context(), f.first, uuid.NewString()))
			require.NoError(t, svc.stop())
		})
	}
}

// nobody is an unprivileged user.
const nobody = 65534

// unprivileged returns a copy of mpcd that an unprivileged user can run. If the tests run as root, it gives that user
// the folder and its files.
func unprivileged(t *testing.T, dir string) string {
	t.Helper()
	from, err := exec.LookPath("mpcd")
	require.NoError(t, err)
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	bin := filepath.Join(t.TempDir(), "mpcd")
	require.NoError(t, os.WriteFile(bin, b, 0o755))
	if os.Getuid() != 0 {
		return bin
	}
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.NoError(t, os.Chown(dir, nobody, nobody))
	for _, e := range all {
		require.NoError(t, os.Chown(filepath.Join(dir, e.Name()), nobody, nobody))
	}
	return bin
}
