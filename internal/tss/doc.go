// Package tss runs one side of a two-party protocol: key generation, resharing or signing, on secp256k1 (GG18 ECDSA)
// and Ed25519. It is the only package that imports tss-lib.
//
// A run has two sides, CLIENT and SERVER. In a resharing each side drives two tss-lib parties, its old and its new one;
// messages between those two never leave the side. A whole operation (Operation) runs over a Link: in memory for a
// hosted run, over the network for a device-held one. Within it each curve's protocol runs over a Conn.
//
// The package stores and logs nothing, knows nothing of sessions and chooses no policy. It checks its own side's share
// and pre-params before it uses them, trusts the share set's Record that its caller passes, and trusts nothing from the
// other side: all guards around tss-lib are here, each with a test (docs/tss-lib.md).
package tss
