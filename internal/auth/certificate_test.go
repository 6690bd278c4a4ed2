package auth_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/mpcd/mpcd/internal/auth"
	"github.com/mpcd/mpcd/internal/auth/authtest"
	"github.com/mpcd/mpcd/internal/session"
)

const backend = "spiffe://example.org/wallet-backend"

// over returns the context of a call over a connection with this verified certificate.
func over(t testing.TB, p authtest.Pair, change func(*tls.ConnectionState)) context.Context {
	t.Helper()
	leaf, err := x509.ParseCertificate(p.TLS.Certificate[0])
	require.NoError(t, err)
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
	if change != nil {
		change(&state)
	}
	return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: credentials.TLSInfo{State: state}})
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	ca := authtest.NewCA(t, "services")
	key := authtest.NewKey(t, "k", "ES256")
	a := &auth.Authenticator{
		Tokens: newTokens(t, keysFile(t, key), silent),
		Identities: auth.Identities{
			backend: {session.ScopeRead, session.ScopeWrite}, "cn:support": nil, "cn:spiffe://example.org/x": {session.ScopeAdmin},
			"dns:risk.example.org": {session.ScopeRead}, "dns:old.example.org": nil, "dns:example.org": {session.ScopeAdmin},
		},
	}
	for name, c := range map[string]struct {
		cn   string
		uris []string
		want session.Caller
		says string // empty: it is accepted
	}{
		"a SPIFFE ID":                       {"", []string{backend}, session.Caller{Name: backend, Scopes: []session.Scope{session.ScopeRead, session.ScopeWrite}}, ""},
		"a SPIFFE ID beside a common name":  {"support", []string{backend}, session.Caller{Name: backend, Scopes: []session.Scope{session.ScopeRead, session.ScopeWrite}}, ""},
		"a common name":                     {"support", nil, session.Caller{Name: "cn:support"}, ""},
		"two URIs":                          {"support", []string{backend, backend}, session.Caller{}, "2 URIs"},
		"two URIs, one of them SPIFFE":      {"support", []string{backend, "https://example.org/"}, session.Caller{}, "2 URIs"},
		"another URI":                       {"support", []string{"https://example.org/wallet-backend"}, session.Caller{}, "not a SPIFFE ID"},
		"a SPIFFE ID with a query":          {"support", []string{backend + "?x"}, session.Caller{}, "not a SPIFFE ID"},
		"a SPIFFE ID with a port":           {"support", []string{"spiffe://example.org:1/wallet-backend"}, session.Caller{}, "not a SPIFFE ID"},
		"a trust domain alone":              {"support", []string{"spiffe://example.org"}, session.Caller{}, "not a SPIFFE ID"},
		"a SPIFFE ID that is not named":     {"support", []string{backend + "/other"}, session.Caller{}, "not configured"},
		"a common name that is not named":   {"Support", nil, session.Caller{}, "not configured"},
		"a SPIFFE ID as its common name":    {backend, nil, session.Caller{}, "not configured"},
		"a common name with its own prefix": {"cn:support", nil, session.Caller{}, "not configured"},
		"a DNS name that is not named":      {"", nil, session.Caller{}, `"dns:localhost", which is not configured`},
		"a common name of two lines":        {"support\n", nil, session.Caller{}, "not printable"},
	} {
		got, err := a.Caller(over(t, ca.IssueTo(t, c.cn, c.uris...), nil))
		require.Equal(t, c.want, got, name)
		if c.says == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, session.ErrUnauthenticated, name)
		require.ErrorContains(t, err, c.says, name)
	}

	reader := session.Caller{Name: "dns:risk.example.org", Scopes: []session.Scope{session.ScopeRead}}
	for name, c := range map[string]struct {
		cn   string
		dns  []string
		want session.Caller
		says string // empty: it is accepted
	}{
		"alone":                         {"", []string{"risk.example.org"}, reader, ""},
		"in upper case":                 {"", []string{"RISK.Example.ORG"}, reader, ""},
		"with a dot at its end":         {"", []string{"risk.example.org."}, reader, ""},
		"among others":                  {"", []string{"risk", "risk.svc", "risk.example.org", "localhost"}, reader, ""},
		"twice":                         {"", []string{"risk.example.org", "RISK.example.org"}, reader, ""},
		"beside an unknown common name": {"risk", []string{"risk.example.org"}, reader, ""},
		"the same as the common name":   {"risk.example.org", []string{"risk.example.org"}, reader, ""},
		"beside a known common name":    {"support", []string{"risk.example.org"}, session.Caller{}, "more than one is configured"},
		"two that are known":            {"", []string{"risk.example.org", "old.example.org"}, session.Caller{}, "more than one is configured"},
		"a wildcard":                    {"", []string{"*.example.org"}, session.Caller{}, "neither a SPIFFE ID nor a common name nor a DNS name"},
		"a name below":                  {"", []string{"a.risk.example.org"}, session.Caller{}, "not configured"},
		"as the common name alone":      {"risk.example.org", nil, session.Caller{}, `"cn:risk.example.org", which is not configured`},
		"with its prefix as a name":     {"dns:risk.example.org", nil, session.Caller{}, "not configured"},
		"an address as a name":          {"", []string{"127.0.0.1"}, session.Caller{}, "neither"},
		"none at all":                   {"", nil, session.Caller{}, "neither a SPIFFE ID nor a common name nor a DNS name"},
	} {
		pair := ca.Issue(t, func(x *x509.Certificate) {
			x.Subject.CommonName, x.DNSNames, x.EmailAddresses = c.cn, c.dns, []string{"risk.example.org@example.org"}
		})
		got, err := a.Caller(over(t, pair, nil))
		require.Equal(t, c.want, got, name)
		if c.says == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, session.ErrUnauthenticated, name)
		require.ErrorContains(t, err, c.says, name)
	}
	both := ca.Issue(t, func(x *x509.Certificate) {
		u, err := url.Parse(backend + "/other")
		require.NoError(t, err)
		x.URIs, x.DNSNames = []*url.URL{u}, []string{"risk.example.org"}
	})
	_, err := a.Caller(over(t, both, nil))
	require.ErrorContains(t, err, "not configured", "a SPIFFE ID is the name, where there is one")

	good := ca.IssueTo(t, "", backend)
	for name, change := range map[string]func(*tls.ConnectionState){
		"that nobody verified": func(s *tls.ConnectionState) { s.VerifiedChains = nil },
		"that is not there":    func(s *tls.ConnectionState) { s.PeerCertificates = nil },
		"that has expired":     func(s *tls.ConnectionState) { s.PeerCertificates[0].NotAfter = time.Now().Add(-time.Second) },
	} {
		_, err := a.Caller(over(t, good, change))
		require.ErrorIs(t, err, session.ErrUnauthenticated, name)
	}

	// A token, if one is sent, identifies the caller even over a connection with a certificate.
	sent := func(value string) context.Context {
		return metadata.NewIncomingContext(over(t, good, nil), metadata.Pairs("authorization", value))
	}
	got, err := a.Caller(sent("Bearer " + key.Token(t, authtest.Claims("alice", nil))))
	require.NoError(t, err)
	require.Equal(t, session.Caller{Name: "alice"}, got, "and does not add the certificate's scopes")
	for _, bad := range []string{"", "Bearer x", "Bearer " + key.Token(t, authtest.Claims("alice", map[string]any{"exp": 1}))} {
		_, err = a.Caller(sent(bad))
		require.ErrorIs(t, err, session.ErrUnauthenticated, "a bad token is refused despite a good certificate")
	}
}

func TestIdentitiesFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "identities.yaml")
	load := func(text string) (auth.Identities, error) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return auth.LoadIdentities(path)
	}
	ids, err := load("identities: {'dns:Risk.Example.ORG.': {scopes: [wallets:read]}, dns:risk-2_a: {}, dns:xn--bcher-kva.example: {}}")
	require.NoError(t, err)
	require.Equal(t, auth.Identities{"dns:risk.example.org": {session.ScopeRead}, "dns:risk-2_a": nil, "dns:xn--bcher-kva.example": nil}, ids)
	ids, err = load("identities:\n  " + backend + ": {scopes: [wallets:write, wallets:read]}\n  cn:support: {}\n")
	require.NoError(t, err)
	require.Equal(t, auth.Identities{backend: {session.ScopeRead, session.ScopeWrite}, "cn:support": nil}, ids)
	for text, says := range map[string][]string{
		"":                                   {"not YAML of the form"},
		"identities: {}":                     {"not YAML of the form"},
		"identities: [a]":                    {"not YAML of the form"},
		"identities: {cn:a: {scope: [x]}}":   {"not YAML of the form"},
		"identity: {cn:a: {}}":               {"not YAML of the form"},
		"identities: {cn:a: {}, cn:a: {}}":   {"not YAML of the form"},
		"identities: {alice: {}, 'cn:': {}}": {`"alice": it is neither`, `"cn:": it is neither`},
		"identities: {'spiffe://a/b?c': {}}": {"neither a SPIFFE ID"},
		"identities: {'SPIFFE://a/b': {}}":   {"neither a SPIFFE ID"},
		"identities: {'spiffe://a': {}}":     {"neither a SPIFFE ID"},
		"identities: {'dns:': {}}":           {"not one DNS name"},
		"identities: {'dns:*.example.org': {}, 'dns:.a': {}, 'dns:a..b': {}, 'dns:a b': {}}":      {`"dns:*.example.org": it is not one DNS name`, `"dns:.a"`, `"dns:a..b"`, `"dns:a b"`},
		"identities: {'dns:example.org:443': {}, 'dns:127.0.0.1': {}, 'dns:::1': {}}":             {`"dns:example.org:443": it`, `"dns:127.0.0.1": it`, `"dns:::1": it`},
		"identities: {'dns:b\u00fccher.example': {}, 'DNS:a': {}, 'email:a@b': {}}":               {"xn--", `"DNS:a": it is neither`, `"email:a@b": it is neither`},
		"identities: {dns:a: {}, 'dns:A.': {}}":                                                   {"it is there twice"},
		"identities: {cn:a: {scopes: [all]}}":                                                     {`there is no scope "all"`},
		"identities: {'cn:" + strings.Repeat("a", 256) + "': {}, 'spiffe://x': {scopes: [\"\"]}}": {"at most 256", "neither", "no scope"},
	} {
		_, err := load(text)
		for _, s := range says {
			require.ErrorContains(t, err, s, text)
		}
		require.NotEmpty(t, says)
	}
	_, err = auth.LoadIdentities(filepath.Join(t.TempDir(), "none"))
	require.ErrorContains(t, err, "no such file")
}
