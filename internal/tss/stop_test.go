package tss_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

// stops is a Link that returns ErrStopped after a number of parts, of which alter may change the last one.
type stops struct {
	*wire
	left  int
	alter func(tss.Part) tss.Part
}

var errReason = errors.New("cancelled by the caller")

func (s *stops) Recv(ctx context.Context) (tss.Part, error) {
	if s.left == 0 {
		return tss.Part{}, fmt.Errorf("%w: %w", tss.ErrStopped, errReason)
	}
	p, err := s.wire.Recv(ctx)
	if s.left--; s.left == 0 && s.alter != nil && err == nil {
		p = s.alter(p)
	}
	return p, err
}

// stopped runs both sides, and stops the server's after a number of the client's parts.
func (d *device) stopped(t *testing.T, after int, alter func(tss.Part) tss.Part) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	up, down := make(chan tss.Part, 64), make(chan tss.Part, 64)
	var busy, wg sync.WaitGroup
	for _, j := range d.operations {
		j.Observer.Busy = &busy
	}
	wg.Go(func() { _, _ = d.operations[tss.Client].Run(ctx, &wire{in: down, out: up}) }) // ends with ctx at the latest
	out, err := d.operations[tss.Server].Run(ctx, &stops{&wire{in: up, out: down}, after, alter})
	require.Equal(t, err == nil, out != nil)
	cancel()
	wg.Wait()
	busy.Wait()
	return err
}

// A side that is stopped, after any part of any operation, returns ErrStopped after it has processed everything that
// arrived. For a wrong part among it the side still blames the other one.
func TestStopped(t *testing.T) {
	t.Parallel()
	first := newDevice("CREATE", nil, tss.Ed25519).makeSet(t)
	for _, op := range []string{"CREATE", "BACKUP", tss.OperationSign} {
		newRun := func() *device {
			from := first
			if op == "CREATE" {
				from = nil
			}
			d := newDevice(op, from, tss.Ed25519)
			if op == tss.OperationSign {
				d.operations[tss.Server].ShareSetID = ""
			}
			for _, j := range d.operations {
				j.Payload = []byte("x")
			}
			return d
		}
		var sent []tss.Part
		d := newRun()
		d.tamper[tss.Client] = func(p tss.Part) []tss.Part {
			sent = append(sent, p)
			return []tss.Part{p}
		}
		_, errs := d.run(t.Context())
		require.NoError(t, errors.Join(errs[:]...))
		require.NoError(t, newRun().stopped(t, len(sent), nil), "%s: after the last part the side waits for nothing", op)
		var fault *tss.ProtocolError
		for n := range sent {
			err := newRun().stopped(t, n, nil)
			require.ErrorIs(t, err, tss.ErrStopped, "%s: after %d parts", op, n)
			require.ErrorIs(t, err, errReason)
			require.NotErrorAs(t, err, &fault)
			if sent[n].Message == nil && sent[n].MAC == nil {
				continue // only the MAC covers a hello's nonce and an end's hash
			}
			err = newRun().stopped(t, n+1, altered)
			require.ErrorAs(t, err, &fault, "%s: part %d", op, n)
			require.Equal(t, tss.Client, fault.Culprit)
		}
	}
}

// altered returns a wrong part in place of p.
func altered(p tss.Part) tss.Part {
	if p.MAC != nil {
		p.MAC = make([]byte, len(p.MAC))
		return p
	}
	m := *p.Message
	m.Payload = append([]byte{}, m.Payload...)
	m.Payload[len(m.Payload)/2] ^= 4
	p.Message = &m
	return p
}

// If BeforeRelease returns ErrStopped, nothing is sent any more, and the parts that arrived are processed.
func TestStoppedBeforeRelease(t *testing.T) {
	t.Parallel()
	s := newDevice("CREATE", nil, tss.Ed25519).makeSet(t)
	for wrong, alter := range map[bool]func(tss.Part) tss.Part{false: nil, true: altered} {
		d := newDevice(tss.OperationSign, s, tss.Ed25519)
		for _, j := range d.operations {
			j.Payload = []byte("x")
		}
		d.operations[tss.Server].ShareSetID = ""
		// The server's last message does not depend on the client's, which is its fourth part.
		d.operations[tss.Server].BeforeRelease = func(context.Context, tss.ReleasePoint) error { return tss.ErrStopped }
		err := d.stopped(t, 4, alter)
		var fault *tss.ProtocolError
		require.Equal(t, wrong, errors.As(err, &fault), "%v", err)
		require.Equal(t, !wrong, errors.Is(err, tss.ErrStopped), "%v", err)
	}
}
