// Package tss runs one side of a two-party protocol: key generation, resharing and
// signing, on secp256k1 (GG18 ECDSA) and ed25519. It is the only package that
// imports tss-lib.
//
// A run has two sides, CLIENT and SERVER. In a resharing each side drives two tss-lib
// parties, its old and its new one; what passes between those two never leaves the
// side. Two sides are joined by a Conn: a pipe in one process (hosted), or a network
// transport (device-held).
//
// It never stores, logs or sends anything by itself, knows nothing of sessions, and
// chooses no policy. It trusts its own side's share and pre-params after having
// checked them, a share set's Record as its caller hands it over, and nothing that
// comes from the other side: the guards around tss-lib live here, each with its test.
package tss
