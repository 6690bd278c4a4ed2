package auth

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

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
	tok, err := t.open(ctx, token, id)
	if err != nil {
		return session.Caller{}, err
	}
	name, _ := tok.Subject()
	if err := t.validate(tok); err != nil {
		return session.Caller{}, fmt.Errorf("the token of %.*q: %w", maxName, name, err)
	}
	return caller(tok, name)
}

var (
	errSignature = errors.New("the token's signature is wrong")
	errClaims    = errors.New("the token's claims are malformed: iss, sub and jti are text, aud is text or a list of texts, exp, nbf and iat are numbers")
)

// open returns what a token says, once its signature is good.
func (t *Tokens) open(ctx context.Context, token string, id keyID) (jwt.Token, error) {
	found, named, err := t.keys.find(ctx, id)
	if err != nil {
		return nil, err
	}
	tok, err := parse(token, id, found)
	if named || !errors.Is(err, errSignature) {
		return tok, err
	}
	// Without an id, a key that the issuer has changed looks like the one before.
	if found, err = t.keys.renewed(ctx, id); err != nil {
		return nil, err
	}
	return parse(token, id, found)
}

// parse tries each of the keys. The library's words may quote the token, and so are left out.
func parse(token string, id keyID, found []crypto.PublicKey) (jwt.Token, error) {
	for _, key := range found {
		tok, err := jwt.Parse([]byte(token), jwt.WithKey(id.alg, key), jwt.WithValidate(false), jwt.WithStrictStringClaims(true))
		if err == nil && wellFormed(token) {
			return tok, nil
		}
		if _, err := jws.Verify([]byte(token), jws.WithKey(id.alg, key)); err == nil {
			return nil, errClaims
		}
	}
	return nil, errSignature
}

// wellFormed reports what the library does not ask of a verified token's claims: that they
// are one JSON object with nothing behind it, and that its times are numbers, where the
// library takes text with digits too (NumericDate, RFC 7519, section 2).
func wellFormed(token string) bool {
	msg, err := jws.Parse([]byte(token), jws.WithCompact())
	if err != nil {
		return false
	}
	var claims map[string]json.RawMessage
	if json.Unmarshal(msg.Payload(), &claims) != nil {
		return false
	}
	for _, name := range []string{jwt.ExpirationKey, jwt.NotBeforeKey, jwt.IssuedAtKey} {
		if v, ok := claims[name]; ok && json.Unmarshal(v, new(float64)) != nil {
			return false
		}
	}
	return true
}

func (t *Tokens) validate(tok jwt.Token) error {
	err := jwt.Validate(tok, jwt.WithIssuer(t.issuer), jwt.WithAudience(t.audience),
		jwt.WithRequiredClaim(jwt.ExpirationKey), jwt.WithAcceptableSkew(skew))
	switch {
	case errors.Is(err, jwt.InvalidIssuerError()):
		iss, _ := tok.Issuer()
		return fmt.Errorf("%w: it is %.*q, and --jwt-issuer is %q", err, maxName, iss, t.issuer)
	case errors.Is(err, jwt.InvalidAudienceError()):
		aud, _ := tok.Audience()
		return fmt.Errorf("%w: it is %.*q, and --jwt-audience is %q", err, maxName, strings.Join(aud, " "), t.audience)
	}
	return err
}

// caller reads a verified token. Scopes that mpcd does not have are other services'.
func caller(tok jwt.Token, name string) (session.Caller, error) {
	if err := checkName(name); err != nil {
		return session.Caller{}, fmt.Errorf("the token's subject: %w", err)
	}
	if strings.ContainsRune(name, utf8.RuneError) {
		// JSON's decoder puts it in the place of what is not Unicode, so that two subjects would be one.
		return session.Caller{}, errors.New(
			"the token's subject has a replacement character (U+FFFD), or an escape that is no character")
	}
	if isCertificateName(name) {
		return session.Caller{}, fmt.Errorf("the token's subject %q has the form of a certificate's name", name)
	}
	return session.Caller{Name: name, Scopes: known(scopesOf(tok))}, nil
}

// scopesOf returns the scopes in a token: its scope (RFC 8693, section 4.2; RFC 9068), or,
// where it has none, scp, as some issuers call it. Either is text with spaces between, or a
// list of texts. One of another form, in full or in part, gives no scope at all.
func scopesOf(tok jwt.Token) []string {
	var claim any
	for _, name := range []string{"scope", "scp"} {
		if tok.Get(name, &claim) == nil { // it fails for null, too
			break
		}
	}
	switch v := claim.(type) {
	case string:
		return strings.Fields(v)
	case []any:
		var all []string
		for _, one := range v {
			text, ok := one.(string)
			if !ok {
				return nil
			}
			all = append(all, text)
		}
		return all
	}
	return nil
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
	alg, _ := header.Algorithm()
	if !allowed(alg) {
		return keyID{}, errors.New("the token's algorithm is not one of the asymmetric ones that are allowed")
	}
	if header.Has(jws.CriticalKey) {
		return keyID{}, errors.New("the token needs an extension (crit) that mpcd does not have")
	}
	if typ, _ := header.Type(); !isAccessToken(typ) {
		return keyID{}, errors.New("the token's type (typ) is that of another kind of JWT")
	}
	kid, _ := header.KeyID()
	return keyID{kid, alg}, nil
}

// isAccessToken reports whether a token's type may be an access token's: issuers say
// at+jwt (RFC 9068), JWT, something else of their own, or nothing. A type that ends in
// +jwt and is not at+jwt names another kind, such as a logout token, which is signed with
// the same keys (RFC 8725, section 3.11).
func isAccessToken(typ string) bool {
	typ, _, _ = strings.Cut(typ, ";") // a media type may have parameters
	typ = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(typ)), "application/")
	return typ == "at+jwt" || !strings.HasSuffix(typ, "+jwt")
}
