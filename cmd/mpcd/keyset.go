package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
)

// keysetCmd groups the commands for the keyset that encrypts a service's data.
type keysetCmd struct {
	Create  keysetCreateCmd  `cmd:"" help:"Write a new keyset to a new file, mode 0600."`
	List    keysetListCmd    `cmd:"" help:"Show the keys of a keyset: ids and states, no key material."`
	Rotate  keysetRotateCmd  `cmd:"" help:"Add a new key, under which everything will be sealed."`
	Status  keysetStatusCmd  `cmd:"" help:"Show how many stored values each key still seals."`
	Disable keysetDisableCmd `cmd:"" help:"Switch an old key off, once nothing is sealed under it."`
	Enable  keysetEnableCmd  `cmd:"" help:"Switch a disabled key on again."`
	Destroy keysetDestroyCmd `cmd:"" help:"Remove a disabled key for good."`
}

// Help describes how to replace a key.
func (k *keysetCmd) Help() string {
	return `To replace a key:
 1. mpcd keyset rotate: the new key becomes the primary key, the old one still opens.
    Put a copy of the file into its backup.
 2. Restart the service: it reads its keyset only when it starts. From then on it seals
    under the new key, and re-seals old data in the background; after a crash it
    continues where it was.
 3. Wait until mpcd keyset status (or the metric mpcd_reseal_rows_left) shows none.
 4. mpcd keyset disable: refused while the old key is still needed. Restart the service.
 5. Wait: a week, or as long as you may have to restore an older backup of the database,
    which still needs the old key. mpcd keyset enable undoes disable.
 6. mpcd keyset destroy: from now on such a backup cannot be opened.

With --keyset-kms the file is wrapped by a key in a KMS, and cannot be opened without it:
  hcvault://HOST[:PORT]/transit/keys/NAME     HashiCorp Vault; VAULT_TOKEN, or the name
                                              of a file in VAULT_TOKEN_FILE; VAULT_CACERT
  aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID AWS; what the AWS SDK finds: environment,
                                              ~/.aws, the machine's or pod's role
  gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K
                                              Google Cloud; application default credentials
The KMS is only used at the start: a running service does not need it.`
}

// keysetFileFlags are the flags for a keyset file.
type keysetFileFlags struct {
	Keyset string `help:"The keyset's file." required:"" placeholder:"FILE" env:"MPCD_KEYSET"`
	KMS    string `name:"keyset-kms" help:"The KMS key that wraps the file, where one does; see mpcd keyset --help." placeholder:"URI" env:"MPCD_KEYSET_KMS"`
	JSON   bool   `help:"Print one JSON object on standard output."`
}

// keysetDBFlags are the flags for the database that a keyset encrypts.
type keysetDBFlags struct {
	DB string `help:"The database that the keyset seals, as in sqlite:///var/lib/mpcd/mpcd.db. Its service may be running." required:"" placeholder:"URL" env:"MPCD_DB"`
}

func (k *keysetFileFlags) file() (seal.File, error) { return keysetFile(k.Keyset, k.KMS) }

// show prints the keys after a change, and the next step.
func (k *keysetFileFlags) show(keys *seal.Keyset, next string) error {
	if k.JSON {
		return json.NewEncoder(os.Stdout).Encode(struct {
			Keyset string     `json:"keyset"`
			Keys   []seal.Key `json:"keys"`
		}{k.Keyset, keys.Keys()})
	}
	for _, key := range keys.Keys() {
		if _, err := fmt.Printf("key %v  %s\n", key.ID, keyState(key)); err != nil {
			return err
		}
	}
	if next == "" {
		return nil
	}
	_, err := fmt.Println(next)
	return err
}

func keyState(key seal.Key) string {
	switch {
	case key.Primary:
		return "primary: it seals and opens"
	case key.Enabled:
		return "enabled: it opens"
	}
	return "disabled"
}

// change changes the file, and prints its keys.
func (k *keysetFileFlags) change(ctx context.Context, next string,
	change func(*seal.Keyset) (*seal.Keyset, error)) error {
	file, err := k.file()
	if err != nil {
		return err
	}
	keys, err := file.Change(ctx, change)
	if err != nil {
		return err
	}
	return k.show(keys, next)
}

// count counts the values that each key seals in the database.
func (d *keysetDBFlags) count(ctx context.Context, keys *seal.Keyset) (count seal.Count, err error) {
	path, err := store.Path(d.DB)
	if err != nil {
		return nil, usageError{fmt.Errorf("--db: %w", err)}
	}
	// store.Open would create the database, and in an empty one no key is needed.
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("--db: %w: name the database that the keyset seals", err)
	}
	st, err := store.Open(ctx, d.DB)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return seal.CensusOf(ctx, keys, st)
}

type keysetCreateCmd struct {
	Keyset string `help:"New file. Keep a copy of it apart from the database: without it the database is lost." required:"" placeholder:"FILE"`
	KMS    string `name:"keyset-kms" help:"The KMS key that wraps the file; see mpcd keyset --help." placeholder:"URI" env:"MPCD_KEYSET_KMS"`
	JSON   bool   `help:"Print one JSON object on standard output."`
}

// Run creates a keyset.
func (k *keysetCreateCmd) Run(ctx context.Context) error {
	file, err := keysetFile(k.Keyset, k.KMS)
	if err != nil {
		return err
	}
	if err := file.Create(ctx); err != nil {
		return err
	}
	if k.JSON {
		return json.NewEncoder(os.Stdout).Encode(struct {
			Keyset string `json:"keyset"`
		}{k.Keyset})
	}
	_, err = fmt.Printf("keyset in %s, mode 0600\n", k.Keyset)
	return err
}

type keysetListCmd struct{ keysetFileFlags }

// Run shows the keys.
func (k *keysetListCmd) Run(ctx context.Context) error {
	keys, err := loadKeyset(ctx, k.Keyset, k.KMS)
	if err != nil {
		return err
	}
	return k.show(keys, "")
}

type keysetRotateCmd struct{ keysetFileFlags }

// Run adds a primary key.
func (k *keysetRotateCmd) Run(ctx context.Context) error {
	return k.change(ctx, "Restart the service: it re-seals what it stores. Back the file up.", (*seal.Keyset).Rotated)
}

type keysetStatusCmd struct {
	keysetFileFlags
	keysetDBFlags
}

// keyStatus is a key with the number of values that it seals, as it is printed.
type keyStatus struct {
	seal.Key
	Rows  int            `json:"rows"`
	Kinds map[string]int `json:"kinds,omitempty"`
}

// Run prints how many values each key seals.
func (k *keysetStatusCmd) Run(ctx context.Context) error {
	keys, err := loadKeyset(ctx, k.Keyset, k.KMS)
	if err != nil {
		return err
	}
	count, err := k.count(ctx, keys)
	if err != nil {
		return err
	}
	all, left := []keyStatus{}, count.Total()
	for _, key := range keys.Keys() {
		all = append(all, keyStatus{key, count.Of(key.ID), count[key.ID]})
		if key.Primary {
			left -= count.Of(key.ID)
		}
	}
	unknown := count.Unknown(keys)
	if k.JSON {
		return json.NewEncoder(os.Stdout).Encode(struct {
			Keys    []keyStatus  `json:"keys"`
			Left    int          `json:"left"`
			Unknown []seal.KeyID `json:"unknownKeys,omitempty"`
		}{all, left, unknown})
	}
	for _, s := range all {
		if _, err := fmt.Printf("key %v  %-27s  %s\n", s.ID, keyState(s.Key), rowsOf(s.Kinds, s.Rows)); err != nil {
			return err
		}
	}
	for _, id := range unknown {
		if _, err := fmt.Printf("key %v  not in this keyset: what it sealed does not open  %s\n", id,
			rowsOf(count[id], count.Of(id))); err != nil {
			return err
		}
	}
	next := ""
	if left > 0 {
		next = ": the service does it, once it was restarted after the rotation"
	}
	_, err = fmt.Printf("%d rows to re-seal%s\n", left, next)
	return err
}

func rowsOf(kinds map[string]int, rows int) string {
	var parts []string
	for _, kind := range session.SealedKinds() {
		if n := kinds[kind]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", kind, n))
		}
	}
	if len(parts) == 0 {
		return "no rows"
	}
	return fmt.Sprintf("%d rows (%s)", rows, strings.Join(parts, ", "))
}

type keyFlag struct {
	Key seal.KeyID `help:"The key's id, as list shows it." required:"" placeholder:"ID"`
}

type keysetDisableCmd struct {
	keysetFileFlags
	keysetDBFlags
	keyFlag
}

// Run disables a key that is not needed.
func (k *keysetDisableCmd) Run(ctx context.Context) error {
	const next = "Restart the service. Destroy the key once you no longer need older backups of the database."
	return k.change(ctx, next, func(keys *seal.Keyset) (*seal.Keyset, error) {
		without, err := keys.Disabled(k.Key)
		if err != nil {
			return nil, err
		}
		return without, k.checkUnneeded(ctx, keys, k.Key)
	})
}

// checkUnneeded fails if a row of the database still needs the key.
func (d *keysetDBFlags) checkUnneeded(ctx context.Context, keys *seal.Keyset, id seal.KeyID) error {
	count, err := d.count(ctx, keys)
	if err != nil {
		return err
	}
	return count.Unneeded(id)
}

type keysetEnableCmd struct {
	keysetFileFlags
	keyFlag
}

// Run enables a key.
func (k *keysetEnableCmd) Run(ctx context.Context) error {
	return k.change(ctx, "Restart the service.", func(keys *seal.Keyset) (*seal.Keyset, error) {
		return keys.Enabled(k.Key)
	})
}

type keysetDestroyCmd struct {
	keysetFileFlags
	keysetDBFlags
	keyFlag
}

// Run destroys a key that is not needed.
func (k *keysetDestroyCmd) Run(ctx context.Context) error {
	const next = "The key is destroyed: remove it from the file's backups too, unless a backup of the database needs it."
	return k.change(ctx, next, func(keys *seal.Keyset) (*seal.Keyset, error) {
		without, err := keys.Destroyed(k.Key)
		if err != nil {
			return nil, err
		}
		return without, k.checkUnneeded(ctx, keys, k.Key)
	})
}
