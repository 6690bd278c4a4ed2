package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"filippo.io/age"

	"github.com/mpcd/mpcd/internal/auth"
	"github.com/mpcd/mpcd/internal/custodian"
	"github.com/mpcd/mpcd/internal/secret"
)

// custodianCmd groups the commands of the reference custodian.
type custodianCmd struct {
	Serve  custodianServeCmd  `cmd:"" default:"withargs" help:"Run a custodian: mpcd's webhooks, and an API for ciphertexts."`
	Secret custodianSecretCmd `cmd:"" help:"Write a new signing secret to a new file, mode 0600."`
}

// Help describes the command.
func (c *custodianCmd) Help() string {
	return `A reference custodian, which stores the server shares of backups. It is meant for evaluation
and tests. mpcd serve --custodian-url sets its address.

  POST /backup, /backup/fetch, /backup/delete
                                 mpcd's webhooks, signed (Standard Webhooks)
  GET, PUT /users/{id}/encrypted-user-backup-shares?backupMethod=PASSWORD
  GET, PUT /clients/{id}/backup  {"cipherText": "..."}, with a bearer token

It stores everything in one SQLite file, which contains shares: encrypt its disk. It logs
JSON to standard error, including a line "serving" with its address; SIGTERM stops it.`
}

// custodianServeCmd is the reference custodian.
type custodianServeCmd struct {
	Addr          string   `help:"Address to listen on (default: ${default})." default:"127.0.0.1:8443" placeholder:"ADDR" env:"MPCD_CUSTODIAN_ADDR"`
	DB            string   `name:"db" help:"Its SQLite file, mode 0600 (default: ${default})." default:"custodian.db" placeholder:"FILE" env:"MPCD_CUSTODIAN_DB"`
	SigningSecret []string `help:"File with the secret that mpcd signs messages with (whsec_...), mode 0600. During a change of the secret, two: either is accepted." sep:"," placeholder:"FILE" env:"MPCD_CUSTODIAN_SIGNING_SECRET"`
	HeaderSecret  []string `help:"File with the required value of X-Webhook-Secret, mode 0600; without it the header is ignored. During a change of the value, two: either is accepted." sep:"," placeholder:"FILE" env:"MPCD_CUSTODIAN_HEADER_SECRET"`
	Identity      string   `help:"File with the age identity (AGE-SECRET-KEY-1...) of mpcd's --custodian-recipient, mode 0600." placeholder:"FILE" env:"MPCD_CUSTODIAN_IDENTITY"`
	APIToken      string   `name:"api-token" help:"File with the bearer token of the API for ciphertexts, mode 0600; without it the API is off." placeholder:"FILE" env:"MPCD_CUSTODIAN_API_TOKEN"`
	TLSCert       string   `name:"tls-cert" help:"Its certificate with its chain, PEM." placeholder:"FILE" env:"MPCD_CUSTODIAN_TLS_CERT"`
	TLSKey        string   `name:"tls-key" help:"The certificate's key, PEM, mode 0600." placeholder:"FILE" env:"MPCD_CUSTODIAN_TLS_KEY"`
}

const (
	custodianTimeout = 10 * time.Second // of reading a header or a body, and of writing an answer
	custodianHeader  = 16 << 10         // bytes
)

// Run serves until a signal.
func (c *custodianServeCmd) Run(ctx context.Context, f *faults) (err error) {
	cfg := c.config(f)
	secured := c.tls(f)
	if host, port, err := net.SplitHostPort(c.Addr); err != nil {
		f.add("--addr: %q is not HOST:PORT, as in 127.0.0.1:8443", c.Addr)
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		f.add("--addr: %q is not HOST:PORT, as in 127.0.0.1:8443", c.Addr)
	} else if !isLoopback(host) && c.TLSCert+c.TLSKey == "" {
		f.add("--addr: %q is not loopback: calls have shares, so name --tls-cert and --tls-key", c.Addr)
	}
	if len(*f) > 0 {
		return usageError{*f}
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	store, err := custodian.Open(ctx, c.DB)
	if err != nil {
		return fmt.Errorf("--db %s: %w", c.DB, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("--addr %s is in use: stop what listens there, or name another address", c.Addr)
	}
	if err != nil {
		return fmt.Errorf("--addr %s: %w", c.Addr, err)
	}
	web := &http.Server{
		Handler: custodian.New(store, cfg, log), TLSConfig: secured,
		ReadHeaderTimeout: custodianTimeout, ReadTimeout: custodianTimeout, WriteTimeout: custodianTimeout,
		IdleTimeout:    time.Minute,
		MaxHeaderBytes: custodianHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelInfo),
	}
	served := make(chan error, 1)
	go func() { // ends with Shutdown
		if secured != nil {
			served <- web.ServeTLS(lis, "", "")
		} else {
			served <- web.Serve(lis)
		}
	}()
	log.Info("serving", "addr", lis.Addr().String(), "tls", secured != nil, "database", c.DB)
	select {
	case err = <-served:
		return err
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), custodianTimeout)
	defer cancel()
	err = web.Shutdown(bound)
	if served := <-served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	log.Info("stopped")
	return err
}

// config reads the secrets, and adds errors to f.
func (c *custodianServeCmd) config(f *faults) (cfg custodian.Config) {
	if len(files(c.SigningSecret)) == 0 {
		f.add("--signing-secret is missing: mpcd custodian secret makes one, for both sides")
	}
	cfg.Verifiers = readSigners(f, "--signing-secret", c.SigningSecret)
	for _, path := range files(c.HeaderSecret) {
		cfg.HeaderSecrets = append(cfg.HeaderSecrets, readSecret(f, "--header-secret", path))
	}
	if c.APIToken != "" {
		cfg.Token = readSecret(f, "--api-token", c.APIToken)
	}
	if c.Identity != "" {
		id, err := readIdentity(c.Identity)
		if err != nil {
			f.add("--identity %s: %w", c.Identity, err)
		}
		cfg.Identity = id
	}
	return cfg
}

func (c *custodianServeCmd) tls(f *faults) *tls.Config {
	if !allOrNone(f, named{"--tls-cert", c.TLSCert}, named{"--tls-key", c.TLSKey}) {
		return nil
	}
	pair, err := auth.LoadKeyPair(c.TLSCert, c.TLSKey)
	f.join(err)
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}
}

// readIdentity reads an age identity from a file in the format of age-keygen, which may have comments.
func readIdentity(path string) (*age.X25519Identity, error) {
	b, _, err := secret.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("there is no such file")
	}
	if err != nil {
		return nil, err
	}
	defer b.Wipe()
	all, err := age.ParseIdentities(bytes.NewReader(b.Reveal()))
	if err == nil && len(all) == 1 {
		if id, ok := all[0].(*age.X25519Identity); ok {
			return id, nil
		}
	}
	return nil, errors.New("it does not have one age identity (AGE-SECRET-KEY-1...): age-keygen makes one")
}

// custodianSecretCmd generates the signing secret that mpcd and a custodian share.
type custodianSecretCmd struct {
	Out string `help:"The new file." required:"" placeholder:"FILE"`
}

// Run writes the secret: 32 random bytes, in the encoding of Standard Webhooks.
func (c *custodianSecretCmd) Run() error {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	defer clear(key)
	file, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: there is a file already, which may be a secret in use: name another one", c.Out)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "whsec_%s\n", base64.StdEncoding.EncodeToString(key))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	fmt.Printf("wrote %s; mpcd signs with it, and the custodian verifies with it: both need it\n", c.Out)
	return nil
}
