package auth

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// timing says how old keys may be.
type timing struct {
	refresh time.Duration // from this age on they are fetched again, and used meanwhile
	keep    time.Duration // from this age on they are not used
	retry   time.Duration // between the starts of two fetches
	timeout time.Duration // of one fetch
}

// keys are an issuer's keys. They are fetched on demand, so that a key the issuer added recently is found. If a fetch
// fails, the last keys remain in use for a while (timing.keep).
type keys struct {
	location string
	fetch    func(ctx context.Context) ([]byte, error)
	timing   timing
	log      *slog.Logger

	ctx    context.Context // cancelled by close; all fetches run under it
	cancel context.CancelFunc
	wg     sync.WaitGroup // counts fetches

	mu      sync.Mutex    // guards the fields below
	known   *keySet       // nil until the first successful fetch
	fetched time.Time     // when known was fetched
	tried   time.Time     // when the last fetch began
	failing error         // the last fetch's error, if it failed
	going   chan struct{} // closed when the fetch in progress ends; nil if there is none
}

// find returns the keys that may have signed a token, and whether its key id identified them. The error says why
// there are none.
func (k *keys) find(ctx context.Context, id keyID) (found []crypto.PublicKey, named bool, err error) {
	found, named, going := k.look(id)
	if len(found) > 0 {
		return found, named, nil
	}
	if going != nil {
		if found, named, err = k.wait(ctx, id, going); err != nil || len(found) > 0 {
			return found, named, err
		}
	}
	what := "no key of the issuer has the token's id and algorithm"
	if id.kid == "" {
		what = "the token names no key (kid), and the issuer has no key without an id for its algorithm, or not that one alone"
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failing != nil {
		return nil, false, fmt.Errorf("%s, and its keys cannot be read: %w", what, k.failing)
	}
	return nil, false, errors.New(what)
}

// renewed fetches the keys again if they may be fetched now, and returns those that may have signed a token.
func (k *keys) renewed(ctx context.Context, id keyID) ([]crypto.PublicKey, error) {
	k.mu.Lock()
	going := k.begin()
	k.mu.Unlock()
	if going == nil {
		return nil, nil
	}
	found, _, err := k.wait(ctx, id, going)
	return found, err
}

// wait returns find's result once a fetch has ended.
func (k *keys) wait(ctx context.Context, id keyID, going <-chan struct{}) (found []crypto.PublicKey, named bool, err error) {
	select {
	case <-going:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	found, named = k.usable(id)
	return found, named, nil
}

// look returns the usable keys, and starts a fetch if they are missing or old.
func (k *keys) look(id keyID) (found []crypto.PublicKey, named bool, going <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	found, named = k.usable(id)
	if len(found) > 0 && time.Since(k.fetched) < k.timing.refresh {
		return found, named, nil
	}
	return found, named, k.begin()
}

// begin starts a fetch, unless one is in progress or the last one began less than retry ago. It returns a channel
// that is closed when the fetch in progress ends, or nil if there is none. It must be called with mu held.
func (k *keys) begin() <-chan struct{} {
	now := time.Now()
	if k.going == nil && now.Sub(k.tried) >= k.timing.retry && k.ctx.Err() == nil {
		k.tried = now
		k.going = make(chan struct{})
		k.wg.Go(k.load) // ends by its timeout or with ctx
	}
	return k.going
}

// usable must be called with mu held.
func (k *keys) usable(id keyID) (found []crypto.PublicKey, named bool) {
	if k.known == nil || time.Since(k.fetched) >= k.timing.keep {
		return nil, false
	}
	return k.known.find(id)
}

// load fetches the keys. It logs the first failure and the first success after failures.
func (k *keys) load() {
	ctx, cancel := context.WithTimeout(k.ctx, k.timing.timeout)
	defer cancel()
	begun := time.Now()
	b, err := k.fetch(ctx)
	var found *keySet
	if err == nil {
		found, err = parseKeys(b)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		if k.failing != nil {
			k.log.Info("the token issuer's keys can be read again", "location", k.location)
		}
		k.known, k.fetched = found, begun
	} else if k.failing == nil && k.ctx.Err() == nil {
		k.log.Warn("the token issuer's keys cannot be read; the last ones are used for a while", "location", k.location, "error", err)
	}
	k.failing = err
	close(k.going)
	k.going = nil
}

func (k *keys) close() {
	k.mu.Lock()
	k.cancel() // under mu, so that no fetch begins afterwards
	k.mu.Unlock()
	k.wg.Wait()
}
