package session

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The rights as documented in wallet_service.proto.
func TestRights(t *testing.T) {
	t.Parallel()
	want := map[action]Scope{
		actCreate: ScopeWrite, actBackup: ScopeWrite, actProvision: ScopeWrite, actConfirm: ScopeWrite,
		actRevoke: ScopeAdmin, actRelease: ScopeAdmin, actSign: ScopeSign, actRead: ScopeRead, actSession: "",
	}
	require.Equal(t, want, scopeFor)
	w := &Wallet{ID: "w", Owner: "alice"}
	for a, scope := range want {
		require.NoError(t, Caller{Name: "alice"}.authorise(a, w), "an owner may do anything: %s", a)
		for _, s := range []Scope{ScopeRead, ScopeWrite, ScopeSign, ScopeAdmin, "", "wallets:*"} {
			for _, name := range []string{"service", ""} {
				err := Caller{Name: name, Scopes: []Scope{"other", s}}.authorise(a, w)
				if s == scope && s != "" {
					require.NoError(t, err, "%s with %s", a, s)
				} else {
					require.ErrorIs(t, err, ErrWalletNotFound, "%s with %q: a stranger must not learn that it exists", a, s)
				}
			}
		}
		require.ErrorIs(t, Caller{}.authorise(a, &Wallet{}), ErrWalletNotFound, "an unnamed caller owns nothing")
		require.ErrorIs(t, Caller{Name: "Alice"}.authorise(a, w), ErrWalletNotFound)
		require.False(t, Caller{Name: "alice"}.mayOnAny(a))
	}
	require.ErrorIs(t, Caller{Name: "root", Scopes: []Scope{""}}.authorise("unknown", w), ErrWalletNotFound)
}

// Only the caller who started a session may use it, whatever scopes others have.
func TestRightsOverASession(t *testing.T) {
	t.Parallel()
	rec := &Session{ID: "s", Caller: "alice"}
	require.NoError(t, Caller{Name: "alice"}.authoriseSession(rec))
	every := []Scope{ScopeRead, ScopeWrite, ScopeSign, ScopeAdmin, ""}
	for _, name := range []string{"service", "", "Alice"} {
		require.ErrorIs(t, Caller{Name: name, Scopes: every}.authoriseSession(rec), ErrSessionNotFound, name)
	}
	require.ErrorIs(t, Caller{}.authoriseSession(&Session{}), ErrSessionNotFound, "an unnamed caller started nothing")
}
