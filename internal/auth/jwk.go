package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	secpecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
)

// keyID identifies the key that signed a token, as far as the token's header does. kid may be empty.
type keyID struct {
	kid string
	alg jwa.SignatureAlgorithm
}

// fitting lists the algorithms that a public key may be used with: the asymmetric ones of RFC 7518, ES256K (RFC
// 8812), and EdDSA (RFC 8037), which RFC 9864 calls Ed25519. It is the only list of algorithms: none and HMAC are not
// in it for any key, so no token that uses them can be verified.
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
	case *secp256k1.PublicKey:
		return []jwa.SignatureAlgorithm{jwa.ES256K()}
	case ed25519.PublicKey:
		return []jwa.SignatureAlgorithm{jwa.EdDSA(), jwa.EdDSAEd25519()}
	}
	return nil
}

var allAlgorithms = []jwa.SignatureAlgorithm{
	jwa.RS256(), jwa.RS384(), jwa.RS512(), jwa.PS256(), jwa.PS384(), jwa.PS512(),
	jwa.ES256(), jwa.ES384(), jwa.ES512(), jwa.ES256K(), jwa.EdDSA(), jwa.EdDSAEd25519(),
}

func allowed(alg jwa.SignatureAlgorithm) bool { return slices.Contains(allAlgorithms, alg) }

// maxAlike bounds how many keys with the same id and algorithm are tried for a token.
const maxAlike = 4

// keySet holds the usable keys of an issuer.
type keySet struct {
	keys map[keyID][]crypto.PublicKey // keys without an id are under ""
	kids []string                     // of each key, "" if it has none
}

// find returns the keys that may have signed a token, and whether its key id identified them. A key's id is optional
// (RFC 7517, section 4.5; RFC 7515, section 4.1.4): a token without one matches keys without one, and if the set has
// only one key, a missing id on either side matches.
func (s *keySet) find(id keyID) (found []crypto.PublicKey, named bool) {
	if found = s.keys[id]; len(found) > 0 {
		return found, id.kid != ""
	}
	if len(s.kids) == 1 && (id.kid == "" || s.kids[0] == "") {
		return s.keys[keyID{s.kids[0], id.alg}], false
	}
	return nil, false
}

// parseKeys returns the usable keys of a JWK Set (RFC 7517), or of a single JWK. It skips other keys: symmetric and
// private ones, those for encryption, and those of unknown types or too weak.
func parseKeys(b []byte) (*keySet, error) {
	var set struct {
		Keys *[]json.RawMessage `json:"keys"`
		Type string             `json:"kty"`
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff")) // a byte order mark, which some editors write
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, errors.New("it is not a JWK Set")
	}
	members := []json.RawMessage{b}
	if set.Keys != nil {
		members = *set.Keys
	} else if set.Type == "" {
		return nil, errors.New("it is not a JWK Set: it has no member \"keys\"")
	}
	usable := &keySet{keys: make(map[keyID][]crypto.PublicKey)}
	for _, member := range members {
		usable.add(member)
	}
	if len(usable.kids) == 0 {
		return nil, errors.New("it has no public key that can verify a token")
	}
	return usable, nil
}

// jwkFields are the members of a JWK that say what it may be used for.
type jwkFields struct {
	Type, Curve string
	Kid         string
	Use         string
	Alg         string
	Ops         []string `json:"key_ops"`
	Private     any      `json:"d"`
	X, Y        string
}

// UnmarshalJSON implements json.Unmarshaler. The names of a JWK's members are case-sensitive, whereas encoding/json
// ignores case.
func (f *jwkFields) UnmarshalJSON(b []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for name, to := range map[string]any{
		"kty": &f.Type, "crv": &f.Curve, "kid": &f.Kid, "use": &f.Use, "alg": &f.Alg, "key_ops": &f.Ops, "d": &f.Private, "x": &f.X, "y": &f.Y,
	} {
		if v, ok := all[name]; ok {
			if err := json.Unmarshal(v, to); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// verifies reports whether the key is public and for signatures.
func (f *jwkFields) verifies() bool {
	ops := len(f.Ops) == 0 || slices.Contains(f.Ops, "verify") || slices.Contains(f.Ops, "sign")
	return f.Private == nil && (f.Use == "" || f.Use == "sig") && ops
}

// means reports whether the key may be used with an algorithm that fits it: any, unless the key names one. EdDSA and
// Ed25519 are the same algorithm.
func (f *jwkFields) means(alg jwa.SignatureAlgorithm) bool {
	own := f.Alg
	if own == jwa.EdDSA().String() && alg == jwa.EdDSAEd25519() || own == jwa.EdDSAEd25519().String() && alg == jwa.EdDSA() {
		return true
	}
	return own == "" || own == alg.String()
}

// add adds a key to the set if it can verify tokens.
func (s *keySet) add(member json.RawMessage) {
	var f jwkFields
	if json.Unmarshal(member, &f) != nil || !f.verifies() {
		return
	}
	raw := publicKey(member, &f)
	used := false
	for _, alg := range fitting(raw) {
		if !f.means(alg) {
			continue
		}
		used = true
		if id := (keyID{f.Kid, alg}); len(s.keys[id]) < maxAlike {
			s.keys[id] = append(s.keys[id], raw)
		}
	}
	if used {
		s.kids = append(s.kids, f.Kid)
	}
}

// publicKey returns the key itself, or nil if this package does not support it. Other members of the JWK (x5c, x5t,
// the issuer's own) are ignored.
func publicKey(member json.RawMessage, f *jwkFields) crypto.PublicKey {
	if f.Type == "EC" && f.Curve == "secp256k1" {
		return secp256k1Key(f)
	}
	var all map[string]json.RawMessage
	if json.Unmarshal(member, &all) != nil {
		return nil
	}
	bare := make(map[string]json.RawMessage)
	for _, name := range []string{"kty", "crv", "x", "y", "n", "e"} {
		if v, ok := all[name]; ok {
			bare[name] = v
		}
	}
	b, err := json.Marshal(bare)
	if err != nil {
		return nil
	}
	key, err := jwk.ParseKey(b)
	if err != nil {
		return nil
	}
	var raw any
	if jwk.Export(key, &raw) != nil {
		return nil
	}
	return raw
}

func secp256k1Key(f *jwkFields) crypto.PublicKey {
	point := []byte{secp256k1.PubKeyFormatUncompressed}
	for _, coordinate := range []string{f.X, f.Y} {
		b, err := base64.RawURLEncoding.DecodeString(coordinate)
		if err != nil || len(b) != 32 {
			return nil
		}
		point = append(point, b...)
	}
	key, err := secp256k1.ParsePubKey(point) // checks that the point is on the curve
	if err != nil {
		return nil
	}
	return key
}

// withES256K registers the algorithm with jwx, which includes it only under a build tag.
var withES256K = sync.OnceValue(func() error { return jws.RegisterVerifier(jwa.ES256K(), es256k{}) })

// es256k verifies signatures of RFC 8812, section 3.2: r || s, 32 bytes each, over the SHA-256. Both low and high s
// are accepted.
type es256k struct{}

// Verify implements jws.Verifier2.
func (es256k) Verify(key any, payload, signature []byte) error {
	pub, ok := key.(*secp256k1.PublicKey)
	if !ok || len(signature) != 64 {
		return errSignature
	}
	var r, s secp256k1.ModNScalar
	if r.SetByteSlice(signature[:32]) || s.SetByteSlice(signature[32:]) { // not less than the order
		return errSignature
	}
	digest := sha256.Sum256(payload)
	if !secpecdsa.NewSignature(&r, &s).Verify(digest[:], pub) {
		return errSignature
	}
	return nil
}
