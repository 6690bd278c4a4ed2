package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/mpcd/mpcd/client"
	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/leaks"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// memory is what stood in the memory of processes, at several times: the pages that could
// be written and held anything.
type memory struct {
	mu    sync.Mutex // guards what follows
	pages map[string]pages
	buf   []byte // of read, used again
}

// pages are those that differ, each with the beginning of the one behind it, so that
// nothing is cut in two. Most stay as they are from one picture to the next.
type pages map[[sha256.Size]byte][]byte

const (
	page    = 4 << 10
	overlap = 512 // more than the longest spelling of a secret
)

func (p pages) add(run []byte) {
	for at := 0; at < len(run); at += page {
		b := run[at:min(at+page+overlap, len(run))]
		if sum := sha256.Sum256(b); p[sum] == nil {
			p[sum] = bytes.Clone(b)
		}
	}
}

// all are the pages in one piece.
func (p pages) all() []byte { return slices.Concat(slices.Collect(maps.Values(p))...) }

// take adds what stands in a process now, under a name. One that has ended has nothing.
func (m *memory) take(name string, pid int) {
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return
	}
	defer mem.Close() //nolint:errcheck // only read
	entries, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return
	}
	defer entries.Close() //nolint:errcheck // only read
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pages[name] == nil {
		m.pages[name] = pages{}
	}
	for line := range strings.Lines(string(table)) {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		for _, run := range present(entries, from, to) {
			for run.from < run.to {
				b := m.read(mem, run)
				m.pages[name].add(b)
				run.from += max(uint64(len(b)), page) // over a page that went away meanwhile
			}
		}
	}
}

// span is a part of an address space.
type span struct{ from, to uint64 }

// present returns the runs of pages that are there: most of what a Go program has mapped is not.
func present(table *os.File, from, to uint64) (runs []span) {
	entries := make([]byte, (to-from)/page*8)
	if _, err := table.ReadAt(entries, int64(from/page*8)); err != nil {
		return nil
	}
	for at := from; at < to; at += page {
		if entries[(at-from)/page*8+7]&(1<<7|1<<6) == 0 { // neither present nor swapped out
			continue
		}
		if n := len(runs); n > 0 && runs[n-1].to == at {
			runs[n-1].to += page
		} else {
			runs = append(runs, span{at, at + page})
		}
	}
	return runs
}

// read returns what stands in a run of pages, up to one that is there no more. It is good
// until the next call.
func (m *memory) read(mem *os.File, run span) []byte {
	m.buf = slices.Grow(m.buf[:0], int(run.to-run.from))[:run.to-run.from]
	n, _ := mem.ReadAt(m.buf, int64(run.from))
	return m.buf[:n]
}

// show says where a share's secrets ever stood.
func (m *memory) show(share []byte) (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, p := range m.pages {
		if how := leaks.Find(p.all(), share); len(how) > 0 {
			names = append(names, fmt.Sprintf("%s: %v", name, how))
		}
	}
	return names
}

// scanned is a service whose memory and files are looked at all the time.
type scanned struct {
	*watched
	memory memory
}

func newScanned(t *testing.T) *scanned {
	t.Helper()
	w := &watched{t: t, dir: t.TempDir(), seen: pictures{}}
	require.NoError(t, seed(t.Context(), w.dir, 1))
	w.start()
	return &scanned{watched: w, memory: memory{pages: map[string]pages{}}}
}

// scan takes a picture of everything: of the service, its workers, its files.
func (s *scanned) scan() {
	s.memory.take("the service", s.svc.cmd.Process.Pid)
	for _, pid := range servertest.Children(s.t, s.svc.cmd.Process.Pid) {
		s.memory.take("a worker", pid)
	}
	s.look()
}

// looking is a stream at each of whose protocol messages something is looked at.
type looking struct {
	grpc.ClientStream
	each func()
}

func (l looking) RecvMsg(m any) error {
	err := l.ClientStream.RecvMsg(m)
	if x, ok := m.(interface {
		GetMessage() *mpcdv1.ProtocolMessage
	}); ok && x.GetMessage() != nil {
		l.each()
	}
	return err
}

// newDevice is the SDK of a device that keeps its shares. each is called at every protocol
// message that comes.
func newDevice(t *testing.T, svc *running, cloud client.KeyStorage, each func()) *client.Client {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+svc.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
			streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := streamer(ctx, desc, cc, method, opts...)
			return looking{stream, each}, err
		}))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	c, err := client.New(conn, client.WithDeviceHeldShares(), client.WithCurves(client.CurveEd25519),
		client.WithCloudKey(client.MethodICloud, cloud),
		client.WithStore(func(context.Context, *client.Share) error { return nil }))
	require.NoError(t, err)
	return c
}

// drawer is a cloud storage in memory.
type drawer struct{ sync.Map }

func (d *drawer) PutKey(_ context.Context, id, key string) error {
	d.Store(id, key)
	return nil
}

func (d *drawer) GetKey(_ context.Context, id string) (string, error) {
	if key, ok := d.Load(id); ok {
		return fmt.Sprint(key), nil
	}
	return "", errors.New("no key")
}

// requireAbsent wants a share nowhere, and what is no secret everywhere: the search works.
func (s *scanned) requireAbsent(shares ...[]byte) {
	for i, share := range shares {
		require.Empty(s.t, s.memory.show(share), "share %d", i)
		require.Empty(s.t, s.seen.show(share), "share %d", i)
	}
	id, err := client.ParseShare(shares[0])
	require.NoError(s.t, err)
	for _, name := range []string{"the service", "a worker"} {
		require.NotNil(s.t, s.memory.pages[name])
		found := bytes.Contains(s.memory.pages[name].all(), []byte(id.WalletID()))
		require.True(s.t, found, "%s knows the wallet's id", name)
	}
}

// In device-held runs the client's share is never in the service's memory, a worker's, or any
// file of theirs: at no message of any run, and not afterwards. It is so on SECP256K1 too:
// TestLongDeviceHeldECDSAShareIsNowhere.
func TestDeviceHeldShareIsNowhere(t *testing.T) {
	t.Parallel()
	s := newScanned(t)
	cloud := &drawer{}
	phone := newDevice(t, s.svc, cloud, s.scan)
	first, err := phone.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	b, err := phone.BackupWallet(t.Context(), first, client.MethodICloud, nil)
	require.NoError(t, err)
	require.NoError(t, phone.ConfirmBackup(t.Context(), b, b.CipherText))
	backup, err := phone.DecryptBackup(t.Context(), b.CipherText, client.MethodICloud)
	require.NoError(t, err)
	second, err := phone.ProvisionWallet(t.Context(), b.CipherText, client.MethodICloud, nil)
	require.NoError(t, err)
	for _, share := range []*client.Share{first, second} {
		_, err := phone.Sign(t.Context(), share, client.CurveEd25519, []byte("x"))
		require.NoError(t, err)
	}
	s.scan()
	s.requireAbsent(first.Bytes(), backup.Bytes(), second.Bytes())
}

// The positive control: the same search finds a client's share in a hosted run, where it has
// to be.
func TestHostedShareIsInMemory(t *testing.T) {
	t.Parallel()
	s := newScanned(t)
	s.api.each = nil
	_, backup := s.api.stocked(t)
	s.api.each = func(proto.Message) { s.scan() }
	_, err := s.api.provision(t.Context(), backup, uuid.NewString(), "")
	require.NoError(t, err)
	require.NotEmpty(t, s.memory.show(backup.share))
	require.Empty(t, s.seen.show(backup.share), "in no file even so")
}
