package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// PreParamsStore stores the sets of pre-params that Prewarm generates, until an operation uses them. An entry is
// encrypted, so the store need not be secret, but it must be durable; an entry has about 2 KiB. Methods may be called
// concurrently.
//
// A deleted set must never reappear: the service aborts a run in which a wallet sees a set for the second time, and
// blames the device. Exclude the store from what the platform copies to other devices or restores from a backup (iOS:
// isExcludedFromBackup; Android: noBackupFilesDir).
type PreParamsStore interface {
	// PutPreParams stores an encrypted set under id, a fresh UUID. The set is durable once PutPreParams has returned
	// nil. After an error it may be stored or not.
	PutPreParams(ctx context.Context, id string, sealed []byte) error
	// PreParams returns all stored sets by id, as they were passed to PutPreParams. An empty store is not an error.
	// Concurrent callers all get every set.
	PreParams(ctx context.Context) (map[string][]byte, error)
	// DeletePreParams deletes a set permanently. It returns true only if the set existed and its deletion would survive
	// a crash, and false if there was no such set. Of concurrent callers exactly one gets true. After an error the set
	// may exist or not.
	DeletePreParams(ctx context.Context, id string) (deleted bool, err error)
}

// WithPreParamsStore makes Prewarm's sets survive restarts of the app. They are encrypted to key, an age identity
// (AGE-SECRET-KEY-1..., see NewPreParamsKey), which the app stores in the platform's key store, on this device only.
// The key can decrypt the sets, which are as secret as the shares made with them. Its recipient (age1...) must be
// secret too: with it an attacker could plant sets of their own. Several clients may use the same store and key.
//
// An operation deletes a set from the store before it uses it: nothing computed from the set leaves the device until
// the deletion is durable, and a set that cannot be deleted is not used. If the operation fails after that, the set is
// lost. Entries that do not contain a valid set are deleted and skipped. Entries encrypted to another key are left
// alone, so that a wrong key destroys nothing: an app that replaces its key must delete the old sets itself. Errors of
// the store are returned by Prewarm only; an operation that gets one generates its own set.
func WithPreParamsStore(store PreParamsStore, key string) Option {
	return func(c *Client) error {
		if store == nil {
			return errors.New("client: a store of pre-params must not be nil")
		}
		identity, err := age.ParseX25519Identity(strings.TrimSpace(key))
		if err != nil { // age's error may quote the key
			return errors.New("client: the key of the store of pre-params is not an age identity " +
				"(AGE-SECRET-KEY-1...): make one with NewPreParamsKey")
		}
		c.preParams = &preParamsPool{store: store, key: identity, taken: make(map[string]bool)}
		return nil
	}
}

// NewPreParamsKey generates a key for WithPreParamsStore. The key is a secret.
func NewPreParamsKey() (string, error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return "", fmt.Errorf("client: %w", err)
	}
	return key.String(), nil
}

// Prewarm generates sets of pre-params until the given number is ready. With WithDeviceHeldShares, each new share with
// a SECP256K1 key needs a set; generating one takes all cores of this device for seconds, which an operation that finds
// a prewarmed set saves. Call Prewarm in the background, when the app is idle. Operations may run meanwhile; one that
// finds no set generates its own.
//
// The sets are kept in the store of WithPreParamsStore, or in memory without one. Each is used once. onProgress, which
// may be nil, is called with the numbers of ready and wanted sets, the first time before any set is generated; there
// may be more ready than wanted. Concurrent calls run one after the other.
//
// When ctx is done or the store fails, Prewarm returns the error; sets stored by then stay. It counts the existing sets
// only at the beginning, and does not replace sets that operations take meanwhile.
func (c *Client) Prewarm(ctx context.Context, sets int, onProgress func(ready, of int)) error {
	select {
	case c.prewarming <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("client: %w", context.Cause(ctx))
	}
	defer func() { <-c.prewarming }()
	ready, err := c.countReady(ctx)
	if err != nil {
		return err
	}
	if onProgress == nil {
		onProgress = func(int, int) {}
	}
	onProgress(ready, sets)
	for ; ready < sets; ready++ {
		pre, err := c.newPreParams(ctx)
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		if err := c.storePreParams(ctx, pre); err != nil {
			return err
		}
		onProgress(ready+1, sets)
	}
	return nil
}

// countReady counts the sets that an operation could use.
func (c *Client) countReady(ctx context.Context) (n int, err error) {
	if c.preParams != nil {
		return c.preParams.count(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.prewarmed), nil
}

func (c *Client) storePreParams(ctx context.Context, pre *tss.PreParams) error {
	if c.preParams != nil {
		defer pre.Wipe()
		return c.preParams.put(ctx, pre)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prewarmed = append(c.prewarmed, pre)
	return nil
}

// takePrewarmed removes and returns a set that Prewarm generated, or returns nil. No set is returned twice.
func (c *Client) takePrewarmed(ctx context.Context) *tss.PreParams {
	if c.preParams != nil {
		return c.preParams.takeSet(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.prewarmed)
	if n == 0 {
		return nil
	}
	pre := c.prewarmed[n-1]
	c.prewarmed[n-1], c.prewarmed = nil, c.prewarmed[:n-1]
	return pre
}

// A sealed set is an age file with one X25519 recipient whose plaintext is the encoded set. A stanza that age ignores
// has the id under which the set is stored, so that a copy under another id is not accepted as another set:
//
//	-> mpcd-pre-params <id>
const preParamsStanza = "mpcd-pre-params"

// preParamsPool keeps sets in the app's store. It does not trust the store, whose entries may be old, truncated,
// swapped or forged.
type preParamsPool struct {
	store PreParamsStore
	key   *age.X25519Identity

	mu    sync.Mutex      // guards taken
	taken map[string]bool // ids of sets that were claimed, and must not be used again
}

// Format implements fmt.Formatter: it prints "[redacted]", since a pool has a key.
func (*preParamsPool) Format(f fmt.State, _ rune) { secret.Format(f) }

func (s *preParamsPool) put(ctx context.Context, pre *tss.PreParams) error {
	encoded, err := pre.Encode()
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer encoded.Wipe()
	id := uuid.NewString()
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, namedRecipient{s.key.Recipient(), preParamsStanza, id})
	if err == nil {
		_, err = w.Write(encoded.Reveal())
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return fmt.Errorf("client: seal pre-params: %w", err)
	}
	return wrapStoreError(s.store.PutPreParams(ctx, id, sealed.Bytes()))
}

func wrapStoreError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("client: the store of pre-params: %w", err)
}

// count counts the sets that this client can use, and deletes invalid entries.
func (s *preParamsPool) count(ctx context.Context) (n int, err error) {
	stored, err := s.store.PreParams(ctx)
	if err != nil {
		return 0, wrapStoreError(err)
	}
	for id, sealed := range stored {
		pre, err := s.open(id, sealed)
		switch {
		case err == nil && !s.isClaimed(id):
			n++
		case err != nil && !errors.Is(err, errOtherKey):
			_, _ = s.store.DeletePreParams(ctx, id) // if it fails, the next call tries again
		}
		pre.Wipe()
	}
	return n, nil
}

// takeSet returns a set that the store has confirmed to have deleted, or nil.
func (s *preParamsPool) takeSet(ctx context.Context) *tss.PreParams {
	stored, err := s.store.PreParams(ctx)
	if err != nil {
		return nil
	}
	for id, sealed := range stored {
		if !s.claim(id) {
			continue
		}
		pre, opened := s.open(id, sealed)
		if errors.Is(opened, errOtherKey) {
			continue
		}
		deleted, err := s.store.DeletePreParams(ctx, id)
		if err != nil {
			s.release(id)
		}
		if opened == nil && deleted && err == nil {
			return pre // its id stays claimed, even if the store lists it again
		}
		pre.Wipe()
	}
	return nil
}

// claim claims the set with the id for the calling operation. It returns false if another operation has claimed it.
func (s *preParamsPool) claim(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[id] {
		return false
	}
	s.taken[id] = true
	return true
}

func (s *preParamsPool) isClaimed(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken[id]
}

func (s *preParamsPool) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, id)
}

var (
	errOtherKey = errors.New("it was sealed to another key")
	errNoSet    = errors.New("it is not the set with this id")
)

// open decrypts and fully checks a sealed set. It fails with errOtherKey if the set is encrypted to another key, and
// with another error if it is not a valid set that was stored under id.
func (s *preParamsPool) open(id string, sealed []byte) (*tss.PreParams, error) {
	plain, err := decrypt(sealed, s.key)
	encoded := secret.New(plain)
	defer encoded.Wipe()
	if other := new(age.NoIdentityMatchError); errors.As(err, &other) {
		return nil, errOtherKey
	}
	if err != nil {
		return nil, err
	}
	header, err := age.ExtractHeader(bytes.NewReader(sealed))
	if err != nil {
		return nil, err
	}
	if name, ok := nameOf(header, preParamsStanza); !ok || name != id {
		return nil, errNoSet
	}
	return tss.ParsePreParams(encoded)
}
