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

// memory is the contents of processes' memory, at several times: their writable pages that were present.
type memory struct {
	mu    sync.Mutex // guards what follows
	pages map[string]pages
	buf   []byte // reused by read
}

// pages are distinct pages, each with the beginning of the next one, so that a secret across their boundary is found.
// Most pages do not change from one snapshot to the next.
type pages map[[sha256.Size]byte][]byte

const (
	page    = 4 << 10
	overlap = 512 // more than the longest encoding of a secret
)

func (p pages) add(run []byte) {
	for at := 0; at < len(run); at += page {
		b := run[at:min(at+page+overlap, len(run))]
		if sum := sha256.Sum256(b); p[sum] == nil {
			p[sum] = bytes.Clone(b)
		}
	}
}

// all returns all pages, concatenated.
func (p pages) all() []byte { return slices.Concat(slices.Collect(maps.Values(p))...) }

// add adds the current memory of a process, under a name. It adds nothing if the process has ended.
func (m *memory) add(name string, pid int) {
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
				run.from += max(uint64(len(b)), page) // skips a page that was unmapped meanwhile
			}
		}
	}
}

// span is a part of an address space.
type span struct{ from, to uint64 }

// present returns the runs of pages that are present: most pages that a Go program has mapped are not.
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

// read returns the content of a run of pages, up to the first that was unmapped meanwhile. The result is valid until
// the next call.
func (m *memory) read(mem *os.File, run span) []byte {
	m.buf = slices.Grow(m.buf[:0], int(run.to-run.from))[:run.to-run.from]
	n, _ := mem.ReadAt(m.buf, int64(run.from))
	return m.buf[:n]
}

// find returns the names under which a share's secrets were found at any time.
func (m *memory) find(share []byte) (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, p := range m.pages {
		if how := leaks.Find(p.all(), share); len(how) > 0 {
			names = append(names, fmt.Sprintf("%s: %v", name, how))
		}
	}
	return names
}

// scanned is a service whose memory and files are searched at every message.
type scanned struct {
	*watched
	memory memory
}

func newScanned(t *testing.T) *scanned {
	t.Helper()
	w := &watched{t: t, dir: t.TempDir(), seen: snapshots{}}
	require.NoError(t, seed(t.Context(), w.dir, 1))
	w.start()
	return &scanned{watched: w, memory: memory{pages: map[string]pages{}}}
}

// scan takes a snapshot of the service's memory, its workers' memory and its files.
func (s *scanned) scan() {
	s.memory.add("the service", s.svc.cmd.Process.Pid)
	for _, pid := range servertest.Children(s.t, s.svc.cmd.Process.Pid) {
		s.memory.add("a worker", pid)
	}
	s.snapshot()
}

// observedStream is a stream that calls a function at each protocol message.
type observedStream struct {
	grpc.ClientStream
	each func()
}

func (l observedStream) RecvMsg(m any) error {
	err := l.ClientStream.RecvMsg(m)
	if x, ok := m.(interface {
		GetMessage() *mpcdv1.ProtocolMessage
	}); ok && x.GetMessage() != nil {
		l.each()
	}
	return err
}

// newDevice returns a device-held client. each is called at every protocol message that it receives.
func newDevice(t *testing.T, svc *running, cloud client.KeyStorage, each func()) *client.Client {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+svc.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
			streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := streamer(ctx, desc, cc, method, opts...)
			return observedStream{stream, each}, err
		}))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	c, err := client.New(conn, client.WithDeviceHeldShares(), client.WithCurves(client.CurveEd25519),
		client.WithCloudKey(client.MethodICloud, cloud),
		client.WithStore(func(context.Context, *client.Share) error { return nil }))
	require.NoError(t, err)
	return c
}

// memoryCloud is a client.KeyStorage in memory.
type memoryCloud struct{ sync.Map }

func (d *memoryCloud) PutKey(_ context.Context, id, key string) error {
	d.Store(id, key)
	return nil
}

func (d *memoryCloud) GetKey(_ context.Context, id string) (string, error) {
	if key, ok := d.Load(id); ok {
		return fmt.Sprint(key), nil
	}
	return "", errors.New("no key")
}

// requireAbsent requires that the shares were found nowhere. As a positive control, the wallet's id must be found
// everywhere.
func (s *scanned) requireAbsent(shares ...[]byte) {
	for i, share := range shares {
		require.Empty(s.t, s.memory.find(share), "share %d", i)
		require.Empty(s.t, s.seen.find(share), "share %d", i)
	}
	id, err := client.ParseShare(shares[0])
	require.NoError(s.t, err)
	for _, name := range []string{"the service", "a worker"} {
		require.NotNil(s.t, s.memory.pages[name])
		found := bytes.Contains(s.memory.pages[name].all(), []byte(id.WalletID()))
		require.True(s.t, found, "positive control: %s has the wallet's id", name)
	}
}

// In device-held runs the client share is never in the memory of the service or its workers, or in any of their files,
// at any message of any run or afterwards. TestLongDeviceHeldECDSAShareIsNowhere checks SECP256K1.
func TestDeviceHeldShareIsNowhere(t *testing.T) {
	t.Parallel()
	s := newScanned(t)
	cloud := &memoryCloud{}
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

// Positive control: the same search finds the client share of a hosted run in the service's memory.
func TestHostedShareIsInMemory(t *testing.T) {
	t.Parallel()
	s := newScanned(t)
	s.api.each = nil
	_, backup := s.api.stocked(t)
	s.api.each = func(proto.Message) { s.scan() }
	_, err := s.api.provision(t.Context(), backup, uuid.NewString(), "")
	require.NoError(t, err)
	require.NotEmpty(t, s.memory.find(backup.share))
	require.Empty(t, s.seen.find(backup.share), "the share is in a file")
}
