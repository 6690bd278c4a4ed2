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

// stops is a Link that is stopped behind so many parts, of which the last may be altered.
type stops struct {
	*wire
	left  int
	alter func(tss.Part) tss.Part
}

var errWhy = errors.New("somebody has had enough")

func (s *stops) Recv(ctx context.Context) (tss.Part, error) {
	if s.left == 0 {
		return tss.Part{}, fmt.Errorf("%w: %w", tss.ErrStopped, errWhy)
	}
	p, err := s.wire.Recv(ctx)
	if s.left--; s.left == 0 && s.alter != nil && err == nil {
		p = s.alter(p)
	}
	return p, err
}

// stopped runs a service's side that is stopped behind so many of the client's parts.
func (d *device) stopped(t *testing.T, after int, alter func(tss.Part) tss.Part) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	up, down := make(chan tss.Part, 64), make(chan tss.Part, 64)
	var busy, wg sync.WaitGroup
	for _, j := range d.joints {
		j.Observer.Busy = &busy
	}
	wg.Go(func() { _, _ = d.joints[tss.Client].Run(ctx, &wire{in: down, out: up}) }) // ends with ctx, if not before
	out, err := d.joints[tss.Server].Run(ctx, &stops{&wire{in: up, out: down}, after, alter})
	require.Equal(t, err == nil, out != nil)
	cancel()
	wg.Wait()
	busy.Wait()
	return err
}

// A side that is stopped says so when it has looked at all that came, each time: behind every
// part of every operation. What came and was wrong is the other side's fault all the same.
func TestStopped(t *testing.T) {
	t.Parallel()
	first := newDevice("CREATE", nil, tss.Ed25519).made(t)
	for _, op := range []string{"CREATE", "BACKUP", tss.OperationSign} {
		begin := func() *device {
			from := first
			if op == "CREATE" {
				from = nil
			}
			d := newDevice(op, from, tss.Ed25519)
			if op == tss.OperationSign {
				d.joints[tss.Server].ShareSetID = ""
			}
			for _, j := range d.joints {
				j.Payload = []byte("x")
			}
			return d
		}
		var said []tss.Part
		d := begin()
		d.meddle[tss.Client] = func(p tss.Part) []tss.Part {
			said = append(said, p)
			return []tss.Part{p}
		}
		_, errs := d.run(t.Context())
		require.NoError(t, errors.Join(errs[:]...))
		require.NoError(t, begin().stopped(t, len(said), nil), "%s: behind its last part there is nothing to wait for", op)
		var fault *tss.ProtocolError
		for n := range said {
			err := begin().stopped(t, n, nil)
			require.ErrorIs(t, err, tss.ErrStopped, "%s: behind %d parts", op, n)
			require.ErrorIs(t, err, errWhy)
			require.NotErrorAs(t, err, &fault)
			if said[n].Message == nil && said[n].MAC == nil {
				continue // a hello's nonce and an end's hash show in the MAC alone
			}
			err = begin().stopped(t, n+1, altered)
			require.ErrorAs(t, err, &fault, "%s: part %d", op, n)
			require.Equal(t, tss.Client, fault.Culprit)
		}
	}
}

// altered is a part that is wrong.
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

// A gate that is stopped lets nothing out, and what came is looked at.
func TestStoppedAtAGate(t *testing.T) {
	t.Parallel()
	s := newDevice("CREATE", nil, tss.Ed25519).made(t)
	for wrong, alter := range map[bool]func(tss.Part) tss.Part{false: nil, true: altered} {
		d := newDevice(tss.OperationSign, s, tss.Ed25519)
		for _, j := range d.joints {
			j.Payload = []byte("x")
		}
		d.joints[tss.Server].ShareSetID = ""
		// Its last message does not need the client's, which comes behind a hello and two others.
		d.joints[tss.Server].BeforeRelease = func(context.Context, tss.ReleasePoint) error { return tss.ErrStopped }
		err := d.stopped(t, 4, alter)
		var fault *tss.ProtocolError
		require.Equal(t, wrong, errors.As(err, &fault), "%v", err)
		require.Equal(t, !wrong, errors.Is(err, tss.ErrStopped), "%v", err)
	}
}
