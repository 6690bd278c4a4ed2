package auth

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/mpcd/mpcd/internal/session"
)

// Identities are the services that may call with a certificate: the scopes of each by its name.
type Identities map[string][]session.Scope

const (
	cnPrefix  = "cn:"
	dnsPrefix = "dns:"

	maxIdentities = 1 << 20 // size of the file in bytes
)

// isCertificateName reports whether a name could be mistaken for a certificate's, in upper or lower case and even
// with invisible characters in it, such as direction marks.
func isCertificateName(name string) bool {
	name = strings.ToLower(strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cf, unicode.White_Space, unicode.Variation_Selector,
			unicode.Other_Default_Ignorable_Code_Point) {
			return -1
		}
		return r
	}, name))
	return strings.HasPrefix(name, "spiffe:") || strings.HasPrefix(name, cnPrefix) || strings.HasPrefix(name, dnsPrefix)
}

// LoadIdentities reads a YAML file:
//
//	identities:
//	  spiffe://example.org/wallet-backend: {scopes: [wallets:read, wallets:write]}
//	  dns:risk.example.org: {scopes: [wallets:read]}
//	  cn:support-tool: {scopes: [wallets:read]}
//
// A DNS name may be in upper case and end in a dot; it is stored in lower case without the dot. The error joins every
// fault in the file.
func LoadIdentities(path string) (Identities, error) {
	b, err := readBounded(path, maxIdentities)
	if err != nil {
		return nil, fmt.Errorf("--mtls-identities %s: %w", path, err)
	}
	var file struct {
		Identities map[string]struct {
			Scopes []string `yaml:"scopes"`
		} `yaml:"identities"`
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil || len(file.Identities) == 0 {
		return nil, fmt.Errorf("--mtls-identities %s: it is not YAML of the form \"identities: {spiffe://example.org/backend: {scopes: [wallets:read]}}\"", path)
	}
	var faults []error
	out := make(Identities, len(file.Identities))
	for _, name := range sorted(file.Identities) {
		canonical, err := checkIdentity(name)
		if _, twice := out[canonical]; twice {
			err = errors.New("it is there twice")
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("--mtls-identities %s: identity %.*q: %w", path, maxName, name, err))
		}
		out[canonical] = known(file.Identities[name].Scopes)
		for _, s := range file.Identities[name].Scopes {
			if !slices.Contains(scopes, session.Scope(s)) {
				faults = append(faults, fmt.Errorf("--mtls-identities %s: identity %.*q: there is no scope %q", path, maxName, name, s))
			}
		}
	}
	return out, errors.Join(faults...)
}

func sorted[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// checkIdentity returns a name from the identities file in the form used as a key of Identities.
func checkIdentity(name string) (string, error) {
	if err := checkName(name); err != nil {
		return name, err
	}
	if cn, ok := strings.CutPrefix(name, cnPrefix); ok && cn != "" {
		return name, nil
	}
	if host, ok := strings.CutPrefix(name, dnsPrefix); ok {
		canonical, ok := dnsName(host)
		if !ok {
			return name, errors.New("it is not one DNS name: letters, digits, hyphens and dots, without a wildcard (*), a port or an IP address; an international name in its xn-- form")
		}
		return canonical, nil
	}
	u, err := url.Parse(name)
	if err != nil || !isSPIFFE(u) || u.String() != name {
		return name, errors.New("it is neither a SPIFFE ID (spiffe://TRUST-DOMAIN/PATH) nor dns:NAME nor cn:COMMON-NAME")
	}
	return name, nil
}

// dnsName returns the identity of a host, with the name in lower case and without a final dot. A wildcard does not
// identify one service and is rejected.
func dnsName(host string) (string, bool) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if len(host) > 253 || net.ParseIP(host) != nil {
		return "", false
	}
	for label := range strings.SplitSeq(host, ".") {
		if len(label) == 0 || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", false
		}
	}
	return dnsPrefix + host, true
}

// isSPIFFE reports whether u is a workload's SPIFFE ID (SPIFFE-ID, section 2): a trust domain without a port, and a
// path.
func isSPIFFE(u *url.URL) bool {
	return u.Scheme == "spiffe" && u.Host != "" && u.Port() == "" && len(u.Path) > 1 &&
		u.User == nil && u.RawQuery == "" && !u.ForceQuery && u.Fragment == ""
}

// caller returns the holder of the certificate of the call's connection.
func (ids Identities) caller(ctx context.Context) (session.Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return session.Caller{}, errors.New("neither a token nor a certificate was sent")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	// The certificate was verified in the handshake, which may be long ago; without verification there are no chains.
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.PeerCertificates) == 0 {
		return session.Caller{}, errors.New("neither a token nor a certificate was sent")
	}
	leaf := info.State.PeerCertificates[0]
	if time.Now().After(leaf.NotAfter) {
		return session.Caller{}, fmt.Errorf("the certificate %s has expired since its connection was made", leaf.SerialNumber)
	}
	names, err := namesOf(leaf)
	if err != nil {
		return session.Caller{}, fmt.Errorf("the certificate %s: %w", leaf.SerialNumber, err)
	}
	configured := slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, ok := ids[name]; return !ok })
	switch len(configured) {
	case 0:
		return session.Caller{}, fmt.Errorf("the certificate %s is of %s, which is not configured", leaf.SerialNumber, quoted(names))
	case 1:
		return session.Caller{Name: configured[0], Scopes: ids[configured[0]]}, nil
	}
	return session.Caller{}, fmt.Errorf("the certificate %s is of %s, of which more than one is configured: leave one of them in the identities",
		leaf.SerialNumber, quoted(configured))
}

// quoted lists names for the log.
func quoted(names []string) string {
	var all []string
	for _, name := range names[:min(len(names), 8)] {
		all = append(all, strconv.Quote(name))
	}
	return strings.Join(all, " and ")
}

// namesOf returns the identities in a certificate. If it has URIs, it must have exactly one, a SPIFFE ID (X509-SVID,
// section 2), which is the only identity. Otherwise they are its common name and its DNS names. IP and e-mail
// addresses do not identify services.
func namesOf(leaf *x509.Certificate) (names []string, err error) {
	switch {
	case len(leaf.URIs) > 1:
		return nil, fmt.Errorf("it has %d URIs: one is allowed", len(leaf.URIs))
	case len(leaf.URIs) == 1 && !isSPIFFE(leaf.URIs[0]):
		return nil, errors.New("its URI is not a SPIFFE ID")
	case len(leaf.URIs) == 1:
		name := leaf.URIs[0].String()
		return []string{name}, checkName(name)
	}
	if cn := leaf.Subject.CommonName; cn != "" {
		if err := checkName(cnPrefix + cn); err != nil {
			return nil, err
		}
		names = append(names, cnPrefix+cn)
	}
	for _, host := range leaf.DNSNames {
		if name, ok := dnsName(host); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("it has neither a SPIFFE ID nor a common name nor a DNS name")
	}
	return names, nil
}
