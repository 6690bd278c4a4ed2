// Package server serves mpcd's API: the gRPC service of package mpcd.v1, the HTTP/JSON gateway in front of it, and
// the admin listener.
//
// A handler converts its request to package session's types, follows the run, and converts events to messages. What
// is allowed, and when, is package session's decision. All errors go through one table (errors.go), which gives them
// a code, a reason and a fixed public sentence; their causes are only logged.
//
// It never logs a payload, and trusts nothing in a request. For the caller's identity it relies on the authenticator.
package server
