// Package server serves mpcd's API: the gRPC service of package mpcd.v1, the HTTP/JSON
// gateway in front of it, and the admin listener.
//
// A handler parses its request into what package session takes, follows the run, and
// puts events into messages. It decides nothing: who may do what, and when, is the
// package session's. Errors pass through one table (errors.go), where they get a code, a
// reason and a fixed public sentence; their causes go to the log.
//
// It never logs a payload, and trusts nothing in a request. That a caller is who the
// context says is the authenticator's word.
package server
