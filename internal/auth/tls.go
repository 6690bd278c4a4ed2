package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mpcd/mpcd/internal/secret"
)

// Certificates holds the service's certificate and key, and the CA of its clients, which are reloaded when their
// files change. Handshakes use the newest that could be read; existing connections are not affected.
type Certificates struct {
	MinHTTP uint16 // the minimum TLS version for HTTP, at least 1.2; 0 means 1.3. Set it before calling HTTP

	certFile, keyFile, caFile string
	interval                  time.Duration // between checks of the files
	log                       *slog.Logger

	mu      sync.Mutex // guards the fields below
	current *tls.Config
	seen    []string  // the files' metadata when they were last read
	looked  time.Time // when the files were last checked
}

const (
	lookInterval = time.Second
	maxPEM       = 1 << 20 // size of one file in bytes
)

// LoadCertificates reads the files. If caFile is empty, clients are not asked for certificates. The error joins every
// fault, and quotes nothing from the files.
func LoadCertificates(certFile, keyFile, caFile string, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{certFile: certFile, keyFile: keyFile, caFile: caFile, interval: lookInterval, log: log}
	seen := c.look()
	current, err := c.load()
	if err != nil {
		return nil, err
	}
	c.current, c.seen, c.looked = current, seen, time.Now()
	return c, nil
}

// GRPC returns the TLS configuration of the gRPC listener: a client certificate is optional, and verified if sent.
func (c *Certificates) GRPC() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return c.config("h2"), nil
	}}
}

// HTTP returns the TLS configuration of the gateway's listener. It does not ask for a certificate: the gateway's
// callers authenticate with tokens.
func (c *Certificates) HTTP() *tls.Config {
	least := max(c.MinHTTP, tls.VersionTLS12)
	if c.MinHTTP == 0 {
		least = tls.VersionTLS13
	}
	return &tls.Config{MinVersion: least, NextProtos: []string{"h2", "http/1.1"}, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		cfg := c.config("h2", "http/1.1")
		cfg.ClientAuth, cfg.ClientCAs = tls.NoClientCert, nil
		cfg.MinVersion, cfg.CipherSuites = least, suites12
		return cfg, nil
	}}
}

// suites12 are the cipher suites for TLS 1.2, if it is allowed: only those with forward secrecy and an AEAD, as RFC
// 9325, section 4.2, recommends. Go does not let TLS 1.3 suites be configured, and all of those qualify.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// config returns the configuration of a single handshake.
func (c *Certificates) config(protocols ...string) *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= c.interval {
		c.looked = now
		if seen := c.look(); !slices.Equal(seen, c.seen) {
			c.seen = seen // set even if reloading fails, so that the failure is logged once
			c.reload()
		}
	}
	cfg := c.current.Clone()
	cfg.NextProtos = protocols
	return cfg
}

// reload must be called with mu held.
func (c *Certificates) reload() {
	current, err := c.load()
	if err != nil {
		c.log.Error("changed certificate files cannot be used; the old ones stay in use", "error", err)
		return
	}
	c.current = current
	c.log.Info("certificates were read again", "certificate", c.certFile)
}

// look returns metadata that tells a changed file from the previous one. A file replaced by a rename or by changing a
// symlink has another inode or modification time.
func (c *Certificates) look() (seen []string) {
	for _, path := range []string{c.certFile, c.keyFile, c.caFile} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			seen = append(seen, err.Error())
			continue
		}
		inode := uint64(0)
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			inode = stat.Ino
		}
		seen = append(seen, fmt.Sprint(info.ModTime().UnixNano(), info.Size(), info.Mode(), inode))
	}
	return seen
}

func (c *Certificates) load() (*tls.Config, error) {
	pair, err := LoadKeyPair(c.certFile, c.keyFile)
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{pair},
		// A resumed session would bring back a certificate that may no longer be valid.
		SessionTicketsDisabled: true,
	}
	if c.caFile == "" {
		return cfg, err
	}
	cfg.ClientAuth = tls.VerifyClientCertIfGiven
	pool, caErr := LoadCA(c.caFile)
	if caErr != nil {
		caErr = fmt.Errorf("--tls-client-ca %w", caErr)
	}
	cfg.ClientCAs = pool
	return cfg, errors.Join(err, caErr)
}

// LoadKeyPair reads a certificate with its chain, and its key from a file that only its owner may access. The error
// joins every fault, and quotes nothing from the files.
func LoadKeyPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := readBounded(certFile, maxPEM)
	if err != nil {
		err = fmt.Errorf("--tls-cert %s: %w", certFile, err)
	}
	key, _, keyErr := secret.ReadFile(keyFile)
	defer key.Wipe()
	if keyErr != nil {
		keyErr = fmt.Errorf("--tls-key %s: %w", keyFile, keyErr)
	}
	if err = errors.Join(err, keyErr); err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key.Reveal())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("--tls-cert %s and --tls-key %s are not a PEM certificate and its key", certFile, keyFile)
	}
	return pair, nil
}

// LoadCA reads the certificates of authorities from a PEM file.
func LoadCA(path string) (*x509.CertPool, error) {
	b, err := readBounded(path, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: it has no PEM certificate", path)
	}
	return pool, nil
}
