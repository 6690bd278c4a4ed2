package tss_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// recorder keeps what one side sends.
type recorder struct {
	tss.Conn
	mu  sync.Mutex // guards all
	all [][]byte
}

func (r *recorder) Send(ctx context.Context, m tss.Message) error {
	r.mu.Lock()
	r.all = append(r.all, bytes.Clone(m.Payload))
	r.mu.Unlock()
	return r.Conn.Send(ctx, m)
}

// recorded returns the client's messages of one run.
func recorded(t *testing.T, run func(p tss.Party, conn tss.Conn) error) [][]byte {
	t.Helper()
	var ends [2]tss.Conn
	ends[tss.Client], ends[tss.Server] = tss.Pipe()
	r := &recorder{Conn: ends[tss.Client]}
	ends[tss.Client] = r
	var errs [2]error
	var wg sync.WaitGroup
	for p, conn := range ends {
		wg.Go(func() { errs[p] = run(tss.Party(p), conn) })
	}
	wg.Wait()
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	return r.all
}

// TestHonestMessages writes the messages that the fuzz targets begin with, one honest one of
// each type, when it is run with -write. The fuzz targets check that they are there.
func TestHonestMessages(t *testing.T) {
	if !*write {
		return
	}
	set, source := tss.Vector(t, tss.Signing), tsstest.NewSource()
	var all [][]byte
	for _, c := range tss.Curves() {
		key, both := set.Key(t, c)
		keys, err := tss.NewPartyKeys(c)
		require.NoError(t, err)
		a, b := pre(t, c, source), pre(t, c, source)
		ctx := t.Context()
		for _, run := range []func(p tss.Party, conn tss.Conn) error{
			func(p tss.Party, conn tss.Conn) error {
				_, err := tss.Keygen(ctx, conn, tss.KeygenInput{Curve: c, Party: p, Keys: keys, PreParams: a[p]}, tss.Observer{})
				return err
			},
			func(p tss.Party, conn tss.Conn) error {
				_, err := tss.Reshare(ctx, conn, tss.ReshareInput{Party: p, Old: key, Share: both[p], NewKeys: keys, PreParams: b[p]}, tss.Observer{})
				return err
			},
			func(p tss.Party, conn tss.Conn) error {
				_, err := tss.Sign(ctx, conn, tss.SignInput{Party: p, Record: key, Share: both[p], Payload: digest("fuzz")}, tss.Observer{})
				return err
			},
		} {
			all = append(all, recorded(t, run)...)
		}
	}
	var out []byte
	for _, m := range all {
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(m))), m...)
	}
	require.NoError(t, os.WriteFile(tss.HonestFile, out, 0o600))
}
