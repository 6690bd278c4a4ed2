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

// accessFlags are the settings of serve for TLS, authentication and rate limits.
type accessFlags struct {
	tlsCert, tlsKey, minTLS, tlsClientCA, mtlsIdentities string
	jwtIssuer, jwtAudience, jwtJWKS                      string
	limits                                               server.Limits
}

func (a *accessFlags) settings() settings {
	return settings{
		&text{name: "tls-cert", to: &a.tlsCert, value: "FILE",
			help: "The service's certificate with its chain, PEM, for gRPC and HTTP. It is reloaded when it changes, " +
				"as are the key and the client CA."},
		&text{name: "tls-key", to: &a.tlsKey, value: "FILE",
			help: "The certificate's key, PEM, mode 0600."},
		&text{name: "min-tls", to: &a.minTLS, def: "1.3", value: "VERSION",
			help: "Minimum TLS version of the HTTP listener: 1.3, or 1.2 for older phones (Android before 10, " +
				"iOS before 12.2), then only with forward secrecy and AEAD ciphers. gRPC always requires 1.3."},
		&text{name: "tls-client-ca", to: &a.tlsClientCA, value: "FILE",
			help: "The CA of client certificates, PEM. Client certificates are accepted over gRPC only."},
		&text{name: "mtls-identities", to: &a.mtlsIdentities, value: "FILE",
			help: "YAML file with the names in client certificates that are accepted, and their scopes, as in: " +
				"identities: {spiffe://example.org/backend: {scopes: [wallets:read]}, " +
				"dns:risk.example.org: {scopes: [wallets:read]}, cn:support: {scopes: []}}"},

		&text{name: "jwt-issuer", to: &a.jwtIssuer, value: "URL",
			help: "Issuer of the bearer tokens (iss)."},
		&text{name: "jwt-audience", to: &a.jwtAudience, value: "NAME",
			help: "Audience that bearer tokens must have (aud)."},
		&text{name: "jwt-jwks", to: &a.jwtJWKS, value: "FILE|URL",
			help: "The issuer's public keys, a JWK Set: a file, or its https URL. " +
				"It is reloaded when a token names an unknown key."},

		&number{name: "rate", to: &a.limits.Rate, def: 100,
			help: "Calls a second, for each caller and method; 0: no limit. With --dev there is no limit."},
		&number{name: "burst", to: &a.limits.Burst, def: 200, least: 1,
			help: "How many calls may come at once, within that rate."},
	}
}

// access is the loaded form of accessFlags.
type access struct {
	auth   server.Authenticator
	config server.Config
	close  func()
}

// open loads what the settings name, and adds their faults to f. The caller must close the result.
func (a *accessFlags) open(dev bool, addresses []address, log *slog.Logger, f *faults) *access {
	out := &access{auth: app.DevCaller, close: func() {}}
	a.openTLS(dev, addresses, log, f, &out.config)
	if dev {
		for _, x := range a.authentication() {
			if x.value != "" {
				f.add("%s: a --dev service has no authentication: remove one of the two", x.flag)
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

// authentication returns the flags about authentication.
func (a *accessFlags) authentication() []named {
	return append(a.tokens(), named{"--tls-client-ca", a.tlsClientCA}, named{"--mtls-identities", a.mtlsIdentities})
}

func (a *accessFlags) tokens() []named {
	return []named{{"--jwt-issuer", a.jwtIssuer}, {"--jwt-audience", a.jwtAudience}, {"--jwt-jwks", a.jwtJWKS}}
}

// allOrNone adds a fault if some of the settings are set and others are not.
func allOrNone(f *faults, all ...named) (complete bool) {
	var present, missing []string
	for _, x := range all {
		if x.value == "" {
			missing = append(missing, x.flag)
		} else {
			present = append(present, x.flag)
		}
	}
	if len(present) > 0 {
		for _, flag := range missing {
			f.add("%s is missing: it belongs to %s", flag, strings.Join(present, " and "))
		}
	}
	return len(missing) == 0
}

// minTLS has the values of --min-tls.
var minTLS = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func (a *accessFlags) openTLS(dev bool, addresses []address, log *slog.Logger, f *faults, to *server.Config) {
	least, ok := minTLS[a.minTLS]
	if !ok {
		f.add("--min-tls: %q is not 1.2 or 1.3", a.minTLS)
	} else if least != tls.VersionTLS13 && a.tlsCert+a.tlsKey == "" {
		f.add("--min-tls: there is no TLS without a certificate: name --tls-cert and --tls-key")
	}
	if !allOrNone(f, named{"--tls-cert", a.tlsCert}, named{"--tls-key", a.tlsKey}) {
		if a.tlsClientCA != "" && a.tlsCert+a.tlsKey == "" {
			f.add("--tls-client-ca: client certificates come over TLS only: name --tls-cert and --tls-key")
		}
		for _, x := range addresses {
			host, _, err := net.SplitHostPort(x.addr)
			if err == nil && !isLoopback(host) && !dev && a.tlsCert+a.tlsKey == "" { // with --dev it is a fault already
				f.add("%s: %q is not loopback: calls have tokens and shares, so name --tls-cert and --tls-key",
					x.flag, x.addr)
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
	if !allOrNone(f, named{"--tls-client-ca", a.tlsClientCA}, named{"--mtls-identities", a.mtlsIdentities}) {
		return nil
	}
	ids, err := auth.LoadIdentities(a.mtlsIdentities)
	f.join(err)
	return ids
}

func (a *accessFlags) openTokens(log *slog.Logger, f *faults) *auth.Tokens {
	if !allOrNone(f, a.tokens()...) {
		return nil
	}
	tokens, err := auth.NewTokens(a.jwtIssuer, a.jwtAudience, a.jwtJWKS, log)
	if err != nil {
		f.add("--jwt-jwks: %w", err)
		return nil
	}
	return tokens
}
