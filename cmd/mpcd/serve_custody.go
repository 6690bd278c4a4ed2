package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"strings"

	"filippo.io/age"

	"github.com/mpcd/mpcd/internal/app"
	"github.com/mpcd/mpcd/internal/auth"
	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/webhook"
)

// webhookFlags are the settings of serve for a customer's custodian and authoriser.
type webhookFlags struct {
	custodianURL, custodianHeaderSecret, custodianRecipient string
	custodianSigningSecret                                  []string
	custodianDelete                                         bool
	policyURL                                               string
	policySigningSecret                                     []string
	webhookCA, webhookAllowNetworks                         string
}

func (w *webhookFlags) settings() settings {
	return settings{
		&text{name: "custodian-url", to: &w.custodianURL, value: "URL",
			help: "Custodian of the server shares of BACKUP sets: the base https URL of /backup and /backup/fetch " +
				"(docs/CUSTODIAN.md). Without it they are stored sealed in the database. Existing sets stay where " +
				"they are."},
		&texts{name: "custodian-signing-secret", to: &w.custodianSigningSecret, value: "FILE",
			help: "File with the secret that signs messages to the custodian (Standard Webhooks: whsec_...), mode 0600. " +
				"During a change of the secret, two: both sign."},
		&text{name: "custodian-header-secret", to: &w.custodianHeaderSecret, value: "FILE",
			help: "File with the value of X-Webhook-Secret, for custodians that require it, mode 0600."},
		&text{name: "custodian-recipient", to: &w.custodianRecipient, value: "age1...",
			help: "The custodian's age recipient: shares are sent encrypted to it, and the custodian returns them " +
				"decrypted."},
		&toggle{name: "custodian-delete", to: &w.custodianDelete,
			help: "Tell the custodian (/backup/delete) which shares are no longer needed: those of sets that were " +
				"revoked, or never committed or confirmed. Failed calls are repeated."},

		&text{name: "policy-url", to: &w.policyURL, value: "URL",
			help: "https URL of an authoriser that is asked before BackupWallet, ProvisionWallet, Sign and " +
				"RevokeShareSet. If it does not answer, the call is refused."},
		&texts{name: "policy-signing-secret", to: &w.policySigningSecret, value: "FILE",
			help: "File with the secret that signs messages to the authoriser (whsec_...), mode 0600. " +
				"During a change of the secret, two: both sign."},

		&text{name: "webhook-ca", to: &w.webhookCA, value: "FILE",
			help: "The CA of both services' certificates, PEM; the system's by default."},
		&text{name: "webhook-allow-networks", to: &w.webhookAllowNetworks, value: "CIDR,...",
			help: "Networks with private addresses that both services may be in, as in 10.1.0.0/16,fd00:1::/64."},
	}
}

// open loads what the settings name into the service's options, and adds their faults to f. It makes no calls.
func (w *webhookFlags) open(log *slog.Logger, f *faults, to *app.Options) {
	base := webhook.Config{CA: w.openCA(f), Networks: w.openNetworks(f)}
	if w.custodianURL == "" {
		optional := []named{{"--custodian-header-secret", w.custodianHeaderSecret},
			{"--custodian-recipient", w.custodianRecipient}}
		if w.custodianDelete {
			optional = append(optional, named{"--custodian-delete", "true"})
		}
		for _, x := range optional {
			if x.value != "" {
				f.add("--custodian-url is missing: it belongs to %s", x.flag)
			}
		}
	}
	if w.custodianURL+w.policyURL == "" && len(files(w.custodianSigningSecret))+len(files(w.policySigningSecret)) == 0 {
		for _, x := range []named{{"--webhook-ca", w.webhookCA}, {"--webhook-allow-networks", w.webhookAllowNetworks}} {
			if x.value != "" {
				f.add("%s: there is no --custodian-url and no --policy-url to use it for", x.flag)
			}
		}
	}
	custodian := base
	custodian.Name, custodian.URL = "custodian", w.custodianURL
	if w.custodianHeaderSecret != "" {
		custodian.HeaderSecret = readSecret(f, "--custodian-header-secret", w.custodianHeaderSecret)
	}
	custodian.Signers = readSigners(f, "--custodian-signing-secret", w.custodianSigningSecret)
	to.Custodian = webhookClient(custodian, "--custodian-url",
		named{"--custodian-signing-secret", strings.Join(files(w.custodianSigningSecret), ",")}, log, f)
	if to.Custodian != nil && w.custodianDelete {
		custodian.Name = "custodian-delete"
		to.CustodianDeletes = webhook.New(custodian, log)
	}
	if w.custodianRecipient != "" {
		recipient, err := age.ParseX25519Recipient(w.custodianRecipient)
		if err != nil {
			f.add("--custodian-recipient: it is not an age X25519 recipient (age1...): age-keygen makes one")
		}
		to.Recipient = recipient
	}
	policy := base
	policy.Name, policy.URL = "policy", w.policyURL
	policy.Signers = readSigners(f, "--policy-signing-secret", w.policySigningSecret)
	to.Policy = webhookClient(policy, "--policy-url",
		named{"--policy-signing-secret", strings.Join(files(w.policySigningSecret), ",")}, log, f)
}

// webhookClient returns a client if its URL and secret are set, and nil if neither is.
func webhookClient(cfg webhook.Config, urlFlag string, secrets named, log *slog.Logger, f *faults) *webhook.Client {
	complete := allOrNone(f, named{urlFlag, cfg.URL}, secrets)
	if cfg.URL != "" {
		if err := webhook.CheckURL(cfg.URL); err != nil {
			f.add("%s: %w", urlFlag, err)
		}
	}
	if !complete || len(*f) > 0 {
		return nil
	}
	return webhook.New(cfg, log)
}

func (w *webhookFlags) openCA(f *faults) *x509.CertPool {
	if w.webhookCA == "" {
		return nil
	}
	pool, err := auth.LoadCA(w.webhookCA)
	if err != nil {
		f.add("--webhook-ca %w", err)
	}
	return pool
}

func (w *webhookFlags) openNetworks(f *faults) (all []netip.Prefix) {
	for text := range strings.SplitSeq(w.webhookAllowNetworks, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() {
			f.add("--webhook-allow-networks: %q is not a network, as in 10.1.0.0/16", text)
			continue
		}
		all = append(all, p)
	}
	return all
}

// files returns the files that a repeatable flag names, without empty values.
func files(given []string) (paths []string) {
	for _, path := range given {
		if path = strings.TrimSpace(path); path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// readSigners reads signing secrets of Standard Webhooks.
func readSigners(f *faults, flag string, paths []string) (all []*webhook.Signer) {
	for _, path := range files(paths) {
		if s := readSigner(f, flag, path); s != nil {
			all = append(all, s)
		}
	}
	return all
}

func readSigner(f *faults, flag, path string) *webhook.Signer {
	text := readSecret(f, flag, path)
	defer text.Wipe()
	if text.Len() == 0 {
		return nil
	}
	signer, err := webhook.ParseSecret(text)
	if err != nil {
		f.add("%s %s: %w: mpcd custodian secret makes one", flag, path, err)
	}
	return signer
}

// readSecret reads a secret without whitespace from a file. If it fails, it adds a fault and returns no bytes.
func readSecret(f *faults, flag, path string) secret.Bytes {
	b, err := readSecretFile(path)
	if err != nil {
		f.add("%s %s: %w", flag, path, err)
	}
	return b
}

func readSecretFile(path string) (secret.Bytes, error) {
	b, _, err := secret.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return secret.Bytes{}, errors.New("there is no such file")
	}
	if err != nil {
		return secret.Bytes{}, err
	}
	defer b.Wipe()
	words := bytes.Fields(b.Reveal())
	if len(words) != 1 {
		return secret.Bytes{}, fmt.Errorf("it has %d words instead of one", len(words))
	}
	return secret.New(bytes.Clone(words[0])), nil
}
