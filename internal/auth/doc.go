// Package auth says who is calling: a caller's name and scopes, from a bearer token or
// from the client certificate of its connection.
//
// One rule decides between the two: a token, where one is sent, names the caller, and a
// bad token is refused however good the certificate is; else the certificate does. Over
// HTTP tokens alone count, since the gateway's inner connection has no certificate.
//
// Names from the two sources cannot meet. A certificate's name is its SPIFFE ID
// ("spiffe://example.org/backend"), "cn:" and its subject's common name, or "dns:" and one of
// its DNS names; a token's is its subject (sub), which may not begin with any of these
// prefixes in any spelling. docs/IDENTITY.md lists what is accepted of either. A user's
// token and a service's are told apart by their issuer, which gives no two of them one
// subject, and scopes to services alone: a token without scopes owns its own wallets and
// no others.
//
// It decides nothing about wallets, sends nobody's token anywhere, and quotes no token in
// an error. It trusts the issuer's keys, the client CA and the configured identities.
package auth
