package client_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpcd/mpcd/client"
	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// customer is a wallet and its backup at a real service whose custodian fails as the test specifies.
type customer struct {
	*servertest.Service
	share  *client.Share
	backup *client.Backup
	cloud  keysInMemory

	mu      sync.Mutex // guards what follows
	fails   func(n int) error
	fetches int
	stored  int
}

// keysInMemory is a KeyStorage.
type keysInMemory struct{ byID *sync.Map }

func (k keysInMemory) PutKey(_ context.Context, id, key string) error {
	k.byID.Store(id, key)
	return nil
}

func (k keysInMemory) GetKey(_ context.Context, id string) (string, error) {
	if key, ok := k.byID.Load(id); ok {
		return key.(string), nil //nolint:errcheck // nothing else is put in
	}
	return "", errors.New("no key")
}

// before returns a hook that counts its calls in n, and fails as the test specifies.
func (c *customer) before(n *int) func(context.Context) error {
	return func(context.Context) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		*n++
		if c.fails == nil {
			return nil
		}
		return c.fails(*n)
	}
}

// does sets how the custodian fails from now on, and resets the counts.
func (c *customer) does(fails func(n int) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fails, c.fetches, c.stored = fails, 0, 0
}

// runs returns how many runs reached the custodian.
func (c *customer) runs() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fetches + c.stored
}

func newCustomer(t *testing.T, cfg servertest.Config) *customer {
	t.Helper()
	c := &customer{cloud: keysInMemory{new(sync.Map)}}
	cfg.Wrap = func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: c.before(&c.fetches), BeforeDeposit: c.before(&c.stored)}
	}
	c.Service = servertest.Start(t, cfg)
	phone, _ := c.phone(t)
	var err error
	c.share, err = phone.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	c.backup, err = phone.BackupWallet(t.Context(), c.share, client.MethodICloud, nil)
	require.NoError(t, err)
	require.NoError(t, phone.ConfirmBackup(t.Context(), c.backup, c.backup.CipherText))
	return c
}

// phone returns a device of the customer, and the waits between its tries, which are recorded and skipped.
func (c *customer) phone(t *testing.T, opts ...client.Option) (*client.Client, *[]time.Duration) {
	t.Helper()
	p, err := client.New(c.Conn, append(opts, client.WithCurves(client.CurveEd25519), client.WithCloudKey(client.MethodICloud, c.cloud),
		client.WithStore(func(context.Context, *client.Share) error { return nil }))...)
	require.NoError(t, err)
	waits := new([]time.Duration)
	p.SetRest(func(ctx context.Context, d time.Duration) error {
		*waits = append(*waits, d)
		return ctx.Err()
	})
	return p, waits
}

// everyRun calls test for a backup and a provision, hosted and device-held.
func (c *customer) everyRun(
	t *testing.T, test func(t *testing.T, waits *[]time.Duration, run func(client.ProgressFunc) error),
) {
	t.Helper()
	for mode, opts := range map[string][]client.Option{"hosted": nil, "device-held": {client.WithDeviceHeldShares()}} {
		phone, waits := c.phone(t, opts...)
		for operation, run := range map[string]func(client.ProgressFunc) error{
			"backup": func(r client.ProgressFunc) error {
				_, err := phone.BackupWallet(t.Context(), c.share, client.MethodICloud, r)
				return err
			},
			"provision": func(r client.ProgressFunc) error {
				_, err := phone.ProvisionWallet(t.Context(), c.backup.CipherText, client.MethodICloud, r)
				return err
			},
		} {
			*waits = nil
			t.Run(mode+" "+operation, func(t *testing.T) { test(t, waits, run) })
		}
	}
}

func fails(w *session.WebhookError) func(int) error {
	return func(int) error { return w }
}

// If the custodian stays down, a backup and a provision end with its error after a bounded number of runs, with growing
// waits even though each run makes progress.
func TestCustodianIsDownForGood(t *testing.T) {
	t.Parallel()
	c := newCustomer(t, servertest.Config{})
	c.everyRun(t, func(t *testing.T, waits *[]time.Duration, run func(client.ProgressFunc) error) {
		c.does(fails(&session.WebhookError{Err: errors.New("connection refused")}))
		onProgress, all := gather()
		err := run(onProgress)
		var e *client.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, "WEBHOOK_FAILED", e.Reason)
		require.Positive(t, e.RetryAfter)
		require.Contains(t, e.Message, "Repeat the call")
		require.Equal(t, client.MaxAttempts, c.runs(), "runs of the protocol")
		require.Len(t, *waits, client.MaxAttempts-1)
		require.GreaterOrEqual(t, slices.Min(*waits), 2*time.Second, "as the service said")
		require.GreaterOrEqual(t, (*waits)[client.MaxAttempts-2], 5*time.Second, "a new attempt does not reset the wait")
		require.LessOrEqual(t, (*all)[len(*all)-1].Attempt, uint32(client.MaxAttempts))
	})
}

// Once the custodian is back, the call succeeds, in one session.
func TestCustodianComesBack(t *testing.T) {
	t.Parallel()
	c := newCustomer(t, servertest.Config{})
	c.everyRun(t, func(t *testing.T, _ *[]time.Duration, run func(client.ProgressFunc) error) {
		c.does(func(n int) error {
			if n <= 3 {
				return &session.WebhookError{Err: errors.New("connection refused")}
			}
			return nil
		})
		onProgress, all := gather()
		require.NoError(t, run(onProgress))
		require.Equal(t, 4, c.runs())
		var ids []string
		for _, p := range *all {
			if p.SessionID != "" {
				ids = append(ids, p.SessionID)
			}
		}
		require.Len(t, slices.Compact(ids), 1)
	})
}

// A custodian's refusal is not retried. Its error says who must act, and is recorded in the session.
func TestCustodianRefuses(t *testing.T) {
	t.Parallel()
	c := newCustomer(t, servertest.Config{})
	c.everyRun(t, func(t *testing.T, waits *[]time.Duration, run func(client.ProgressFunc) error) {
		c.does(fails(&session.WebhookError{Permanent: true, Err: errors.New("answered 403")}))
		onProgress, all := gather()
		err := run(onProgress)
		var e *client.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, "WEBHOOK_FAILED", e.Reason)
		require.Zero(t, e.RetryAfter)
		require.Contains(t, e.Message, "refused")
		require.Contains(t, e.Message, "operator")
		require.NotContains(t, e.Message, "epeat")
		require.Equal(t, 1, c.runs())
		require.Empty(t, *waits)
		s, err := c.GetSession(t.Context(), &mpcdv1.GetSessionRequest{SessionId: (*all)[len(*all)-1].SessionID})
		require.NoError(t, err)
		require.Equal(t, mpcdv1.SessionState_SESSION_STATE_FAILED, s.GetSession().GetState())
		require.Equal(t, "WEBHOOK_FAILED", s.GetSession().GetError().GetReason())
		require.Equal(t, e.Message, s.GetSession().GetError().GetMessage())
	})
}

// The call retries after the custodian's Retry-After. If that is longer than the call would wait, it fails at once.
func TestCustodianSaysWhen(t *testing.T) {
	t.Parallel()
	c := newCustomer(t, servertest.Config{})
	c.everyRun(t, func(t *testing.T, waits *[]time.Duration, run func(client.ProgressFunc) error) {
		c.does(func(n int) error {
			if n == 1 {
				return &session.WebhookError{RetryAfter: 40 * time.Second, Err: errors.New("answered 429")}
			}
			return nil
		})
		require.NoError(t, run(nil))
		require.Len(t, *waits, 1)
		require.GreaterOrEqual(t, (*waits)[0], 40*time.Second)

		*waits = nil
		c.does(fails(&session.WebhookError{RetryAfter: time.Hour, Err: errors.New("answered 503")}))
		var e *client.Error
		require.ErrorAs(t, run(nil), &e)
		require.Equal(t, time.Hour, e.RetryAfter)
		require.Equal(t, 1, c.runs())
		require.Empty(t, *waits)
	})
}

// Five apps were killed while they signed. A sixth waits until the service has ended their runs.
func TestSignWaitsForSilentRuns(t *testing.T) {
	t.Parallel()
	c := newCustomer(t, servertest.Config{Sessions: session.Config{DeviceSilence: 4 * time.Second}})
	for range 5 {
		instance := uuid.NewString()
		stream, err := c.SignWithDevice(t.Context(), &mpcdv1.SignWithDeviceRequest{
			WalletId: c.share.WalletID(), RequestId: uuid.NewString(), Curve: mpcdv1.Curve_CURVE_ED25519, Payload: []byte("x"),
			Device: &mpcdv1.DeviceSide{ShareSetId: c.share.ShareSetID(), Instance: instance},
		})
		require.NoError(t, err)
		first, err := stream.Recv()
		require.NoError(t, err)
		id := first.GetProgress().GetSessionId()
		hello := servertest.Hello(t, c.share.Bytes(), tss.HelloContext{
			Operation: tss.OperationSign, SessionID: id, Attempt: 1, Instance: instance, Payload: []byte("x"),
		})
		_, err = c.SendMessages(t.Context(), &mpcdv1.SendMessagesRequest{
			SessionId: id, Instance: instance, Attempt: 1, Messages: []*mpcdv1.ProtocolMessage{hello},
		})
		require.NoError(t, err)
		for began := false; !began; {
			m, err := stream.Recv()
			require.NoError(t, err)
			began = m.GetMessage() != nil
		}
	}
	phone, _ := c.phone(t, client.WithDeviceHeldShares())
	waited := 0
	phone.SetRest(func(ctx context.Context, d time.Duration) error {
		waited++
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	_, err := phone.Sign(t.Context(), c.share, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)
	require.Positive(t, waited, "the call did not have to wait")
}

// A device-held run survives if its messages cannot be sent for longer than the short patience for a wrong address.
func TestMessagesWaitForTheNetwork(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex // guards gone
	var gone time.Time
	c := newCustomer(t, servertest.Config{Dial: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
		func(
			ctx context.Context, method string, req, reply any,
			cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
		) error {
			if method == mpcdv1.WalletService_SendMessages_FullMethodName {
				mu.Lock()
				defer mu.Unlock()
				if gone.IsZero() {
					gone = time.Now()
				}
				if time.Since(gone) < 8*time.Second {
					return status.Error(codes.Unavailable, "no network")
				}
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		})}})
	phone, err := client.New(c.Conn, client.WithDeviceHeldShares())
	require.NoError(t, err)
	_, err = phone.Sign(t.Context(), c.share, client.CurveEd25519, []byte("x"))
	require.NoError(t, err)
}
