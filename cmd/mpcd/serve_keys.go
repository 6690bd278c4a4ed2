package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/mpcd/mpcd/internal/kms"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/store"
)

// keysetFlags are the settings for the keyset of a service.
type keysetFlags struct{ keyset, kms string }

func (k *keysetFlags) settings() settings {
	return settings{
		&text{name: "keyset", to: &k.keyset, value: "FILE",
			help: "File with the keyset that encrypts the database, mode 0600. With --dev one is created next to the " +
				"database. It is read at the start only: restart the service after a rotation."},
		&text{name: "keyset-kms", to: &k.kms, value: "URI",
			help: "The KMS key that wraps the keyset file: hcvault://HOST/transit/keys/NAME, aws-kms://arn:aws:kms:... " +
				"or gcp-kms://projects/.... The KMS is used at the start only; its credentials come from the " +
				"environment."},
	}
}

// check adds faults of the settings, and returns the keyset unless a KMS wraps it: then open calls the KMS once the
// rest of the configuration is valid.
func (k *keysetFlags) check(f *faults) *seal.Keyset {
	if k.kms != "" {
		if k.keyset == "" {
			f.add("--keyset is missing: --keyset-kms names what wraps that file")
		}
		if err := kms.Check(k.kms); err != nil {
			f.add("--keyset-kms: %w", err)
		}
		return nil
	}
	if k.keyset == "" {
		return nil
	}
	keys, err := seal.Load(k.keyset)
	if err != nil {
		*f = append(*f, err) // it names the file
	}
	return keys
}

// open reads the keyset that a KMS wraps, or the keyset next to the database of a --dev service, which it creates if it
// does not exist.
func (k *keysetFlags) open(ctx context.Context, db string, log *slog.Logger) (*seal.Keyset, error) {
	if k.kms != "" {
		return loadKeyset(ctx, k.keyset, k.kms)
	}
	file, err := store.File(db)
	if err != nil {
		return nil, err
	}
	path := strings.TrimSuffix(file, filepath.Ext(file)) + ".keyset"
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := seal.Create(path); err != nil {
			return nil, err
		}
		log.Warn("made a development keyset", "path", path)
	}
	return seal.Load(path)
}

// keysetFile returns the file at path, wrapped by the KMS key at uri, unless uri is empty.
func keysetFile(path, uri string) (seal.File, error) {
	f := seal.File{Path: path}
	if uri != "" {
		key, err := kms.New(uri)
		if err != nil {
			return f, usageError{err}
		}
		f.KMS = key
	}
	return f, nil
}

func loadKeyset(ctx context.Context, path, uri string) (*seal.Keyset, error) {
	f, err := keysetFile(path, uri)
	if err != nil {
		return nil, err
	}
	return f.Load(ctx)
}
