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

// StoreFunc stores a new SIGNING share on this device. It must return nil only once the share would survive a crash:
// the set is confirmed to the service right after that. If it fails, nothing is confirmed and the operation fails with
// ErrNotStored.
type StoreFunc func(ctx context.Context, share *Share) error

// KeyStorage stores the keys of one backup method in the user's own cloud storage. It must be separate from where the
// ciphertexts are stored: key and ciphertext together give the backup share. Each backup has its own key. A key is an
// age identity (AGE-SECRET-KEY-1...).
type KeyStorage interface {
	// PutKey stores the key of the backup with this share set id. The key is durable once PutKey has returned nil.
	// It never overwrites another backup's key.
	PutKey(ctx context.Context, shareSetID, key string) error
	// GetKey returns the key that PutKey stored, or an error if there is none.
	GetKey(ctx context.Context, shareSetID string) (string, error)
}

// Client calls one mpcd service on behalf of one user. It is safe for concurrent use.
type Client struct {
	service     mpcdv1.WalletServiceClient
	store       StoreFunc
	displayName string
	owner       string
	curves      []Curve // of new wallets; empty means all
	clouds      map[BackupMethod]KeyStorage
	workFactor  int // scrypt's log2(N) of new password backups
	deviceHeld  bool
	preParams   *preParamsPool // where Prewarm stores its sets; nil: in prewarmed
	prewarming  chan struct{}  // has a value while a Prewarm runs

	rest         func(context.Context, time.Duration) error    // waits between two tries; replaced in tests
	newPreParams func(context.Context) (*tss.PreParams, error) // generates a set; replaced in tests

	mu        sync.Mutex       // guards what follows
	prewarmed []*tss.PreParams // made by Prewarm
	password  []secret.Bytes   // the first form encrypts, all are tried to decrypt; empty until SetPassword
	keys      map[keyID][]byte // the wallets' public keys, as pinned or first seen
}

// Option configures a Client.
type Option func(*Client) error

// New returns a client that uses conn and its credentials. The caller closes conn. It fails if an option is invalid.
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

// WithStore sets where new signing shares are stored. CreateWallet, ProvisionWallet and RecoverWallet need it.
func WithStore(store StoreFunc) Option {
	return func(c *Client) error {
		c.store = store
		return nil
	}
}

// WithDisplayName sets this device's name in the share sets that it creates: at most 128 characters (code points).
// Control characters, line separators, bidi embeddings and overrides, and unclosed isolates are rejected; joined emoji
// and direction marks are allowed.
func WithDisplayName(name string) Option {
	return func(c *Client) error {
		c.displayName = name
		return checkName("the display name", name, names.MaxDisplayName)
	}
}

// WithOwner sets the owner of the wallets that are created and listed, if it is not the caller: at most 256 characters,
// with the restrictions of WithDisplayName. Owners are compared byte for byte.
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

// WithWorkFactor sets the cost of each guess at the password of a new PASSWORD backup: scrypt with N = 2^logN, from 15
// to 20; the default is 18. Making and opening the backup take N KiB of memory (15: 32 MiB, 18: 256 MiB, 20: 1 GiB) and
// time that doubles with each step. Below 17 the password itself must be hard to guess. Backups of any work factor up
// to 20 open with any setting.
func WithWorkFactor(logN int) Option {
	return func(c *Client) error {
		if logN < minWorkFactor || logN > maxWorkFactor {
			return fmt.Errorf("client: a work factor of %d: use %d to %d", logN, minWorkFactor, maxWorkFactor)
		}
		c.workFactor = logN
		return nil
	}
}

// WithCurves sets the curves of a new wallet's keys. The default is all curves.
func WithCurves(curves ...Curve) Option {
	return func(c *Client) error {
		ordered, err := canonicalCurves(curves)
		c.curves = ordered
		return err
	}
}

// WithCloudKey sets where the keys of backups of one method are stored. Every method except MethodPassword needs it.
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

// Format implements fmt.Formatter: it prints "[redacted]", since a client has a password.
func (c *Client) Format(f fmt.State, _ rune) { secret.Format(f) }
