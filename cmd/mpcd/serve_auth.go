package main

import (
	"crypto/tls"
	"log/slog"
	"net"
	"strings"

	"github.com/mpcd/mpcd/internal/auth"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/service"
)

// accessFlags are the settings of serve that say who may call, and over what.
type accessFlags struct {
	TLSCert        string `name:"tls-cert" help:"The service's certificate with its chain, PEM, for gRPC and HTTP. It is read again when it changes, as are the key and the client CA." placeholder:"FILE" env:"MPCD_TLS_CERT"`
	TLSKey         string `name:"tls-key" help:"The certificate's key, PEM, mode 0600." placeholder:"FILE" env:"MPCD_TLS_KEY"`
	MinTLS         string `name:"min-tls" help:"The oldest TLS of the HTTP listener: 1.3, or 1.2 for phones that have no newer one (Android before 10, iOS before 12.2), then with forward secrecy and AEAD ciphers alone. gRPC is 1.3 always (default: ${default})." default:"1.3" placeholder:"VERSION" env:"MPCD_MIN_TLS"`
	TLSClientCA    string `name:"tls-client-ca" help:"The CA of services that call with a client certificate, PEM. Over gRPC only." placeholder:"FILE" env:"MPCD_TLS_CLIENT_CA"`
	MTLSIdentities string `name:"mtls-identities" help:"YAML file with the names in client certificates that may call, and their scopes, as in: identities: {spiffe://example.org/backend: {scopes: [wallets:read]}, dns:risk.example.org: {scopes: [wallets:read]}, cn:support: {scopes: []}}" placeholder:"FILE" env:"MPCD_MTLS_IDENTITIES"`

	JWTIssuer   string `name:"jwt-issuer" help:"Who makes the bearer tokens: their iss." placeholder:"URL" env:"MPCD_JWT_ISSUER"`
	JWTAudience string `name:"jwt-audience" help:"For whom they are: what their aud must hold." placeholder:"NAME" env:"MPCD_JWT_AUDIENCE"`
	JWTJWKS     string `name:"jwt-jwks" help:"The issuer's public keys, a JWK Set: a file, or its https URL. It is read again when a token names another key." placeholder:"FILE|URL" env:"MPCD_JWT_JWKS"`

	Rate  setting[int] `help:"Calls a second, of each caller and method; 0: no limit. With --dev there is none (default: ${default})." default:"100" placeholder:"N" env:"MPCD_RATE"`
	Burst setting[int] `help:"How many of them may come at once (default: ${default})." default:"200" placeholder:"N" env:"MPCD_BURST"`
}

// access is who may call, ready for use.
type access struct {
	auth   server.Authenticator
	config server.Config
	close  func()
}

// open adds every fault of these settings, and returns what they say. The caller closes it.
func (a *accessFlags) open(dev bool, addresses []address, log *slog.Logger, f *faults) *access {
	a.checkValues(f)
	out := &access{auth: service.DevCaller, close: func() {}}
	a.openTLS(dev, addresses, log, f, &out.config)
	if dev {
		for _, x := range a.who() {
			if x.value != "" {
				f.add("%s: a --dev service has no authentication: leave out one of the two", x.flag)
			}
		}
		return out
	}
	out.config.Limits = server.Limits{Rate: a.Rate.value, Burst: a.Burst.value}
	authenticator := &auth.Authenticator{Identities: a.openIdentities(f), Tokens: a.openTokens(log, f)}
	if a.JWTIssuer+a.JWTAudience+a.JWTJWKS+a.TLSClientCA+a.MTLSIdentities == "" {
		f.add("authentication is missing: name --jwt-issuer, --jwt-audience and --jwt-jwks, or --tls-client-ca and --mtls-identities, or both; --dev is a loopback service without it")
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
	return append(a.tokens(), named{"--tls-client-ca", a.TLSClientCA}, named{"--mtls-identities", a.MTLSIdentities})
}

func (a *accessFlags) tokens() []named {
	return []named{{"--jwt-issuer", a.JWTIssuer}, {"--jwt-audience", a.JWTAudience}, {"--jwt-jwks", a.JWTJWKS}}
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

func (a *accessFlags) checkValues(f *faults) {
	for _, x := range []struct {
		flag    string
		setting setting[int]
		least   int
	}{{"--rate", a.Rate, 0}, {"--burst", a.Burst, 1}} {
		if x.setting.err != nil {
			f.add("%s: %w", x.flag, x.setting.err)
		} else if x.setting.value < x.least {
			f.add("%s: %d is too small", x.flag, x.setting.value)
		}
	}
}

// minTLS are the values of --min-tls.
var minTLS = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func (a *accessFlags) openTLS(dev bool, addresses []address, log *slog.Logger, f *faults, to *server.Config) {
	least, ok := minTLS[a.MinTLS]
	if !ok {
		f.add("--min-tls: %q is not 1.2 or 1.3", a.MinTLS)
	} else if least != tls.VersionTLS13 && a.TLSCert+a.TLSKey == "" {
		f.add("--min-tls: there is no TLS without a certificate: name --tls-cert and --tls-key")
	}
	if !together(f, named{"--tls-cert", a.TLSCert}, named{"--tls-key", a.TLSKey}) {
		if a.TLSClientCA != "" && a.TLSCert+a.TLSKey == "" {
			f.add("--tls-client-ca: client certificates come over TLS only: name --tls-cert and --tls-key")
		}
		for _, x := range addresses {
			host, _, err := net.SplitHostPort(x.addr)
			if err == nil && !isLoopback(host) && !dev && a.TLSCert+a.TLSKey == "" { // with --dev it is a fault already
				f.add("%s: %q is not loopback: tokens and shares travel here, so name --tls-cert and --tls-key", x.flag, x.addr)
			}
		}
		return
	}
	certificates, err := auth.LoadCertificates(a.TLSCert, a.TLSKey, a.TLSClientCA, log)
	if err != nil {
		f.join(err)
		return
	}
	certificates.MinHTTP = least
	to.GRPCTLS, to.HTTPTLS = certificates.GRPC(), certificates.HTTP()
}

func (a *accessFlags) openIdentities(f *faults) auth.Identities {
	if !together(f, named{"--tls-client-ca", a.TLSClientCA}, named{"--mtls-identities", a.MTLSIdentities}) {
		return nil
	}
	ids, err := auth.LoadIdentities(a.MTLSIdentities)
	f.join(err)
	return ids
}

func (a *accessFlags) openTokens(log *slog.Logger, f *faults) *auth.Tokens {
	if !together(f, a.tokens()...) {
		return nil
	}
	tokens, err := auth.NewTokens(a.JWTIssuer, a.JWTAudience, a.JWTJWKS, log)
	if err != nil {
		f.add("--jwt-jwks: %w", err)
		return nil
	}
	return tokens
}

// join adds each of the errors that err joins; nil is none.
func (f *faults) join(err error) {
	if err == nil {
		return
	}
	if all, ok := err.(interface{ Unwrap() []error }); ok { // what is wrapped deeper belongs to its message
		for _, one := range all.Unwrap() {
			f.join(one)
		}
		return
	}
	*f = append(*f, err)
}
