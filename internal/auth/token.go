package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/mpcd/mpcd/internal/session"
)

const (
	maxToken = 8 << 10          // bytes of a token
	skew     = 30 * time.Second // by which the issuer's clock and ours may differ
)

// Tokens verifies JWTs (RFC 7519) of one issuer, signed with one of its keys. Close it.
type Tokens struct {
	issuer, audience string
	keys             *keys
}

// verify returns the caller that a token names. What it says of a token that it refuses
// comes from the token only once its signature was good.
func (t *Tokens) verify(ctx context.Context, token string) (session.Caller, error) {
	id, err := signedBy(token)
	if err != nil {
		return session.Caller{}, err
	}
	key, err := t.keys.find(ctx, id)
	if err != nil {
		return session.Caller{}, err
	}
	tok, err := jwt.Parse([]byte(token), jwt.WithKey(id.alg, key), jwt.WithValidate(false), jwt.WithStrictStringClaims(true))
	if err != nil {
		// The library's words may quote the token.
		return session.Caller{}, errors.New("the token's signature is wrong, or its claims are malformed")
	}
	name, _ := tok.Subject()
	if err := t.validate(tok); err != nil {
		return session.Caller{}, fmt.Errorf("the token of %.*q: %w", maxName, name, err)
	}
	return caller(tok, name)
}

func (t *Tokens) validate(tok jwt.Token) error {
	return jwt.Validate(tok, jwt.WithIssuer(t.issuer), jwt.WithAudience(t.audience),
		jwt.WithRequiredClaim(jwt.ExpirationKey), jwt.WithAcceptableSkew(skew))
}

// caller reads a verified token. Scopes that mpcd does not have are other services'.
func caller(tok jwt.Token, name string) (session.Caller, error) {
	if err := checkName(name); err != nil {
		return session.Caller{}, fmt.Errorf("the token's subject: %w", err)
	}
	if isCertificateName(name) {
		return session.Caller{}, fmt.Errorf("the token's subject %q has the form of a certificate's name", name)
	}
	scope := ""
	if tok.Has("scope") {
		if err := tok.Get("scope", &scope); err != nil {
			return session.Caller{}, fmt.Errorf("the token of %q: its scope is not text (RFC 8693, section 4.2)", name)
		}
	}
	return session.Caller{Name: name, Scopes: known(strings.Fields(scope))}, nil
}

// signedBy returns which key a token says it is signed with. Nothing else of the header
// is used: keys come from the configuration, never from a token.
func signedBy(token string) (keyID, error) {
	if strings.Count(token, ".") != 2 {
		return keyID{}, errors.New("the token is not a signed JWT of three parts")
	}
	msg, err := jws.Parse([]byte(token), jws.WithCompact())
	if err != nil || len(msg.Signatures()) != 1 {
		return keyID{}, errors.New("the token is not a signed JWT")
	}
	header := msg.Signatures()[0].ProtectedHeaders()
	alg, ok := header.Algorithm()
	if !ok || !allowed(alg) {
		return keyID{}, errors.New("the token's algorithm is not one of the asymmetric ones that are allowed")
	}
	if header.Has(jws.CriticalKey) {
		return keyID{}, errors.New("the token needs an extension (crit) that mpcd does not have")
	}
	kid, ok := header.KeyID()
	if !ok || kid == "" {
		return keyID{}, errors.New("the token names no key (kid)")
	}
	return keyID{kid, alg}, nil
}
