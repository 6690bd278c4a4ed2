package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/names"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// StoreFunc keeps a new SIGNING share on this device. It returns nil only when the share
// would survive a crash: the set is confirmed to the service right after that. When it
// fails, nothing is confirmed and the operation fails with ErrNotStored.
type StoreFunc func(ctx context.Context, share *Share) error

// KeyStorage keeps the keys of one backup method in the user's own cloud storage, never
// with the ciphertext: whoever has both has the backup share. Each backup has a key of its
// own. A key is an age identity (AGE-SECRET-KEY-1...).
type KeyStorage interface {
	// PutKey keeps the key of the backup with this share set id. It is durable when it
	// returns nil, and never takes away another backup's key.
	PutKey(ctx context.Context, shareSetID, key string) error
	// GetKey returns what PutKey kept, or an error when there is nothing.
	GetKey(ctx context.Context, shareSetID string) (string, error)
}

// Client calls one mpcd service for one user of it. It is safe for concurrent use.
type Client struct {
	service     mpcdv1.WalletServiceClient
	store       StoreFunc
	displayName string
	owner       string
	curves      []Curve // what the app asked for; empty means all
	clouds      map[BackupMethod]KeyStorage
	workFactor  int // scrypt's log2(N) of new password backups
	deviceHeld  bool
	shelf       *shelf        // where Prewarm keeps its sets; nil: in ahead
	prewarming  chan struct{} // has a value while a Prewarm works

	rest         func(context.Context, time.Duration) error    // between two tries; waits, but for tests
	newPreParams func(context.Context) (*tss.PreParams, error) // searches primes, but for tests

	mu       sync.Mutex       // guards what follows
	ahead    []*tss.PreParams // made by Prewarm
	password []secret.Bytes   // first as it encrypts, then as it opens older backups too; none until SetPassword
	keys     map[keyID][]byte // the wallets' public keys, as first seen
}

// Option sets up a Client.
type Option func(*Client) error

// New returns a client on a connection, which stays the caller's to close. Credentials are
// the connection's. It fails when an option makes no sense.
func New(conn grpc.ClientConnInterface, opts ...Option) (*Client, error) {
	if conn == nil {
		return nil, errors.New("client: no connection")
	}
	c := &Client{
		service:      mpcdv1.NewWalletServiceClient(conn),
		clouds:       make(map[BackupMethod]KeyStorage),
		workFactor:   defaultWorkFactor,
		keys:         make(map[keyID][]byte),
		prewarming:   make(chan struct{}, 1),
		rest:         rest,
		newPreParams: func(ctx context.Context) (*tss.PreParams, error) { return tss.GeneratePreParams(ctx, 0) },
	}
	for _, opt := range opts {
		if err := opt(c); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// WithStore says where new signing shares go. CreateWallet, ProvisionWallet and
// RecoverWallet need it.
func WithStore(store StoreFunc) Option {
	return func(c *Client) error {
		c.store = store
		return nil
	}
}

// WithDisplayName names this device in the share sets that it makes: with at most 128
// characters (code points) of any text but control characters, line separators, bidi
// embeddings and overrides, and isolates that are not closed. Whatever a phone is called
// fits, joined emoji and direction marks included.
func WithDisplayName(name string) Option {
	return func(c *Client) error {
		c.displayName = name
		return checkName("the display name", name, names.MaxDisplayName)
	}
}

// WithOwner says whose wallets are created and listed, when it is not the caller itself: at
// most 256 characters of the text that WithDisplayName takes. Owners are compared byte for
// byte.
func WithOwner(owner string) Option {
	return func(c *Client) error {
		c.owner = owner
		return checkName("the owner", owner, names.MaxOwner)
	}
}

func checkName(what, name string, most int) error {
	if err := names.Check(name, most); err != nil {
		return fmt.Errorf("client: %s %w", what, err)
	}
	return nil
}

// WithWorkFactor says how much work a new PASSWORD backup makes of each guess: scrypt with
// N = 2^logN, from 15 to 20, and 18 without it. Making and opening the backup take the time,
// which doubles with each step, and N KiB of memory: 15 takes 32 MiB, 18 takes 256 MiB, 20
// takes 1 GiB. Below 17 the password must be hard to guess by itself. Backups of any work
// factor up to 20 open with any setting.
func WithWorkFactor(logN int) Option {
	return func(c *Client) error {
		if logN < minWorkFactor || logN > maxWorkFactor {
			return fmt.Errorf("client: a work factor of %d: use %d to %d", logN, minWorkFactor, maxWorkFactor)
		}
		c.workFactor = logN
		return nil
	}
}

// WithCurves says which keys a new wallet has. Without it, it has all.
func WithCurves(curves ...Curve) Option {
	return func(c *Client) error {
		ordered, err := inOrder(curves)
		c.curves = ordered
		return err
	}
}

// WithCloudKey says where the keys of backups of one method are kept. Any method but
// MethodPassword needs it.
func WithCloudKey(method BackupMethod, storage KeyStorage) Option {
	return func(c *Client) error {
		if err := method.check(); err != nil {
			return err
		}
		if method == MethodPassword || storage == nil {
			return fmt.Errorf("client: a key storage is for a method other than PASSWORD, and not nil")
		}
		c.clouds[method] = storage
		return nil
	}
}

// Format implements fmt.Formatter: a client has a password in it.
func (c *Client) Format(f fmt.State, _ rune) { secret.Format(f) }
