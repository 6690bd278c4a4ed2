package main

import (
	"crypto/tls"
	"log/slog"
	"net"
	"strings"

	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/auth"
	"github.com/mpcd/mpcd/internal/server"
)

// accessFlags are the settings of serve that say who may call, and over what.
type accessFlags struct {
	tlsCert, tlsKey, minTLS, tlsClientCA, mtlsIdentities string
	jwtIssuer, jwtAudience, jwtJWKS                      string
	limits                                               server.Limits
}

func (a *accessFlags) settings() settings {
	return settings{
		&text{name: "tls-cert", to: &a.tlsCert, value: "FILE",
			help: "The service's certificate with its chain, PEM, for gRPC and HTTP. It is read again when it changes, " +
				"as are the key and the client CA."},
		&text{name: "tls-key", to: &a.tlsKey, value: "FILE",
			help: "The certificate's key, PEM, mode 0600."},
		&text{name: "min-tls", to: &a.minTLS, def: "1.3", value: "VERSION",
			help: "The oldest TLS of the HTTP listener: 1.3, or 1.2 for phones that have no newer one (Android before 10, " +
				"iOS before 12.2), then with forward secrecy and AEAD ciphers alone. gRPC is 1.3 always."},
		&text{name: "tls-client-ca", to: &a.tlsClientCA, value: "FILE",
			help: "The CA of services that call with a client certificate, PEM. Over gRPC only."},
		&text{name: "mtls-identities", to: &a.mtlsIdentities, value: "FILE",
			help: "YAML file with the names in client certificates that may call, and their scopes, as in: " +
				"identities: {spiffe://example.org/backend: {scopes: [wallets:read]}, " +
				"dns:risk.example.org: {scopes: [wallets:read]}, cn:support: {scopes: []}}"},

		&text{name: "jwt-issuer", to: &a.jwtIssuer, value: "URL",
			help: "Who makes the bearer tokens: their iss."},
		&text{name: "jwt-audience", to: &a.jwtAudience, value: "NAME",
			help: "For whom they are: what their aud must hold."},
		&text{name: "jwt-jwks", to: &a.jwtJWKS, value: "FILE|URL",
			help: "The issuer's public keys, a JWK Set: a file, or its https URL. " +
				"It is read again when a token names another key."},

		&number{name: "rate", to: &a.limits.Rate, def: 100,
			help: "Calls a second, of each caller and method; 0: no limit. With --dev there is none."},
		&number{name: "burst", to: &a.limits.Burst, def: 200, least: 1,
			help: "How many of them may come at once."},
	}
}

// access is who may call, ready for use.
type access struct {
	auth   server.Authenticator
	config server.Config
	close  func()
}

// open adds every fault of these settings, and returns what they say. The caller closes it.
func (a *accessFlags) open(dev bool, addresses []address, log *slog.Logger, f *faults) *access {
	out := &access{auth: app.DevCaller, close: func() {}}
	a.openTLS(dev, addresses, log, f, &out.config)
	if dev {
		for _, x := range a.who() {
			if x.value != "" {
				f.add("%s: a --dev service has no authentication: leave out one of the two", x.flag)
			}
		}
		return out
	}
	out.config.Limits = a.limits
	authenticator := &auth.Authenticator{Identities: a.openIdentities(f), Tokens: a.openTokens(log, f)}
	if a.jwtIssuer+a.jwtAudience+a.jwtJWKS+a.tlsClientCA+a.mtlsIdentities == "" {
		f.add("authentication is missing: name --jwt-issuer, --jwt-audience and --jwt-jwks, or --tls-client-ca and " +
			"--mtls-identities, or both; --dev is a loopback service without it")
	}
	out.auth = authenticator.Caller
	if authenticator.Tokens != nil {
		out.close = authenticator.Tokens.Close
		if len(*f) == 0 {
			authenticator.Tokens.Fetch()
		}
	}
	return out
}

type named struct{ flag, value string }

// who are the flags that say who may call.
func (a *accessFlags) who() []named {
	return append(a.tokens(), named{"--tls-client-ca", a.tlsClientCA}, named{"--mtls-identities", a.mtlsIdentities})
}

func (a *accessFlags) tokens() []named {
	return []named{{"--jwt-issuer", a.jwtIssuer}, {"--jwt-audience", a.jwtAudience}, {"--jwt-jwks", a.jwtJWKS}}
}

// together adds a fault where some of the settings are there and others are not.
func together(f *faults, all ...named) (complete bool) {
	var there, missing []string
	for _, x := range all {
		if x.value == "" {
			missing = append(missing, x.flag)
		} else {
			there = append(there, x.flag)
		}
	}
	if len(there) > 0 {
		for _, flag := range missing {
			f.add("%s is missing: it belongs to %s", flag, strings.Join(there, " and "))
		}
	}
	return len(missing) == 0
}

// minTLS are the values of --min-tls.
var minTLS = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func (a *accessFlags) openTLS(dev bool, addresses []address, log *slog.Logger, f *faults, to *server.Config) {
	least, ok := minTLS[a.minTLS]
	if !ok {
		f.add("--min-tls: %q is not 1.2 or 1.3", a.minTLS)
	} else if least != tls.VersionTLS13 && a.tlsCert+a.tlsKey == "" {
		f.add("--min-tls: there is no TLS without a certificate: name --tls-cert and --tls-key")
	}
	if !together(f, named{"--tls-cert", a.tlsCert}, named{"--tls-key", a.tlsKey}) {
		if a.tlsClientCA != "" && a.tlsCert+a.tlsKey == "" {
			f.add("--tls-client-ca: client certificates come over TLS only: name --tls-cert and --tls-key")
		}
		for _, x := range addresses {
			host, _, err := net.SplitHostPort(x.addr)
			if err == nil && !isLoopback(host) && !dev && a.tlsCert+a.tlsKey == "" { // with --dev it is a fault already
				f.add("%s: %q is not loopback: tokens and shares travel here, so name --tls-cert and --tls-key", x.flag, x.addr)
			}
		}
		return
	}
	certificates, err := auth.LoadCertificates(a.tlsCert, a.tlsKey, a.tlsClientCA, log)
	if err != nil {
		f.join(err)
		return
	}
	certificates.MinHTTP = least
	to.GRPCTLS, to.HTTPTLS = certificates.GRPC(), certificates.HTTP()
}

func (a *accessFlags) openIdentities(f *faults) auth.Identities {
	if !together(f, named{"--tls-client-ca", a.tlsClientCA}, named{"--mtls-identities", a.mtlsIdentities}) {
		return nil
	}
	ids, err := auth.LoadIdentities(a.mtlsIdentities)
	f.join(err)
	return ids
}

func (a *accessFlags) openTokens(log *slog.Logger, f *faults) *auth.Tokens {
	if !together(f, a.tokens()...) {
		return nil
	}
	tokens, err := auth.NewTokens(a.jwtIssuer, a.jwtAudience, a.jwtJWKS, log)
	if err != nil {
		f.add("--jwt-jwks: %w", err)
		return nil
	}
	return tokens
}
