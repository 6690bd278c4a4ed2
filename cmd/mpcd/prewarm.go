package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/secret"
)

// preParamsFlags are the flags for a device's prewarmed pre-params.
type preParamsFlags struct {
	Dir string `help:"Folder with pre-params that \"mpcd wallet prewarm\" made; one for each device." placeholder:"DIR" env:"MPCD_PREPARAMS_DIR"`
	Key string `help:"File with the key that the pre-params are encrypted to. Keep it outside the folder." placeholder:"FILE" env:"MPCD_PREPARAMS_KEY"`
}

// check requires both flags or neither.
func (a *preParamsFlags) check(prefix string) error {
	switch {
	case a.Dir == "" && a.Key != "":
		return usageError{fmt.Errorf("--%sdir is missing: name the folder with the pre-params", prefix)}
	case a.Dir != "" && a.Key == "":
		return usageError{fmt.Errorf("--%skey is missing: name the file with the key of the pre-params", prefix)}
	}
	return nil
}

// option returns the SDK's option for the folder and key.
func (a *preParamsFlags) option() (client.Option, error) {
	if err := checkPrivateDir(a.Dir); err != nil {
		return nil, err
	}
	key, _, err := secret.ReadFile(a.Key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: \"mpcd wallet prewarm\" makes it", a.Key)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Key, err)
	}
	defer key.Wipe()
	return client.WithPreParamsStore(preParamsDir(a.Dir), string(key.Reveal())), nil
}

// checkPrivateDir requires a folder that only its owner may access.
func checkPrivateDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no folder %s: \"mpcd wallet prewarm\" makes it", dir)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("other users than its owner may access %s (mode %04o): chmod 700", dir, info.Mode().Perm())
	}
	return nil
}

// prewarmCmd generates pre-params for a device; "mpcd preparams" does so for a service.
type prewarmCmd struct {
	callFlags
	preParamsFlags
	Sets int `help:"How many sets should be ready. A new share with a SECP256K1 key takes one." default:"2"`
}

// Run generates the missing sets. It does not call the service.
func (cmd *prewarmCmd) Run(ctx context.Context) error {
	if cmd.Dir == "" {
		return usageError{errors.New("--dir is missing: name the folder for the pre-params, " +
			"which is created if it does not exist")}
	}
	if err := cmd.check(""); err != nil {
		return err
	}
	if cmd.Sets < 1 {
		return usageError{errors.New("--sets must be at least 1")}
	}
	if err := cmd.prepare(); err != nil {
		return err
	}
	store, err := cmd.option()
	if err != nil {
		return err
	}
	c, err := client.New(noConnection{}, store)
	if err != nil {
		return err
	}
	start := time.Now()
	ready, made, err := prewarm(ctx, c, cmd.Sets, newView(os.Stderr, cmd.JSON))
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w; the sets that were made are kept", errInterrupted)
	}
	if err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	return cmd.print(struct {
		Ready   int     `json:"ready"`
		Made    int     `json:"made"`
		Seconds float64 `json:"seconds"`
	}{ready, made, took}, fmt.Sprintf("%d sets are ready, %d of them made now, in %.1f s\n", ready, made, took))
}

// prepare creates the folder and the key, if they do not exist.
func (a *preParamsFlags) prepare() error {
	if err := os.Mkdir(a.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := os.Lstat(a.Key); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := client.NewPreParamsKey()
	if err != nil {
		return err
	}
	return writeNew(a.Key, []byte(key+"\n"))
}

// prewarm shows its progress, and returns how many sets are ready and how many were generated.
func prewarm(ctx context.Context, c *client.Client, sets int, v *view) (ready, made int, err error) {
	var progress *counter
	err = c.Prewarm(ctx, sets, func(now, of int) {
		ready = now
		switch {
		case progress != nil:
			made++
			progress.add()
		case now < of:
			progress = newCounter(v, int64(of-now))
		}
	})
	if progress != nil {
		progress.end(err)
	}
	return ready, made, err
}

// preParamsDir is a client.PreParamsStore: a folder with one file for each set. Several processes may use it
// concurrently.
type preParamsDir string

const sealedSuffix = ".age"

func (d preParamsDir) path(id string) string { return filepath.Join(string(d), id+sealedSuffix) }

// PutPreParams implements client.PreParamsStore. It renames the file into place: another process would see a partly
// written set as invalid, and delete it.
func (d preParamsDir) PutPreParams(_ context.Context, id string, sealed []byte) error {
	temporary := d.path(id) + ".new"
	if err := writeNew(temporary, sealed); err != nil {
		return err
	}
	if err := os.Rename(temporary, d.path(id)); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncDir(string(d))
}

// PreParams implements client.PreParamsStore.
func (d preParamsDir) PreParams(context.Context) (map[string][]byte, error) {
	files, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	sets := make(map[string][]byte)
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), sealedSuffix)
		if !ok || uuid.Validate(id) != nil || !f.Type().IsRegular() {
			continue // not a set
		}
		sealed, err := os.ReadFile(d.path(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process has deleted it
		}
		if err != nil {
			return nil, err
		}
		sets[id] = sealed
	}
	return sets, nil
}

// DeletePreParams implements client.PreParamsStore.
func (d preParamsDir) DeletePreParams(_ context.Context, id string) (bool, error) {
	err := os.Remove(d.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, syncDir(string(d))
}

// syncDir makes the creation and deletion of files in a folder durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
