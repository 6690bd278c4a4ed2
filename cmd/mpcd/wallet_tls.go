package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mpcd/mpcd/internal/auth"
)

// connectionFlags are the flags for TLS and tokens. A token is passed in a file, since other users of the machine can
// see command lines.
type connectionFlags struct {
	TLSCA     string `name:"tls-ca" help:"The CA of the service's certificate, PEM; the system's by default. On loopback, TLS is used only with this flag." placeholder:"FILE" env:"MPCD_TLS_CA"`
	TLSCert   string `name:"tls-cert" help:"A client certificate, PEM." placeholder:"FILE" env:"MPCD_CLIENT_TLS_CERT"`
	TLSKey    string `name:"tls-key" help:"Its key, PEM, mode 0600." placeholder:"FILE" env:"MPCD_CLIENT_TLS_KEY"`
	TokenFile string `help:"File with a bearer token, read again for every call." placeholder:"FILE" env:"MPCD_TOKEN_FILE"`
}

// dialOptions returns the options to connect to host. TLS is required except on loopback, since calls have shares and
// tokens.
func (f *connectionFlags) dialOptions(host string) ([]grpc.DialOption, error) {
	secured := f.TLSCA != "" || !isLoopback(host)
	if !secured && f.TLSCert+f.TLSKey != "" {
		return nil, errors.New("--tls-cert needs TLS: name the CA of the service's certificate (--tls-ca)")
	}
	transport := insecure.NewCredentials()
	if secured {
		cfg, err := f.tls()
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(cfg)
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(transport)}
	if f.TokenFile != "" {
		if _, err := readToken(f.TokenFile); err != nil {
			return nil, err
		}
		opts = append(opts, grpc.WithPerRPCCredentials(tokenFile{f.TokenFile, secured}))
	}
	return opts, nil
}

func (f *connectionFlags) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	var faults []error
	if f.TLSCA != "" {
		pool, err := auth.LoadCA(f.TLSCA)
		if err != nil {
			faults = append(faults, fmt.Errorf("--tls-ca %w", err))
		}
		cfg.RootCAs = pool
	}
	switch {
	case (f.TLSCert == "") != (f.TLSKey == ""):
		faults = append(faults, errors.New("--tls-cert and --tls-key belong together"))
	case f.TLSCert != "":
		pair, err := auth.LoadKeyPair(f.TLSCert, f.TLSKey)
		if err != nil {
			faults = append(faults, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, errors.Join(faults...)
}

// tokenFile is a file with a bearer token. It is read for every call, since another program may renew it.
type tokenFile struct {
	path    string
	secured bool
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := readToken(t.path)
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (t tokenFile) RequireTransportSecurity() bool { return t.secured }

// readToken returns the token in a file, without surrounding whitespace.
func readToken(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	defer file.Close() //nolint:errcheck // nothing was written
	b, err := io.ReadAll(io.LimitReader(file, 16<<10))
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	words := strings.Fields(string(b))
	if len(words) != 1 {
		return "", fmt.Errorf("--token-file %s: it has %d words instead of one token", path, len(words))
	}
	return words[0], nil
}
