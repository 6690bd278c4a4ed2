// Package session runs operations for callers: it authorises requests, takes each run from its request to its outcome,
// and implements the two-phase commit of new share sets.
//
// A session is one operation for one caller. It belongs to the service, not to the stream that started it: a caller can
// disconnect and attach again with the same request id. A new set is PENDING until its client confirms that it has
// stored its share; a run never changes existing sets.
//
// The package declares its dependencies as small interfaces (ports.go) and contains no SQL, gRPC or tss-lib. It never
// logs a secret. It trusts its store to be durable and atomic, and trusts nothing in a request.
package session
