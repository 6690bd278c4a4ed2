package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
)

// keyID is what a token says of the key that signed it.
type keyID struct {
	kid string
	alg jwa.SignatureAlgorithm
}

// fitting lists the algorithms that a public key may be used with: those of RFC 7518
// that are asymmetric, and EdDSA (RFC 8037; RFC 9864 calls it Ed25519). There is no other list: none and HMAC fit no
// key, and so cannot be verified by any.
func fitting(key crypto.PublicKey) []jwa.SignatureAlgorithm {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 8192 || k.E < 3 {
			return nil
		}
		return []jwa.SignatureAlgorithm{jwa.RS256(), jwa.RS384(), jwa.RS512(), jwa.PS256(), jwa.PS384(), jwa.PS512()}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []jwa.SignatureAlgorithm{jwa.ES256()}
		case elliptic.P384():
			return []jwa.SignatureAlgorithm{jwa.ES384()}
		case elliptic.P521():
			return []jwa.SignatureAlgorithm{jwa.ES512()}
		}
	case ed25519.PublicKey:
		return []jwa.SignatureAlgorithm{jwa.EdDSA(), jwa.EdDSAEd25519()}
	}
	return nil
}

var allAlgorithms = []jwa.SignatureAlgorithm{
	jwa.RS256(), jwa.RS384(), jwa.RS512(), jwa.PS256(), jwa.PS384(), jwa.PS512(), jwa.ES256(), jwa.ES384(), jwa.ES512(), jwa.EdDSA(), jwa.EdDSAEd25519(),
}

func allowed(alg jwa.SignatureAlgorithm) bool { return slices.Contains(allAlgorithms, alg) }

// parseKeys returns the usable keys of a JWK Set (RFC 7517). Others are left out:
// symmetric and private ones, those for encryption, without an id, or too weak.
func parseKeys(b []byte) (map[keyID]crypto.PublicKey, error) {
	set, err := jwk.Parse(b, jwk.WithIgnoreParseError(true))
	if err != nil {
		return nil, errors.New("it is not a JWK Set")
	}
	usable := make(map[keyID]crypto.PublicKey)
	for i := range set.Len() {
		key, _ := set.Key(i)
		kid, _ := key.KeyID()
		use, hasUse := key.KeyUsage()
		if kid == "" || hasUse && use != "sig" {
			continue
		}
		var raw any
		if err := jwk.Export(key, &raw); err != nil {
			continue
		}
		for _, alg := range fitting(raw) { // no private key is of a type that fits
			if own, ok := key.Algorithm(); ok && own.String() != alg.String() {
				continue
			}
			if _, taken := usable[keyID{kid, alg}]; !taken {
				usable[keyID{kid, alg}] = raw
			}
		}
	}
	if len(usable) == 0 {
		return nil, errors.New("it has no public key with an id (kid) that can verify a token")
	}
	return usable, nil
}

// timing says how old keys may be.
type timing struct {
	refresh time.Duration // from then on they are fetched again, while they go on being used
	keep    time.Duration // from then on they are used no more
	retry   time.Duration // between two fetches
	timeout time.Duration // of one fetch
}

// keys are an issuer's keys, fetched when a call needs them: a key that is not there yet
// may have been added since. What cannot be fetched leaves the last keys in use for a
// while.
type keys struct {
	location string
	fetch    func(ctx context.Context) ([]byte, error)
	timing   timing
	log      *slog.Logger

	ctx    context.Context // ends with close; every fetch is under it
	cancel context.CancelFunc
	wg     sync.WaitGroup // one for each fetch

	mu      sync.Mutex // guards what follows
	known   map[keyID]crypto.PublicKey
	fetched time.Time     // when known was
	tried   time.Time     // when the last fetch began
	failing error         // how the last fetch failed; nil when it did not
	going   chan struct{} // closed when the fetch that is going ends; nil when none is
}

// find returns a key, or why there is none.
func (k *keys) find(ctx context.Context, id keyID) (crypto.PublicKey, error) {
	key, going := k.look(id)
	if key != nil {
		return key, nil
	}
	if going != nil {
		select {
		case <-going:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if key = k.current(id); key != nil {
			return key, nil
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failing != nil {
		return nil, fmt.Errorf("no key of the issuer has the token's id and algorithm, and its keys cannot be read: %w", k.failing)
	}
	return nil, errors.New("no key of the issuer has the token's id and algorithm")
}

// look returns a key that may be used, and begins a fetch where it is missing or old.
func (k *keys) look(id keyID) (key crypto.PublicKey, going <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key = k.usable(id)
	now := time.Now()
	if key != nil && now.Sub(k.fetched) < k.timing.refresh {
		return key, nil
	}
	if k.going == nil && now.Sub(k.tried) >= k.timing.retry && k.ctx.Err() == nil {
		k.tried = now
		k.going = make(chan struct{})
		k.wg.Go(k.load) // ends by its timeout, or with ctx
	}
	return key, k.going
}

func (k *keys) current(id keyID) crypto.PublicKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.usable(id)
}

// usable must be called with mu held.
func (k *keys) usable(id keyID) crypto.PublicKey {
	if time.Since(k.fetched) >= k.timing.keep {
		return nil
	}
	return k.known[id]
}

// load fetches the keys. A change between good and bad is logged, once.
func (k *keys) load() {
	ctx, cancel := context.WithTimeout(k.ctx, k.timing.timeout)
	defer cancel()
	begun := time.Now()
	b, err := k.fetch(ctx)
	var found map[keyID]crypto.PublicKey
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
	k.cancel() // under mu, so that no fetch begins after it
	k.mu.Unlock()
	k.wg.Wait()
}
