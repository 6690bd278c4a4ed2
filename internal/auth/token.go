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
	maxToken = 8 << 10          // size of a token in bytes
	skew     = 30 * time.Second // tolerance between the issuer's clock and ours
)

// Tokens verifies JWTs (RFC 7519) of one issuer, signed with one of its keys. Call Close when done.
type Tokens struct {
	issuer, audience string
	keys             *keys
}

// verify returns the caller that a token identifies. Its errors quote claims only after the signature was verified.
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

// open returns a token's claims once its signature is verified.
func (t *Tokens) open(ctx context.Context, token string, id keyID) (jwt.Token, error) {
	found, named, err := t.keys.find(ctx, id)
	if err != nil {
		return nil, err
	}
	tok, err := parse(token, id, found)
	if named || !errors.Is(err, errSignature) {
		return tok, err
	}
	// Without a key id, a new key of the issuer cannot be told from the previous one.
	if found, err = t.keys.renewed(ctx, id); err != nil {
		return nil, err
	}
	return parse(token, id, found)
}

// parse tries each of the keys. It drops the library's error text, which may quote the token.
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

// wellFormed checks what the library does not check of a verified token: that the claims are a single JSON object
// with nothing after it, and that times are numbers (NumericDate, RFC 7519, section 2), whereas the library also
// accepts strings of digits.
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

// caller returns the caller that a verified token identifies. It ignores scopes that are not mpcd's: they are for
// other services.
func caller(tok jwt.Token, name string) (session.Caller, error) {
	if err := checkName(name); err != nil {
		return session.Caller{}, fmt.Errorf("the token's subject: %w", err)
	}
	if strings.ContainsRune(name, utf8.RuneError) {
		// The JSON decoder substitutes it for invalid Unicode, which would make different subjects equal.
		return session.Caller{}, errors.New(
			"the token's subject has a replacement character (U+FFFD), or an escape that is no character")
	}
	if isCertificateName(name) {
		return session.Caller{}, fmt.Errorf("the token's subject %q has the form of a certificate's name", name)
	}
	return session.Caller{Name: name, Scopes: known(scopesOf(tok))}, nil
}

// scopesOf returns the scopes in a token: its scope claim (RFC 8693, section 4.2; RFC 9068) or, without that, scp,
// which some issuers use. Either is a space-separated string or a list of strings. A claim that is malformed, even in
// part, gives no scopes at all.
func scopesOf(tok jwt.Token) []string {
	var claim any
	for _, name := range []string{"scope", "scp"} {
		if tok.Get(name, &claim) == nil { // fails for null, too
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

// signedBy returns which key signed a token according to its header. Nothing else in the header is used: keys come
// from the configuration, never from a token.
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

// isAccessToken reports whether a token with this type (typ) may be an access token: issuers use at+jwt (RFC 9068),
// JWT, a type of their own, or none. A type ending in +jwt other than at+jwt is another kind of token, such as a
// logout token, which is signed with the same keys (RFC 8725, section 3.11).
func isAccessToken(typ string) bool {
	typ, _, _ = strings.Cut(typ, ";") // a media type may have parameters
	typ = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(typ)), "application/")
	return typ == "at+jwt" || !strings.HasSuffix(typ, "+jwt")
}
