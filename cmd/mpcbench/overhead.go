package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/auth"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// Overhead is what mpcd does in a warm provision outside the protocol, over TLS 1.3 with a bearer token. Times are in
// seconds; the parts are spent by the calls that make a provision, including its confirmation.
type Overhead struct {
	Provisions int                  `json:"provisions"`
	Wall       Summary              `json:"wall"` // from the ciphertext to the confirmed share set
	Parts      map[string]Summary   `json:"parts"`
	Samples    []map[string]float64 `json:"samples"`
	Together   Summary              `json:"together"` // all parts / wall, of each provision
}

// The parts. A custodian's time includes the sealing of the shares; the store's includes the audit log, whose entries
// are written in the transactions they describe.
const (
	partAuth    = "authentication"
	partSeal    = "sealing of results and request fingerprints"
	partCustody = "custody, with sealing of shares"
	partStore   = "storing, with the audit log"
)

var parts = []string{partAuth, partSeal, partCustody, partStore}

// clocks add up the time spent in each part.
type clocks struct {
	mu    sync.Mutex // guards spent
	spent map[string]float64
}

func (c *clocks) since(part string, begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spent[part] += time.Since(begun).Seconds()
}

// take returns the time spent since the last take.
func (c *clocks) take() map[string]float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	spent := c.spent
	c.spent = map[string]float64{}
	return spent
}

// overhead measures warm provisions on both curves.
func (b *bench) overhead(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "mpcbench-access-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c := &clocks{spent: map[string]float64{}}
	a, err := newAccess(dir)
	if err != nil {
		return err
	}
	defer a.tokens.Close()
	r, err := openRig(ctx, 0, func(o *app.Options) {
		who := (&auth.Authenticator{Tokens: a.tokens}).Caller
		o.Auth = func(ctx context.Context) (session.Caller, error) {
			defer c.since(partAuth, time.Now())
			return who(ctx)
		}
		o.Server = server.Config{GRPCTLS: a.certificates.GRPC()}
		o.Wrap = c.wrap
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	r.creds, r.token = a.creds, a.token
	cipherText, err := r.wallet(ctx, b.plan.curves)
	if err != nil {
		return err
	}
	dev, err := r.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = dev.conn.Close() }() // its calls are over
	o, err := b.timed(ctx, r, dev, cipherText, c)
	if err != nil {
		return err
	}
	b.report.Overhead = o
	b.log.step("overhead: %s of the wall time", number(o.Together.Median))
	return nil
}

// timed provisions as often as the plan says, and sums up the time of each part.
func (b *bench) timed(ctx context.Context, r *rig, dev *caller, cipherText string, c *clocks) (*Overhead, error) {
	o := &Overhead{Provisions: b.plan.samples, Parts: map[string]Summary{}}
	var wall, together []float64
	by := map[string][]float64{}
	for range o.Provisions {
		if err := r.stock(ctx, needs(b.plan.curves)); err != nil {
			return nil, err
		}
		c.take()
		begun := time.Now()
		if err := dev.provision(ctx, cipherText); err != nil {
			return nil, err
		}
		took, spent := time.Since(begun).Seconds(), c.take()
		sum := 0.0
		for _, part := range parts {
			by[part] = append(by[part], spent[part])
			sum += spent[part]
		}
		o.Samples = append(o.Samples, spent)
		wall, together = append(wall, took), append(together, sum/took)
	}
	o.Wall, o.Together = summarize(wall), summarize(together)
	for _, part := range parts {
		o.Parts[part] = summarize(by[part])
	}
	return o, nil
}

// access is what a service and its caller need to authenticate each other.
type access struct {
	certificates *auth.Certificates
	tokens       *auth.Tokens
	creds        credentials.TransportCredentials
	token        bearer
}

// bearer is a token, sent with each call.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (b bearer) RequireTransportSecurity() bool { return true }

func newAccess(dir string) (*access, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mpcbench"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour),
		IsCA:     true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	b64 := base64.RawURLEncoding.EncodeToString
	jwks, err := json.Marshal(map[string]any{"keys": []any{map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": "k",
		"alg": "EdDSA", "x": b64(public)}}})
	if err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	for name, b := range map[string][]byte{"tls.crt": cert,
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), "jwks.json": jwks} {
		if err := os.WriteFile(file(name), b, 0o600); err != nil {
			return nil, err
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	a := &access{}
	if a.certificates, err = auth.LoadCertificates(file("tls.crt"), file("tls.key"), "", quiet); err != nil {
		return nil, err
	}
	if a.tokens, err = auth.NewTokens("mpcbench", "mpcd", file("jwks.json"), quiet); err != nil {
		return nil, err
	}
	text := b64([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "." +
		b64(fmt.Appendf(nil, `{"iss":"mpcbench","aud":"mpcd","sub":"bench","exp":%d}`, time.Now().Add(24*time.Hour).Unix()))
	a.token = bearer(text + "." + b64(ed25519.Sign(key, []byte(text))))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	a.creds = credentials.NewClientTLSFromCert(pool, "127.0.0.1")
	return a, nil
}

// wrap puts the clocks in front of the ports.
func (c *clocks) wrap(p *session.Ports) {
	p.Sealer = &timedSealer{p.Sealer, c}
	p.ServerShares, p.Custodian = &timedCustodian{p.ServerShares, c}, &timedCustodian{p.Custodian, c}
	p.Wallets, p.Sessions = &timedWallets{p.Wallets, c}, &timedSessions{p.Sessions, c}
}

type timedSealer struct {
	session.Sealer
	c *clocks
}

// Seal implements session.Sealer.
func (t *timedSealer) Seal(plain secret.Bytes, l session.Label) ([]byte, error) {
	defer t.c.since(partSeal, time.Now())
	return t.Sealer.Seal(plain, l)
}

// Open implements session.Sealer.
func (t *timedSealer) Open(b []byte, l session.Label) (secret.Bytes, error) {
	defer t.c.since(partSeal, time.Now())
	return t.Sealer.Open(b, l)
}

// MAC implements session.Sealer.
func (t *timedSealer) MAC(b []byte) ([]byte, error) {
	defer t.c.since(partSeal, time.Now())
	return t.Sealer.MAC(b)
}

type timedCustodian struct {
	session.Custodian
	c *clocks
}

// Deposit implements session.Custodian.
func (t *timedCustodian) Deposit(ctx context.Context, owner string, set *session.ShareSet,
	share *tss.Share) ([]session.Sealed, error) {
	defer t.c.since(partCustody, time.Now())
	return t.Custodian.Deposit(ctx, owner, set, share)
}

// Fetch implements session.Custodian.
func (t *timedCustodian) Fetch(ctx context.Context, owner string, set *session.StoredSet) (*tss.Share, error) {
	defer t.c.since(partCustody, time.Now())
	return t.Custodian.Fetch(ctx, owner, set)
}

// timedWallets times the calls that a provision makes.
type timedWallets struct {
	session.Wallets
	c *clocks
}

// Wallet implements session.Wallets.
func (t *timedWallets) Wallet(ctx context.Context, id string) (*session.Wallet, error) {
	defer t.c.since(partStore, time.Now())
	return t.Wallets.Wallet(ctx, id)
}

// Set implements session.Wallets.
func (t *timedWallets) Set(ctx context.Context, wallet, id string) (*session.StoredSet, error) {
	defer t.c.since(partStore, time.Now())
	return t.Wallets.Set(ctx, wallet, id)
}

// Confirm implements session.Wallets.
func (t *timedWallets) Confirm(ctx context.Context, wallet, id string, e session.Entry) (bool, error) {
	defer t.c.since(partStore, time.Now())
	return t.Wallets.Confirm(ctx, wallet, id, e)
}

// ReserveModuli implements session.Wallets.
func (t *timedWallets) ReserveModuli(ctx context.Context, wallet string, maker session.Maker, sums ...[32]byte) error {
	defer t.c.since(partStore, time.Now())
	return t.Wallets.ReserveModuli(ctx, wallet, maker, sums...)
}

// timedSessions times the calls that a provision makes.
type timedSessions struct {
	session.Sessions
	c *clocks
}

// Begin implements session.Sessions.
func (t *timedSessions) Begin(ctx context.Context, s *session.Session,
	e session.Entry) (*session.Session, bool, error) {
	defer t.c.since(partStore, time.Now())
	return t.Sessions.Begin(ctx, s, e)
}

// ByRequest implements session.Sessions.
func (t *timedSessions) ByRequest(ctx context.Context, caller, id string) (*session.Session, error) {
	defer t.c.since(partStore, time.Now())
	return t.Sessions.ByRequest(ctx, caller, id)
}

// Update implements session.Sessions.
func (t *timedSessions) Update(ctx context.Context, s *session.Session, b session.Budget, e session.Entry) error {
	defer t.c.since(partStore, time.Now())
	return t.Sessions.Update(ctx, s, b, e)
}

// Commit implements session.Sessions.
func (t *timedSessions) Commit(ctx context.Context, s *session.Session, m session.Made, e session.Entry) error {
	defer t.c.since(partStore, time.Now())
	return t.Sessions.Commit(ctx, s, m, e)
}
