// Package auth authenticates callers: it derives a caller's name and scopes from a bearer token or from the client
// certificate of the connection.
//
// If a token is sent, it identifies the caller, and a bad token is refused even with a good certificate. Only without
// a token does the certificate count. Over HTTP only tokens count, since the gateway's inner connection has no
// certificate.
//
// Names from the two sources are disjoint. A certificate's name is its SPIFFE ID ("spiffe://example.org/backend"),
// "cn:" and its subject's common name, or "dns:" and one of its DNS names; a token's is its subject (sub), which may
// not begin with any of these prefixes in any spelling. docs/IDENTITY.md lists what is accepted of each. The package
// relies on the issuer to give no two users or services the same subject, and to give scopes to services only: a
// token without scopes may use its own wallets and no others.
//
// The package makes no decisions about wallets, forwards no tokens, and quotes no token in an error. It trusts the
// issuer's keys, the client CA and the configured identities.
package auth
