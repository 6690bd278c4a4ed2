package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"

	"filippo.io/age"
	"github.com/fxamacker/cbor/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/leaks"
	"github.com/mpcd/mpcd/internal/tss"
	"github.com/mpcd/mpcd/internal/tss/tsstest"
)

// memoryStore is a PreParamsStore in memory. It can fail, and lie.
type memoryStore struct {
	mu      sync.Mutex // guards what follows
	sets    map[string][]byte
	calls   []string
	fail    map[string]error // by method
	listed  func()           // called without mu after sets were listed
	deleted func()           // called without mu after a set was deleted
	lies    bool             // reports sets as deleted, and keeps them
}

func newMemoryStore() *memoryStore {
	return &memoryStore{sets: map[string][]byte{}, fail: map[string]error{}}
}

func (c *memoryStore) begin(method string) error {
	c.calls = append(c.calls, method)
	return c.fail[method]
}

func (c *memoryStore) PutPreParams(_ context.Context, id string, sealed []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin("put"); err != nil {
		return err
	}
	c.sets[id] = slices.Clone(sealed)
	return nil
}

func (c *memoryStore) PreParams(context.Context) (map[string][]byte, error) {
	c.mu.Lock()
	sets, err, then := maps.Clone(c.sets), c.begin("list"), c.listed
	c.listed = nil
	c.mu.Unlock()
	if then != nil {
		then()
	}
	return sets, err
}

func (c *memoryStore) DeletePreParams(_ context.Context, id string) (bool, error) {
	c.mu.Lock()
	err := c.begin("delete")
	_, there := c.sets[id]
	if err == nil && !c.lies {
		delete(c.sets, id)
	}
	gone := c.deleted
	c.mu.Unlock()
	if err == nil && there && gone != nil {
		gone()
	}
	return there, err
}

func (c *memoryStore) put(id string, sealed []byte) { c.sets[id] = sealed }

func (c *memoryStore) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.sets))
}

// source returns sets from the repository's test data, and counts them.
type source struct {
	tests *tsstest.Source
	mu    sync.Mutex // guards made
	made  int
}

func newSource(t *testing.T, skip int) *source {
	s := &source{tests: tsstest.NewSource()}
	for range skip {
		_, err := s.tests.PreParams(t.Context())
		require.NoError(t, err)
	}
	return s
}

func (s *source) next(ctx context.Context) (*tss.PreParams, error) {
	s.mu.Lock()
	s.made++
	s.mu.Unlock()
	return s.tests.PreParams(ctx)
}

func newKey(t *testing.T) string {
	t.Helper()
	key, err := client.NewPreParamsKey()
	require.NoError(t, err)
	return key
}

// newWarm returns a device-held client with a store; nil: sets are kept in memory.
func newWarm(t *testing.T, store client.PreParamsStore, key string, s *source, opts ...client.Option) *client.Client {
	t.Helper()
	opts = append(opts, client.WithDeviceHeldShares())
	if store != nil {
		opts = append(opts, client.WithPreParamsStore(store, key))
	}
	c, err := client.New(nowhere{}, opts...)
	require.NoError(t, err)
	c.SetPreParamsSource(s.next)
	return c
}

type nowhere struct{ grpc.ClientConnInterface }

// modulus identifies a set. It is public.
func modulus(pre *tss.PreParams) string {
	n, _ := pre.Moduli()
	return n.String()
}

// counts records the progress of Prewarm.
type counts [][2]int

func (c *counts) add(ready, of int) { *c = append(*c, [2]int{ready, of}) }

// Prewarm generates the missing sets, in memory and in a store, and each set is used once.
func TestPrewarmTopsUp(t *testing.T) {
	for name, store := range map[string]client.PreParamsStore{"memory": nil, "store": newMemoryStore()} {
		t.Run(name, func(t *testing.T) {
			s := newSource(t, 0)
			c := newWarm(t, store, newKey(t), s)
			require.Nil(t, c.TakePreParams(t.Context()), "there is none")
			var seen counts
			require.NoError(t, c.Prewarm(t.Context(), 2, seen.add))
			require.NoError(t, c.Prewarm(t.Context(), 2, seen.add))
			require.NoError(t, c.Prewarm(t.Context(), 1, seen.add))
			require.Equal(t, counts{{0, 2}, {1, 2}, {2, 2}, {2, 2}, {2, 1}}, seen)
			require.Equal(t, 2, s.made)
			one := c.TakePreParams(t.Context())
			require.NotNil(t, one)
			require.NoError(t, c.Prewarm(t.Context(), 2, nil))
			require.Equal(t, 3, s.made)
			two, three := c.TakePreParams(t.Context()), c.TakePreParams(t.Context())
			require.Nil(t, c.TakePreParams(t.Context()))
			require.Len(t, map[string]bool{modulus(one): true, modulus(two): true, modulus(three): true}, 3)
		})
	}
}

// After a restart of the app, a stored set is used, once.
func TestStoredSetIsUsedAfterARestart(t *testing.T) {
	store, key, s := newMemoryStore(), newKey(t), newSource(t, 0)
	require.NoError(t, newWarm(t, store, key, s).Prewarm(t.Context(), 1, nil))
	want, err := newSource(t, 0).next(t.Context())
	require.NoError(t, err)
	second := newWarm(t, store, key, s)
	require.Equal(t, modulus(want), modulus(second.TakePreParams(t.Context())))
	require.Empty(t, store.ids())
	require.Nil(t, second.TakePreParams(t.Context()))
	require.Nil(t, newWarm(t, store, key, s).TakePreParams(t.Context()))
}

// secretsOf returns the encoding of a set, and its numbers.
func secretsOf(t *testing.T, pre *tss.PreParams) (encoded []byte, numbers [][]byte) {
	t.Helper()
	b, err := pre.Encode()
	require.NoError(t, err)
	var fields map[int]any
	require.NoError(t, cbor.Unmarshal(b.Reveal(), &fields))
	for _, f := range fields {
		if n, ok := f.([]byte); ok {
			numbers = append(numbers, n)
		}
	}
	require.Len(t, numbers, 8)
	return b.Reveal(), numbers
}

// The store gets an age file that the app's key opens, without any part of the set in the clear.
func TestStoreHoldsNothingInTheClear(t *testing.T) {
	store, key := newMemoryStore(), newKey(t)
	require.NoError(t, newWarm(t, store, key, newSource(t, 0)).Prewarm(t.Context(), 1, nil))
	pre, err := newSource(t, 0).next(t.Context())
	require.NoError(t, err)
	encoded, numbers := secretsOf(t, pre)
	id := store.ids()[0]
	sealed := store.sets[id]
	for _, n := range append(numbers, []byte(key)) {
		require.Empty(t, leaks.Find(sealed, n))
	}
	for _, n := range numbers {
		require.NotEmpty(t, leaks.Find(encoded, n), "positive control")
	}
	identity, err := age.ParseX25519Identity(key)
	require.NoError(t, err)
	require.NotContains(t, string(sealed), identity.Recipient().String())
	require.Contains(t, string(sealed), "\n-> mpcd-pre-params "+id+"\n")
	r, err := age.Decrypt(bytes.NewReader(sealed), identity)
	require.NoError(t, err)
	plain, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(encoded, plain), "the plaintext is package tss's encoding")
}

// A set is used only if its deletion succeeded.
func TestSetThatCannotBeDeletedIsNotUsed(t *testing.T) {
	store, s := newMemoryStore(), newSource(t, 0)
	c := newWarm(t, store, newKey(t), s)
	require.NoError(t, c.Prewarm(t.Context(), 2, nil))
	store.fail["delete"] = errors.New("the disk is full")
	require.Nil(t, c.TakePreParams(t.Context()))
	require.Len(t, store.ids(), 2)
	delete(store.fail, "delete")
	store.calls = nil
	require.NotNil(t, c.TakePreParams(t.Context()))
	require.Equal(t, []string{"list", "delete"}, store.calls)
	store.fail["list"] = errors.New("the disk has failed")
	require.Nil(t, c.TakePreParams(t.Context()))
}

// If the app crashes after a set was deleted and before it was used, the set is lost, and not used later.
func TestCrashAfterTheDelete(t *testing.T) {
	store, key, s := newMemoryStore(), newKey(t), newSource(t, 0)
	ctx, crash := context.WithCancel(t.Context())
	store.deleted = crash
	c := newWarm(t, store, key, s)
	require.NoError(t, c.Prewarm(ctx, 1, nil))
	lost := c.TakePreParams(ctx)
	require.Error(t, ctx.Err())
	again := newWarm(t, store, key, s)
	require.Nil(t, again.TakePreParams(t.Context()))
	require.NoError(t, again.Prewarm(t.Context(), 1, nil))
	require.NotEqual(t, modulus(lost), modulus(again.TakePreParams(t.Context())))
}

// labelled adds stanzas that name a set.
type labelled struct {
	*age.X25519Recipient
	stanza []*age.Stanza
}

func (l labelled) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	all, err := l.X25519Recipient.Wrap(fileKey)
	return append(all, l.stanza...), err
}

// sealTo makes a store's entry with package age.
func sealTo(t *testing.T, key string, plain []byte, ids ...string) []byte {
	t.Helper()
	identity, err := age.ParseX25519Identity(key)
	require.NoError(t, err)
	l := labelled{X25519Recipient: identity.Recipient()}
	for _, id := range ids {
		l.stanza = append(l.stanza, &age.Stanza{Type: "mpcd-pre-params", Args: []string{id}})
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, l)
	require.NoError(t, err)
	_, err = w.Write(plain)
	require.NoError(t, errors.Join(err, w.Close()))
	return out.Bytes()
}

// The store's entries are untrusted input: one that is not a valid set of this client is never used, does not prevent
// the use of others, and is deleted unless it is encrypted to another key.
func TestInvalidStoreEntries(t *testing.T) {
	key, other, id, elsewhere := newKey(t), newKey(t), uuid.NewString(), uuid.NewString()
	pre, err := newSource(t, 0).next(t.Context())
	require.NoError(t, err)
	encoded, numbers := secretsOf(t, pre)
	good := sealTo(t, key, encoded, id)
	flipped := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	// One flipped bit in a number makes the set invalid.
	weak := flipped(encoded, bytes.Index(encoded, numbers[0])+100)
	for name, c := range map[string]struct {
		sealed []byte
		stays  bool
	}{
		"nothing":                  {sealed: nil},
		"garbage":                  {sealed: bytes.Repeat([]byte("x"), 2000)},
		"not sealed":               {sealed: encoded},
		"cut":                      {sealed: good[:len(good)-1]},
		"its header alone":         {sealed: good[:300]},
		"changed":                  {sealed: flipped(good, len(good)-20)},
		"another id in its header": {sealed: bytes.Replace(good, []byte(id), []byte(elsewhere), 1)},
		"swapped with another":     {sealed: sealTo(t, key, encoded, elsewhere)},
		"without an id":            {sealed: sealTo(t, key, encoded)},
		"another id first":         {sealed: sealTo(t, key, encoded, elsewhere, id)},
		"no set inside":            {sealed: sealTo(t, key, []byte("x"), id)},
		"nothing inside":           {sealed: sealTo(t, key, nil, id)},
		"an invalid set":           {sealed: sealTo(t, key, weak, id)},
		"too long":                 {sealed: sealTo(t, key, append(bytes.Clone(encoded), make([]byte, 1<<20)...), id)},
		"to another key":           {sealed: sealTo(t, other, encoded, id), stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			want := []string{}
			if c.stays {
				want = []string{id}
			}
			for _, use := range []func(*client.Client){
				func(cl *client.Client) { require.Nil(t, cl.TakePreParams(t.Context())) },
				func(cl *client.Client) {
					var seen counts
					require.NoError(t, cl.Prewarm(t.Context(), 0, seen.add))
					require.Equal(t, counts{{0, 0}}, seen)
				},
			} {
				store := newMemoryStore()
				store.put(id, c.sealed)
				cl := newWarm(t, store, key, newSource(t, 0))
				use(cl)
				require.ElementsMatch(t, want, store.ids())
			}
			// It is not counted, and a valid set next to it is found.
			store, s := newMemoryStore(), newSource(t, 3)
			store.put(id, c.sealed)
			cl := newWarm(t, store, key, s)
			require.NoError(t, cl.Prewarm(t.Context(), 1, nil))
			require.Equal(t, 1, s.made)
			require.NotNil(t, cl.TakePreParams(t.Context()))
			require.ElementsMatch(t, want, store.ids())
		})
	}
	store := newMemoryStore()
	store.put(id, good)
	require.NotNil(t, newWarm(t, store, key, newSource(t, 0)).TakePreParams(t.Context()), "positive control")
}

// With the wrong key no set can be used, and none is deleted: with the right key all are still found.
func TestWrongKeyDeletesNothing(t *testing.T) {
	store, key, s := newMemoryStore(), newKey(t), newSource(t, 0)
	require.NoError(t, newWarm(t, store, key, s).Prewarm(t.Context(), 2, nil))
	wrong := newWarm(t, store, newKey(t), s)
	require.Nil(t, wrong.TakePreParams(t.Context()))
	require.NoError(t, wrong.Prewarm(t.Context(), 1, nil))
	require.Len(t, store.ids(), 3)
	right := newWarm(t, store, key, s)
	require.NotNil(t, right.TakePreParams(t.Context()))
	require.NotNil(t, right.TakePreParams(t.Context()))
	require.Nil(t, right.TakePreParams(t.Context()))
	require.Len(t, store.ids(), 1)
}

// Operations of two clients take sets concurrently while Prewarm runs: none is taken twice. If the store keeps sets
// that it reports as deleted, that still holds within a client.
func TestNoSetIsTakenTwice(t *testing.T) {
	for _, lies := range []bool{false, true} {
		t.Run(fmt.Sprintf("lies=%v", lies), func(t *testing.T) {
			store, key, s := newMemoryStore(), newKey(t), newSource(t, 0)
			store.lies = lies
			clients := []*client.Client{newWarm(t, store, key, s)}
			if !lies {
				clients = append(clients, newWarm(t, store, key, s))
			}
			require.NoError(t, clients[0].Prewarm(t.Context(), 4, nil))
			var mu sync.Mutex // guards taken
			var taken []string
			var wg sync.WaitGroup
			warmed := make([]error, 2)
			for i := range warmed {
				wg.Go(func() { warmed[i] = clients[0].Prewarm(t.Context(), 4, nil) })
			}
			for i := range 12 {
				wg.Go(func() {
					if pre := clients[i%len(clients)].TakePreParams(t.Context()); pre != nil {
						mu.Lock()
						defer mu.Unlock()
						taken = append(taken, modulus(pre))
					}
				})
			}
			wg.Wait()
			require.NoError(t, errors.Join(warmed...))
			for range tsstest.NewSource().Len() + 1 { // those that are left
				if pre := clients[0].TakePreParams(t.Context()); pre != nil {
					taken = append(taken, modulus(pre))
				}
			}
			require.Len(t, taken, s.made)
			require.LessOrEqual(t, s.made, tsstest.NewSource().Len(), "each set of the test data was returned once")
			slices.Sort(taken)
			require.Len(t, slices.Compact(taken), s.made)
		})
	}
}

// If another client deletes a set between listing and deletion, the set is not used.
func TestAnotherClientTakesTheSet(t *testing.T) {
	store, key, s := newMemoryStore(), newKey(t), newSource(t, 0)
	one, two := newWarm(t, store, key, s), newWarm(t, store, key, s)
	require.NoError(t, one.Prewarm(t.Context(), 1, nil))
	var got *tss.PreParams
	store.listed = func() { got = two.TakePreParams(t.Context()) }
	require.Nil(t, one.TakePreParams(t.Context()))
	require.NotNil(t, got)
}

// A set that was taken does not count as ready, even if the store still lists it.
func TestTakenSetDoesNotCount(t *testing.T) {
	store, s := newMemoryStore(), newSource(t, 0)
	store.lies = true
	c := newWarm(t, store, newKey(t), s)
	require.NoError(t, c.Prewarm(t.Context(), 1, nil))
	require.NotNil(t, c.TakePreParams(t.Context()))
	require.NoError(t, c.Prewarm(t.Context(), 1, nil))
	require.Equal(t, 2, s.made)
}

// Two concurrent calls generate no more sets than the larger number wanted.
func TestTwoPrewarmsAtOnce(t *testing.T) {
	s := newSource(t, 0)
	c := newWarm(t, newMemoryStore(), newKey(t), s)
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wg.Go(func() { errs[i] = c.Prewarm(t.Context(), i+1, nil) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Equal(t, 3, s.made)
}

// Prewarm ends with its context, both while it generates a set and while it waits for another call. The sets generated
// by then stay, and count for the next call.
func TestPrewarmIsCancelled(t *testing.T) {
	store, s := newMemoryStore(), newSource(t, 0)
	c := newWarm(t, store, newKey(t), s)
	searching := make(chan struct{})
	c.SetPreParamsSource(func(ctx context.Context) (*tss.PreParams, error) {
		if len(store.ids()) == 0 {
			return s.next(ctx)
		}
		close(searching)
		return tss.GeneratePreParams(ctx, 1)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Prewarm(ctx, 50, nil) }()
	<-searching
	waits, stop := context.WithCancel(t.Context())
	stop()
	require.ErrorIs(t, c.Prewarm(waits, 50, nil), context.Canceled)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Len(t, store.ids(), 1)
	c.SetPreParamsSource(s.next)
	require.NoError(t, c.Prewarm(t.Context(), 2, nil))
	require.Len(t, store.ids(), 2)
}

// If the store fails, Prewarm returns its error, and the set is not kept in memory.
func TestPrewarmAndAStoreThatFails(t *testing.T) {
	store := newMemoryStore()
	c := newWarm(t, store, newKey(t), newSource(t, 0))
	for _, method := range []string{"put", "list"} {
		full := errors.New("the disk is full")
		store.fail[method] = full
		err := c.Prewarm(t.Context(), 1, nil)
		require.ErrorIs(t, err, full)
		require.EqualError(t, err, "client: the store of pre-params: the disk is full")
		delete(store.fail, method)
		require.Nil(t, c.TakePreParams(t.Context()))
	}
}

func TestPreParamsStoreOption(t *testing.T) {
	key := newKey(t)
	_, err := client.New(nowhere{}, client.WithPreParamsStore(nil, key))
	require.EqualError(t, err, "client: a store of pre-params must not be nil")
	for _, bad := range []string{"", key[:len(key)-1], "age1" + key} {
		_, err := client.New(nowhere{}, client.WithPreParamsStore(newMemoryStore(), bad))
		require.ErrorContains(t, err, "is not an age identity")
		if bad != "" {
			require.NotContains(t, err.Error(), bad)
		}
	}
	c, err := client.New(nowhere{}, client.WithPreParamsStore(newMemoryStore(), " "+key+"\n"))
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%+v %#v", c, c), key)
}
