package auth_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/auth"
	"github.com/mpcd/mpcd/internal/auth/authtest"
)

// echo is a TLS server that echoes lines. The first line it sends says whether it verified the client.
type echo struct{ addr string }

func newEcho(t testing.TB, cfg *tls.Config) echo {
	t.Helper()
	var lc net.ListenConfig
	lis, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { // ends with the listener
		for {
			raw, err := lis.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { // ends with its client
				defer raw.Close() //nolint:errcheck // the client has gone
				conn := tls.Server(raw, cfg)
				if conn.HandshakeContext(context.Background()) != nil {
					return
				}
				_, _ = fmt.Fprintln(conn, len(conn.ConnectionState().VerifiedChains))
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, lis.Close())
		wg.Wait()
	})
	return echo{lis.Addr().String()}
}

// client is a connection to an echo.
type client struct {
	*tls.Conn
	lines *bufio.Reader
	known string
}

func (e echo) dial(t testing.TB, cfg *tls.Config) (*client, error) {
	t.Helper()
	raw, err := new(net.Dialer).DialContext(t.Context(), "tcp", e.addr)
	require.NoError(t, err)
	cfg = cfg.Clone()
	cfg.ServerName = "localhost"
	c := &client{Conn: tls.Client(raw, cfg)}
	t.Cleanup(func() { _ = c.Close() }) // it may be closed already
	c.lines = bufio.NewReader(c)
	// In TLS 1.3 a client learns that its certificate was rejected only when it first reads.
	c.known, err = c.lines.ReadString('\n')
	return c, err
}

func (c *client) alive(t testing.TB) {
	t.Helper()
	_, err := fmt.Fprintln(c, "still there")
	require.NoError(t, err)
	line, err := c.lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "still there\n", line)
}

func (c *client) leaf() []byte { return c.ConnectionState().PeerCertificates[0].Raw }

func TestCertificatesAreReadAgainWhenTheyChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, services, others := authtest.NewCA(t, "ca"), authtest.NewCA(t, "services"), authtest.NewCA(t, "others")
	first, second := ca.Issue(t, nil), ca.Issue(t, nil)
	cert, key := first.Write(t, dir)
	caFile := filepath.Join(dir, "clients.pem")
	authtest.Replace(t, caFile, services.PEM())
	log := &logged{}
	c, err := auth.LoadCertificates(cert, key, caFile, log.logger())
	require.NoError(t, err)
	c.LookAlways()
	e := newEcho(t, c.GRPC())
	trust := &tls.Config{RootCAs: ca.Pool(), NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	as := func(p authtest.Pair) *tls.Config {
		cfg := trust.Clone()
		// Whichever CAs the server names.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p.TLS, nil }
		return cfg
	}
	ours, theirs := services.IssueTo(t, "ours"), others.IssueTo(t, "theirs")

	old, err := e.dial(t, as(ours))
	require.NoError(t, err)
	require.Equal(t, "1\n", old.known)
	require.Equal(t, first.TLS.Certificate[0], old.leaf())
	require.Equal(t, uint16(tls.VersionTLS13), old.ConnectionState().Version)
	_, err = e.dial(t, as(theirs))
	require.ErrorContains(t, err, "unknown certificate authority")

	// A certificate without its matching key is an incomplete change: the old pair remains in use, and one line is
	// logged.
	authtest.Replace(t, cert, second.Cert)
	for range 3 {
		now, err := e.dial(t, trust)
		require.NoError(t, err)
		require.Equal(t, "0\n", now.known, "client certificates are optional")
		require.Equal(t, first.TLS.Certificate[0], now.leaf())
	}
	require.Equal(t, 1, strings.Count(log.String(), "cannot be used"))
	authtest.Replace(t, key, second.Key)
	now, err := e.dial(t, trust)
	require.NoError(t, err)
	require.Equal(t, second.TLS.Certificate[0], now.leaf())

	// Replace the client CA.
	authtest.Replace(t, caFile, others.PEM())
	now, err = e.dial(t, as(theirs))
	require.NoError(t, err)
	require.Equal(t, "1\n", now.known)
	_, err = e.dial(t, as(ours))
	require.Error(t, err)

	// A broken or missing file leaves the previous one in use.
	for _, path := range []string{cert, key, caFile} {
		good, err := os.ReadFile(path)
		require.NoError(t, err)
		authtest.Replace(t, path, []byte("garbage"))
		_, err = e.dial(t, as(theirs))
		require.NoError(t, err)
		require.NoError(t, os.Remove(path))
		_, err = e.dial(t, as(theirs))
		require.NoError(t, err)
		authtest.Replace(t, path, good)
	}
	require.NotContains(t, log.String(), "garbage")
	old.alive(t) // connected through all of it
}

func TestHandshakesThatAreRefused(t *testing.T) {
	t.Parallel()
	ca, services := authtest.NewCA(t, "ca"), authtest.NewCA(t, "services")
	dir := t.TempDir()
	cert, key := ca.Issue(t, nil).Write(t, dir)
	caFile := filepath.Join(dir, "clients.pem")
	authtest.Replace(t, caFile, services.PEM())
	c, err := auth.LoadCertificates(cert, key, caFile, silent)
	require.NoError(t, err)
	e := newEcho(t, c.GRPC())
	gateway := newEcho(t, c.HTTP())
	trust := &tls.Config{RootCAs: ca.Pool(), NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	for name, p := range map[string]authtest.Pair{
		"of another CA": authtest.NewCA(t, "services").IssueTo(t, "x"),
		"of our own CA": ca.IssueTo(t, "x"),
		"expired":       services.Issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"of the future": services.Issue(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
		"for servers":   services.Issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
	} {
		cfg := trust.Clone()
		// Whichever CAs the server names.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p.TLS, nil }
		_, err := e.dial(t, cfg)
		var refusal *net.OpError
		require.ErrorAs(t, err, &refusal, name)
		require.Equal(t, "remote error", refusal.Op, name)
		conn, err := gateway.dial(t, cfg)
		require.NoError(t, err, "%s: the gateway does not ask for it", name)
		require.Equal(t, "0\n", conn.known)
	}
	old := trust.Clone()
	old.MaxVersion = tls.VersionTLS12
	for _, server := range []echo{e, gateway} {
		_, err = server.dial(t, old)
		require.ErrorContains(t, err, "protocol version")
	}
}

// TLS 1.2 is only for HTTP, if enabled, and only with forward secrecy and an AEAD.
func TestTLS12(t *testing.T) {
	t.Parallel()
	ca := authtest.NewCA(t, "ca")
	cert, key := ca.Issue(t, nil).Write(t, t.TempDir())
	c, err := auth.LoadCertificates(cert, key, "", silent)
	require.NoError(t, err)
	c.MinHTTP = tls.VersionTLS12
	grpc, gateway := newEcho(t, c.GRPC()), newEcho(t, c.HTTP())
	trust := &tls.Config{RootCAs: ca.Pool(), NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS10}
	with := func(version uint16, suites ...uint16) *tls.Config {
		cfg := trust.Clone()
		cfg.MaxVersion, cfg.CipherSuites = version, suites
		return cfg
	}
	for _, suite := range []uint16{0, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256} {
		cfg := with(tls.VersionTLS12)
		if suite != 0 {
			cfg.CipherSuites = []uint16{suite}
		}
		conn, err := gateway.dial(t, cfg)
		require.NoError(t, err)
		require.Equal(t, uint16(tls.VersionTLS12), conn.ConnectionState().Version)
		require.Equal(t, "h2", conn.ConnectionState().NegotiatedProtocol)
		conn.alive(t)
	}
	conn, err := gateway.dial(t, trust)
	require.NoError(t, err)
	require.Equal(t, uint16(tls.VersionTLS13), conn.ConnectionState().Version, "a client with TLS 1.3 gets that")
	_, err = gateway.dial(t, with(tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256))
	require.ErrorContains(t, err, "handshake failure")
	_, err = gateway.dial(t, with(tls.VersionTLS11))
	require.ErrorContains(t, err, "protocol version")
	_, err = grpc.dial(t, with(tls.VersionTLS12))
	require.ErrorContains(t, err, "protocol version")
}

func TestCertificateFilesThatAreRefused(t *testing.T) {
	t.Parallel()
	ca := authtest.NewCA(t, "ca")
	dir, other := t.TempDir(), t.TempDir()
	cert, key := ca.Issue(t, nil).Write(t, dir)
	_, anotherKey := ca.Issue(t, nil).Write(t, other)
	open := filepath.Join(dir, "open.key")
	require.NoError(t, os.WriteFile(open, []byte("x"), 0o600))
	require.NoError(t, os.Chmod(open, 0o640)) // the fault: readable by the group
	garbage := filepath.Join(dir, "garbage")
	require.NoError(t, os.WriteFile(garbage, []byte("hunter2"), 0o600))
	none := filepath.Join(dir, "none")
	for _, c := range []struct {
		cert, key, ca string
		says          []string
	}{
		{cert, anotherKey, "", []string{"are not a PEM certificate and its key"}},
		{cert, open, "", []string{"mode 0640", "chmod 600"}},
		{none, none, none, []string{"--tls-cert " + none, "--tls-key " + none, "--tls-client-ca " + none}},
		{garbage, key, garbage, []string{"are not a PEM certificate", "it has no PEM certificate"}},
		{cert, garbage, key, []string{"are not a PEM certificate", "it has no PEM certificate"}},
		{dir, dir, dir, []string{"--tls-cert", "--tls-key", "--tls-client-ca", "not a regular file"}},
	} {
		_, err := auth.LoadCertificates(c.cert, c.key, c.ca, silent)
		for _, s := range c.says {
			require.ErrorContains(t, err, s)
		}
		require.NotContains(t, err.Error(), "hunter2")
	}
	_, err := auth.LoadCertificates(cert, key, cert, silent)
	require.NoError(t, err)
}
