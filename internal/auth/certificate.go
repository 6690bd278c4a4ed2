package auth

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/mpcd/mpcd/internal/session"
)

// Identities are the services that may call with a certificate, by their names, and what
// each may do.
type Identities map[string][]session.Scope

const (
	spiffePrefix = "spiffe://"
	cnPrefix     = "cn:"

	maxIdentities = 1 << 20 // bytes of their file
)

// isCertificateName reports whether a name could be taken for a certificate's.
func isCertificateName(name string) bool {
	name = strings.ToLower(strings.TrimSpace(name))
	return strings.HasPrefix(name, "spiffe:") || strings.HasPrefix(name, cnPrefix)
}

// LoadIdentities reads a YAML file:
//
//	identities:
//	  spiffe://example.org/wallet-backend: {scopes: [wallets:read, wallets:write]}
//	  cn:support-tool: {scopes: [wallets:read]}
//
// Its error joins every fault of the file.
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
		if err := checkIdentity(name); err != nil {
			faults = append(faults, fmt.Errorf("--mtls-identities %s: identity %.*q: %w", path, maxName, name, err))
		}
		out[name] = known(file.Identities[name].Scopes)
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

func checkIdentity(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if cn, ok := strings.CutPrefix(name, cnPrefix); ok && cn != "" {
		return nil
	}
	u, err := url.Parse(name)
	if err != nil || !isSPIFFE(u) || u.String() != name {
		return errors.New("it is neither a SPIFFE ID (spiffe://TRUST-DOMAIN/PATH) nor cn:COMMON-NAME")
	}
	return nil
}

// isSPIFFE reports whether u is a workload's ID (SPIFFE-ID, section 2): a trust domain
// without a port, and a path.
func isSPIFFE(u *url.URL) bool {
	return u.Scheme == "spiffe" && u.Host != "" && u.Port() == "" && len(u.Path) > 1 &&
		u.User == nil && u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && strings.HasPrefix(u.String(), spiffePrefix)
}

// caller says who holds the certificate of the call's connection.
func (ids Identities) caller(ctx context.Context) (session.Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return session.Caller{}, errors.New("neither a token nor a certificate was sent")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	// Verified by the handshake, which may be long ago; chains are empty where it was not.
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.PeerCertificates) == 0 {
		return session.Caller{}, errors.New("neither a token nor a certificate was sent")
	}
	leaf := info.State.PeerCertificates[0]
	if time.Now().After(leaf.NotAfter) {
		return session.Caller{}, fmt.Errorf("the certificate %s has expired since its connection was made", leaf.SerialNumber)
	}
	name, err := nameOf(leaf)
	if err != nil {
		return session.Caller{}, fmt.Errorf("the certificate %s: %w", leaf.SerialNumber, err)
	}
	granted, ok := ids[name]
	if !ok {
		return session.Caller{}, fmt.Errorf("the certificate %s is of %q, which is not configured", leaf.SerialNumber, name)
	}
	return session.Caller{Name: name, Scopes: granted}, nil
}

// nameOf returns the name in a certificate: its one URI where it has any, which must be a
// SPIFFE ID (X509-SVID, section 2), or else its common name.
func nameOf(leaf *x509.Certificate) (string, error) {
	switch {
	case len(leaf.URIs) > 1:
		return "", fmt.Errorf("it has %d URIs: one is allowed", len(leaf.URIs))
	case len(leaf.URIs) == 1 && !isSPIFFE(leaf.URIs[0]):
		return "", errors.New("its URI is not a SPIFFE ID")
	case len(leaf.URIs) == 1:
		name := leaf.URIs[0].String()
		return name, checkName(name)
	case leaf.Subject.CommonName == "":
		return "", errors.New("it has neither a SPIFFE ID nor a common name")
	}
	name := cnPrefix + leaf.Subject.CommonName
	return name, checkName(name)
}
