// Package session runs protocols for callers: it says who may do what, keeps each run
// in order from its request to its outcome, and owns the two-phase commit by which a
// new share set comes into being.
//
// A session is one run of one operation for one caller. It belongs to the service, not
// to the stream that started it: a caller may go away and attach again with the same
// request id. A set that a run made is PENDING until its client confirms that it stored
// its share; old sets are never touched by a run.
//
// The package declares what it needs of the outside as small interfaces (ports.go) and
// knows no SQL, no gRPC and no tss-lib. It never logs or returns a secret. It trusts its
// store to be durable and atomic, and nothing in a request.
package session
