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

// webhookFlags are the settings of serve that name a customer's own services.
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
			help: "Who keeps the server shares of BACKUP sets: the https URL below which /backup and /backup/fetch are " +
				"(docs/CUSTODIAN.md). Without it they are kept here, sealed. Sets that were made before stay where they are."},
		&texts{name: "custodian-signing-secret", to: &w.custodianSigningSecret, value: "FILE",
			help: "File with the secret that signs messages to the custodian (Standard Webhooks: whsec_...), mode 0600. " +
				"Two, while the secret is being changed: both sign."},
		&text{name: "custodian-header-secret", to: &w.custodianHeaderSecret, value: "FILE",
			help: "File with what X-Webhook-Secret holds, for custodians that want it, mode 0600."},
		&text{name: "custodian-recipient", to: &w.custodianRecipient, value: "age1...",
			help: "The custodian's age recipient: shares leave encrypted to it, and the custodian decrypts what it answers."},
		&toggle{name: "custodian-delete", to: &w.custodianDelete,
			help: "Tell the custodian (/backup/delete) which shares nobody needs any more: of sets that were revoked, " +
				"or never committed or confirmed. What it does not take is repeated."},

		&text{name: "policy-url", to: &w.policyURL, value: "URL",
			help: "An authoriser that is asked before BackupWallet, ProvisionWallet, Sign and RevokeShareSet; " +
				"its https URL. No answer is no."},
		&texts{name: "policy-signing-secret", to: &w.policySigningSecret, value: "FILE",
			help: "File with the secret that signs messages to the authoriser (whsec_...), mode 0600. " +
				"Two, while the secret is being changed: both sign."},

		&text{name: "webhook-ca", to: &w.webhookCA, value: "FILE",
			help: "The CA of both their certificates, PEM; the system's by default."},
		&text{name: "webhook-allow-networks", to: &w.webhookAllowNetworks, value: "CIDR,...",
			help: "Networks that they may be in though their addresses are not public, as in 10.1.0.0/16,fd00:1::/64."},
	}
}

// open adds every fault of these settings, and puts what they say into the service's
// options. Nobody is called yet.
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
		custodian.HeaderSecret = readWord(f, "--custodian-header-secret", w.custodianHeaderSecret)
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

// webhookClient returns one where its URL and its secret are named, and nil where neither is.
func webhookClient(cfg webhook.Config, urlFlag string, secrets named, log *slog.Logger, f *faults) *webhook.Client {
	complete := together(f, named{urlFlag, cfg.URL}, secrets)
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

// files returns the files that a flag names which may come more than once. What is empty,
// as in a variable that is set to nothing, names none.
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
	word := readWord(f, flag, path)
	defer word.Wipe()
	if word.Len() == 0 {
		return nil
	}
	signer, err := webhook.ParseSecret(word)
	if err != nil {
		f.add("%s %s: %w: mpcd custodian secret makes one", flag, path, err)
	}
	return signer
}

// readWord reads a secret that is one word. It adds what is wrong with the file, and then
// returns nothing.
func readWord(f *faults, flag, path string) secret.Bytes {
	b, err := readSecretWord(path)
	if err != nil {
		f.add("%s %s: %w", flag, path, err)
	}
	return b
}

func readSecretWord(path string) (secret.Bytes, error) {
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
		return secret.Bytes{}, fmt.Errorf("it holds %d words, and not one", len(words))
	}
	return secret.New(bytes.Clone(words[0])), nil
}
