package session

import (
	"fmt"
	"slices"
)

// Scope is a right that a caller has over wallets of any owner.
type Scope string

// The scopes.
const (
	ScopeRead  Scope = "wallets:read"
	ScopeWrite Scope = "wallets:write"
	ScopeSign  Scope = "wallets:sign"
	ScopeAdmin Scope = "wallets:admin"
)

// Caller is who calls, as the interceptors found out.
type Caller struct {
	Name   string // unique over all ways to authenticate: a user's or a service's subject
	Scopes []Scope
}

// action is one thing that a caller may do to a wallet or a session.
type action string

const (
	actCreate    action = "create"
	actBackup    action = "backup"
	actProvision action = "provision"
	actConfirm   action = "confirm"
	actRevoke    action = "revoke"
	actRelease   action = "release a set of" // an owner needs the scope too
	actSign      action = "sign"
	actRead      action = "read"
	actSession   action = "use" // look at, cancel, attach to, or feed a session
)

// ownerOnly stands in the table where no scope helps.
const ownerOnly Scope = ""

// scopeFor is the one table of rights: an owner may do anything to its own wallets, and
// everybody else needs the scope that stands here. A session's owner is who started it.
var scopeFor = map[action]Scope{
	actCreate:    ScopeWrite,
	actBackup:    ScopeWrite,
	actProvision: ScopeWrite,
	actConfirm:   ScopeWrite,
	actRevoke:    ScopeAdmin,
	actRelease:   ScopeAdmin,
	actSign:      ScopeSign,
	actRead:      ScopeRead,
	actSession:   ownerOnly,
}

func (c Caller) has(s Scope) bool { return slices.Contains(c.Scopes, s) }

// mayOnAny reports whether c may do a to wallets of any owner.
func (c Caller) mayOnAny(a action) bool {
	s, ok := scopeFor[a]
	return ok && s != ownerOnly && c.has(s)
}

// may reports whether c may do a to a wallet of owner.
func (c Caller) may(a action, owner string) bool {
	return c.Name != "" && c.Name == owner || c.mayOnAny(a)
}

// authorise returns the wallet's absence for a stranger, who must not learn that it
// is there.
func (c Caller) authorise(a action, w *Wallet) error {
	if !c.may(a, w.Owner) {
		return fmt.Errorf("%w: caller %q may not %s a wallet of %q", ErrWalletNotFound, c.Name, a, w.Owner)
	}
	return nil
}

// authoriseSession returns the session's absence for everybody who did not start it.
func (c Caller) authoriseSession(rec *Session) error {
	if !c.may(actSession, rec.Caller) {
		return fmt.Errorf("%w: caller %q may not use a session of %q", ErrSessionNotFound, c.Name, rec.Caller)
	}
	return nil
}
