package session

import (
	"fmt"
	"slices"
)

// Scope is a right over wallets of any owner.
type Scope string

// The scopes.
const (
	ScopeRead  Scope = "wallets:read"
	ScopeWrite Scope = "wallets:write"
	ScopeSign  Scope = "wallets:sign"
	ScopeAdmin Scope = "wallets:admin"
)

// Caller is the authenticated caller of a request.
type Caller struct {
	Name   string // unique over all authentication methods: a user's or a service's subject
	Scopes []Scope
}

// action is something that a caller may do to a wallet or a session.
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
	actSession   action = "use" // read, cancel, attach to, or send messages to a session
)

// ownerOnly marks actions that no scope permits.
const ownerOnly Scope = ""

// scopeFor maps each action to the scope that other callers than the owner need. Owners may do anything to their own
// wallets. The owner of a session is the caller who started it.
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

func (c Caller) hasScope(s Scope) bool { return slices.Contains(c.Scopes, s) }

// mayOnAny reports whether c may do a to wallets of any owner.
func (c Caller) mayOnAny(a action) bool {
	s, ok := scopeFor[a]
	return ok && s != ownerOnly && c.hasScope(s)
}

// may reports whether c may do a to a wallet of owner.
func (c Caller) may(a action, owner string) bool {
	return c.Name != "" && c.Name == owner || c.mayOnAny(a)
}

// authorise returns ErrWalletNotFound for an unauthorised caller, who must not learn that the wallet exists.
func (c Caller) authorise(a action, w *Wallet) error {
	if !c.may(a, w.Owner) {
		return fmt.Errorf("%w: caller %q may not %s a wallet of %q", ErrWalletNotFound, c.Name, a, w.Owner)
	}
	return nil
}

// authoriseSession returns ErrSessionNotFound for every caller other than the one who started it.
func (c Caller) authoriseSession(rec *Session) error {
	if !c.may(actSession, rec.Caller) {
		return fmt.Errorf("%w: caller %q may not use a session of %q", ErrSessionNotFound, c.Name, rec.Caller)
	}
	return nil
}
