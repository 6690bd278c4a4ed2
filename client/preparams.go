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

// PreParamsStore keeps the sets of pre-params that Prewarm makes, until an operation takes
// them. What it is given is sealed and some 2 KiB: it has to be durable, not secret. Its
// methods are called from several goroutines, at the same time.
//
// A set must never come back once it was deleted: the service ends a run in which a wallet
// sees one twice, and blames the device. So keep the store out of what the platform copies
// to another device or restores later (iOS: isExcludedFromBackup; Android: noBackupFilesDir).
type PreParamsStore interface {
	// PutPreParams keeps a sealed set under an id, a UUID that is new each time. The set is
	// durable when it returns nil. Whether it is there after an error does not matter.
	PutPreParams(ctx context.Context, id string, sealed []byte) error
	// PreParams returns the sets that are there, by id, as PutPreParams was given them; none
	// is no error. Each of two callers that race gets them all.
	PreParams(ctx context.Context) (map[string][]byte, error)
	// DeletePreParams removes a set for good. It returns true only when the set was there and
	// its removal would survive a crash, and false when there is none; of two callers that
	// race, one gets true. After an error the set may be there or not.
	DeletePreParams(ctx context.Context, id string) (deleted bool, err error)
}

// WithPreParamsStore keeps the sets of Prewarm across restarts of the app, sealed to a key,
// an age identity (AGE-SECRET-KEY-1..., see NewPreParamsKey) that the app keeps where the
// platform keeps secrets, on this device alone. Who has the key can read the sets, which are
// as secret as the shares that are made with them; who knows its recipient (age1...) can pass
// a set of his own off as the app's, so that is a secret too. Several clients may share a
// store, and a key.
//
// An operation takes a set by deleting it from the store: nothing that is computed from it
// leaves the device before that is durable, and a set that cannot be deleted is not used. A
// set is lost where the operation fails after that. What does not hold a set, for whatever
// reason, is deleted and passed over; what another key sealed is left where it is, so that a
// wrong key takes nothing away: an app that makes a new key deletes the old one's sets itself.
// A store that fails fails no operation, which then makes its own set; only Prewarm returns
// its errors.
func WithPreParamsStore(store PreParamsStore, key string) Option {
	return func(c *Client) error {
		if store == nil {
			return errors.New("client: a store of pre-params must not be nil")
		}
		identity, err := age.ParseX25519Identity(strings.TrimSpace(key))
		if err != nil { // age's error may quote the key
			return errors.New("client: the key of the store of pre-params is not an age identity (AGE-SECRET-KEY-1...): make one with NewPreParamsKey")
		}
		c.shelf = &shelf{store: store, key: identity, taken: make(map[string]bool)}
		return nil
	}
}

// NewPreParamsKey makes a key for WithPreParamsStore. It is a secret.
func NewPreParamsKey() (string, error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return "", fmt.Errorf("client: %w", err)
	}
	return key.String(), nil
}

// Prewarm makes sets of pre-params until so many are ready. A new share with a SECP256K1 key
// needs one when its client has WithDeviceHeldShares: seconds of this device's time, and of
// all of its cores, that the operation then does without. Call it in the background, when
// the app is idle; operations may go on meanwhile, and those that find no set make their own.
//
// The sets are in the store of WithPreParamsStore, and without one in memory; each is used
// once. onProgress, which may be nil, hears how many sets are ready of how many are wanted,
// first how many were, which may be more. Of two calls at the same time the second waits for
// the first.
//
// It returns ctx's error once ctx is done, and the store's error at once: what was kept until
// then is kept. It counts what is there as it begins, and makes nothing up for sets that are
// taken meanwhile.
func (c *Client) Prewarm(ctx context.Context, sets int, onProgress func(ready, of int)) error {
	select {
	case c.prewarming <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("client: %w", context.Cause(ctx))
	}
	defer func() { <-c.prewarming }()
	ready, err := c.ready(ctx)
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
		if err := c.keepPreParams(ctx, pre); err != nil {
			return err
		}
		onProgress(ready+1, sets)
	}
	return nil
}

// ready counts the sets that an operation could take.
func (c *Client) ready(ctx context.Context) (n int, err error) {
	if c.shelf != nil {
		return c.shelf.count(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ahead), nil
}

func (c *Client) keepPreParams(ctx context.Context, pre *tss.PreParams) error {
	if c.shelf != nil {
		defer pre.Wipe() // kept or not: one copy is enough
		return c.shelf.put(ctx, pre)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead = append(c.ahead, pre)
	return nil
}

// madeAhead takes a set that was made ahead, or returns nil. Nobody else gets it, nor did.
func (c *Client) madeAhead(ctx context.Context) *tss.PreParams {
	if c.shelf != nil {
		return c.shelf.take(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.ahead)
	if n == 0 {
		return nil
	}
	pre := c.ahead[n-1]
	c.ahead[n-1], c.ahead = nil, c.ahead[:n-1]
	return pre
}

// A sealed set is an age file with one X25519 recipient, and its plaintext the encoded set.
// A stanza that age ignores holds the id that it was kept under, so that a copy of it under
// another id is not another set:
//
//	-> mpcd-pre-params <id>
const preParamsStanza = "mpcd-pre-params"

// shelf is the app's store of pre-params, which is not believed: what comes from it may be
// old, cut, swapped, or somebody else's.
type shelf struct {
	store PreParamsStore
	key   *age.X25519Identity

	mu    sync.Mutex      // guards taken
	taken map[string]bool // ids that this client has taken, or need not look at again
}

// Format implements fmt.Formatter: a shelf has a key.
func (*shelf) Format(f fmt.State, _ rune) { secret.Format(f) }

func (s *shelf) put(ctx context.Context, pre *tss.PreParams) error {
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
	return storeFailed(s.store.PutPreParams(ctx, id, sealed.Bytes()))
}

func storeFailed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("client: the store of pre-params: %w", err)
}

// count counts the sets that are there for this client, and clears away what is none.
func (s *shelf) count(ctx context.Context) (n int, err error) {
	kept, err := s.store.PreParams(ctx)
	if err != nil {
		return 0, storeFailed(err)
	}
	for id, sealed := range kept {
		pre, err := s.open(id, sealed)
		switch {
		case err == nil && !s.has(id):
			n++
		case err != nil && !errors.Is(err, errOtherKey):
			_, _ = s.store.DeletePreParams(ctx, id) // if it fails, the next look finds it again
		}
		pre.Wipe()
	}
	return n, nil
}

// take takes a set out of the store. When it returns one, the store's word is that it is
// gone from there for good, and that nobody else was told so.
func (s *shelf) take(ctx context.Context) *tss.PreParams {
	kept, err := s.store.PreParams(ctx)
	if err != nil {
		return nil
	}
	for id, sealed := range kept {
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
			return pre // its id stays claimed, whatever the store lists later
		}
		pre.Wipe()
	}
	return nil
}

// claim reports whether no other operation of this client has the set with the id.
func (s *shelf) claim(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[id] {
		return false
	}
	s.taken[id] = true
	return true
}

func (s *shelf) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken[id]
}

func (s *shelf) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, id)
}

var (
	errOtherKey = errors.New("it was sealed to another key")
	errNoSet    = errors.New("it is not the set with this id")
)

// open opens a sealed set, and checks it in full. It fails with errOtherKey, or with another
// error when what is sealed is not a set that was kept under id.
func (s *shelf) open(id string, sealed []byte) (*tss.PreParams, error) {
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
