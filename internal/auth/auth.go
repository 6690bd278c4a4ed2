package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/mpcd/mpcd/internal/names"
	"github.com/mpcd/mpcd/internal/session"
)

// Authenticator identifies callers. If Tokens is nil it rejects every token, and if Identities is empty every
// certificate.
type Authenticator struct {
	Tokens     *Tokens
	Identities Identities
}

// Caller returns who makes the gRPC call of ctx. Its error wraps session.ErrUnauthenticated and gives the reason for
// the log; it contains nothing from a token that was not verified.
func (a *Authenticator) Caller(ctx context.Context) (session.Caller, error) {
	c, err := a.caller(ctx)
	if err != nil {
		return session.Caller{}, fmt.Errorf("%w: %w", session.ErrUnauthenticated, err)
	}
	return c, nil
}

func (a *Authenticator) caller(ctx context.Context) (session.Caller, error) {
	sent := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(sent) == 0 {
		return a.Identities.caller(ctx)
	}
	if a.Tokens == nil {
		return session.Caller{}, fmt.Errorf("a token was sent, and none is configured")
	}
	token, err := bearer(sent)
	if err != nil {
		return session.Caller{}, err
	}
	return a.Tokens.verify(ctx, token)
}

// bearer returns the one token of the Authorization values (RFC 6750, section 2.1).
func bearer(values []string) (string, error) {
	if len(values) != 1 {
		return "", fmt.Errorf("%d authorization values: one is allowed", len(values))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.Trim(token, " ") // any number of spaces may follow the scheme
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", fmt.Errorf("the authorization is not of the form Bearer TOKEN")
	}
	if len(token) > maxToken {
		return "", fmt.Errorf("a token of %d bytes: at most %d are allowed", len(token), maxToken)
	}
	return token, nil
}

// maxName bounds a caller's name, in characters: it appears in the audit log and as the owner of wallets.
const maxName = names.MaxOwner

// checkName accepts what an owner may be called, except the empty name.
func checkName(name string) error {
	err := names.Check(name, maxName)
	switch {
	case name == "":
		return fmt.Errorf("the name is empty")
	case errors.Is(err, names.ErrText):
		return fmt.Errorf("the name is not printable text")
	case err != nil:
		return fmt.Errorf("the name %w", err)
	}
	return nil
}

var scopes = []session.Scope{session.ScopeRead, session.ScopeWrite, session.ScopeSign, session.ScopeAdmin}

// known returns the scopes that mpcd has, each once and in a fixed order.
func known(all []string) (out []session.Scope) {
	for _, s := range scopes {
		if slices.Contains(all, string(s)) {
			out = append(out, s)
		}
	}
	return out
}
