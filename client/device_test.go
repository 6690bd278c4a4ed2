package client_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/mpcd/mpcd/client"
	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// onMessage calls f before each of the device's messages is sent, except its hello, which has no pre-params.
func onMessage(f func()) grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if r, ok := req.(*mpcdv1.SendMessagesRequest); ok {
			for _, m := range r.GetMessages() {
				if m.GetHello() == nil {
					f()
					break
				}
			}
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
}

// newECDSA returns a device whose wallets have a SECP256K1 key only.
func newECDSA(t *testing.T, s *servertest.Service, store client.PreParamsStore, key string, source func(context.Context) (*tss.PreParams, error)) *client.Client {
	t.Helper()
	c, err := client.New(s.Conn, client.WithDeviceHeldShares(), client.WithCurves(client.CurveSecp256k1), client.WithPreParamsStore(store, key),
		client.WithStore(func(context.Context, *client.Share) error { return errors.New("no run gets so far") }))
	require.NoError(t, err)
	c.SetPreParamsSource(source)
	return c
}

// hasLocalStep reports whether a step says that this device generates pre-params. The service does not send that step,
// so it has the sequence number of the one before.
func hasLocalStep(steps []client.Progress) (found bool) {
	for i, p := range steps[:len(steps)-1] {
		next := steps[i+1]
		if next.Status == client.StatusGenerating && next.Curve == "SECP256K1" && next.Rounds == 0 && next.Sequence == p.Sequence && p.Sequence > 0 {
			found = true
		}
	}
	return found
}

// A set is deleted from the store before the first message that contains its numbers is sent. If the app crashes then,
// it generates another set after its restart.
func TestSetIsGoneBeforeItsFirstMessageLeaves(t *testing.T) {
	store, key, s := newMemoryStore(), newKey(t), newSource(t, 6)
	ctx, crash := context.WithCancel(t.Context())
	left := make(chan []string, 16)
	service := servertest.Start(t, servertest.Config{Dial: []grpc.DialOption{onMessage(func() {
		left <- store.ids()
		crash()
	})}})
	c := newECDSA(t, service, store, key, s.next)
	require.NoError(t, c.Prewarm(ctx, 2, nil))
	before := store.ids()
	var steps []client.Progress
	_, err := c.CreateWallet(ctx, func(p client.Progress) { steps = append(steps, p) })
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, hasLocalStep(steps))
	at := <-left
	require.Len(t, at, 1)
	require.Subset(t, before, at)
	require.Equal(t, at, store.ids())
	require.Equal(t, 2, s.made, "a set was generated in the run")

	again := newECDSA(t, service, store, key, s.next)
	require.NotNil(t, again.TakePreParams(t.Context()))
	require.Nil(t, again.TakePreParams(t.Context()))
}

// A device without a prewarmed set generates one while the service waits, and reports that as progress instead of the
// service's first round.
func TestMakingPreParamsIsShown(t *testing.T) {
	store, s := newMemoryStore(), newSource(t, 6)
	ctx, crash := context.WithCancel(t.Context())
	makes, shown := make(chan struct{}), make(chan struct{})
	var here, there sync.Once
	// The service's first round is held back until the device has begun to generate its set, and the set until that round
	// was reported.
	cfg := servertest.Config{Dial: []grpc.DialOption{onMessage(crash)}, Wrap: func(p *session.Ports) {
		p.PreParams = &servertest.PreParams{Source: p.PreParams, Before: func(ctx context.Context) error {
			select {
			case <-makes:
			case <-ctx.Done():
			}
			return nil
		}}
	}}
	var first atomic.Uint32 // the sequence of the service's first round
	cfg.Dial = append(cfg.Dial, onResponse(func(r *mpcdv1.CreateWalletResponse) {
		if p := r.GetProgress(); p.GetRounds() > 0 {
			first.CompareAndSwap(0, p.GetSequence())
		}
	}))
	service := servertest.Start(t, cfg)
	c := newECDSA(t, service, store, newKey(t), func(ctx context.Context) (*tss.PreParams, error) {
		here.Do(func() { close(makes) })
		select {
		case <-shown:
			return s.next(ctx)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	var steps []client.Progress
	_, err := c.CreateWallet(ctx, func(p client.Progress) {
		steps = append(steps, p)
		if p.Sequence != 0 && p.Sequence == first.Load() {
			there.Do(func() { close(shown) })
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, hasLocalStep(steps), steps)
	for _, p := range steps {
		if p.Sequence == first.Load() {
			require.Equal(t, client.StatusGenerating, p.Status)
			require.Zero(t, p.Rounds, "pre-params are being generated")
		}
	}
	require.NotZero(t, first.Load())
}

// A run ends with its context, whatever it is doing.
func TestDeviceHeldRunIsCancelled(t *testing.T) {
	var cancel context.CancelFunc
	var mu sync.Mutex // guards cancel
	service := servertest.Start(t, servertest.Config{Dial: []grpc.DialOption{onMessage(func() {
		mu.Lock()
		defer mu.Unlock()
		cancel()
	})}})
	c, err := client.New(service.Conn, client.WithDeviceHeldShares(), client.WithCurves(client.CurveEd25519),
		client.WithStore(func(context.Context, *client.Share) error { return errors.New("no run gets so far") }))
	require.NoError(t, err)
	for range 12 {
		ctx, stop := context.WithCancel(t.Context())
		mu.Lock()
		cancel = stop
		mu.Unlock()
		_, err := c.CreateWallet(ctx, nil)
		require.ErrorIs(t, err, context.Canceled)
	}
}

// The service's description of a set that the device has made is checked against the request.
func TestOutcomeOfADeviceHeldRun(t *testing.T) {
	lie := func(r *mpcdv1.CreateWalletResponse) {
		if set := r.GetOutcome().GetShareSet(); set != nil {
			set.Purpose = mpcdv1.Purpose_PURPOSE_BACKUP
		}
	}
	service := servertest.Start(t, servertest.Config{Dial: []grpc.DialOption{onResponse(lie)}})
	c, err := client.New(service.Conn, client.WithDeviceHeldShares(), client.WithCurves(client.CurveEd25519),
		client.WithStore(func(context.Context, *client.Share) error { return errors.New("no run gets so far") }))
	require.NoError(t, err)
	_, err = c.CreateWallet(t.Context(), nil)
	require.ErrorIs(t, err, client.ErrBadAnswer)
	require.ErrorContains(t, err, "the share set is not of purpose SIGNING")
}

// onResponse calls look with a new wallet's responses before the SDK receives them.
func onResponse(look func(*mpcdv1.CreateWalletResponse)) grpc.DialOption {
	return grpc.WithStreamInterceptor(func(
		ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
		streamer grpc.Streamer, opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		stream, err := streamer(ctx, desc, cc, method, opts...)
		return &watchedStream{stream, look}, err
	})
}

type watchedStream struct {
	grpc.ClientStream
	look func(*mpcdv1.CreateWalletResponse)
}

func (w *watchedStream) RecvMsg(m any) error {
	err := w.ClientStream.RecvMsg(m)
	if r, ok := m.(*mpcdv1.CreateWalletResponse); err == nil && ok {
		w.look(r)
	}
	return err
}
