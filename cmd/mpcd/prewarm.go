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

// ahead names the pre-params that a device has made ahead.
type ahead struct {
	Dir string `help:"Folder with pre-params that \"mpcd wallet prewarm\" made; each device has its own." placeholder:"DIR" env:"MPCD_PREPARAMS_DIR"`
	Key string `help:"File with the key that they are sealed to. Whoever has both the folder and the key can open what is sealed: keep the key outside the folder." placeholder:"FILE" env:"MPCD_PREPARAMS_KEY"`
}

// check wants both or neither.
func (a *ahead) check(prefix string) error {
	switch {
	case a.Dir == "" && a.Key != "":
		return usageError{fmt.Errorf("--%sdir is missing: name the folder with the pre-params", prefix)}
	case a.Dir != "" && a.Key == "":
		return usageError{fmt.Errorf("--%skey is missing: name the file with the key of the pre-params", prefix)}
	}
	return nil
}

// option returns the SDK's store on what is named.
func (a *ahead) option() (client.Option, error) {
	if err := closed(a.Dir); err != nil {
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

// closed wants a folder that only its owner may use.
func closed(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no folder %s: \"mpcd wallet prewarm\" makes it", dir)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("others than its owner may use %s (mode %04o): chmod 700", dir, info.Mode().Perm())
	}
	return nil
}

// prewarmCmd is for a device: "mpcd preparams" is for a service.
type prewarmCmd struct {
	callFlags
	ahead
	Sets int `help:"How many sets are to be ready. A new share with a SECP256K1 key takes one." default:"2"`
}

// Run makes what is missing. It calls nobody.
func (cmd *prewarmCmd) Run(ctx context.Context) error {
	if cmd.Dir == "" {
		return usageError{errors.New("--dir is missing: name the folder for the pre-params, " +
			"which is made where there is none")}
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
	c, err := client.New(nowhere{}, store)
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

// prepare makes the folder and the key where there are none.
func (a *ahead) prepare() error {
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

// prewarm shows how it goes on, and returns how many sets are ready and how many were made.
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

// preParamsDir is a client.PreParamsStore: a folder with one file for each set. Several
// processes may use it at the same time.
type preParamsDir string

const sealedSuffix = ".age"

func (d preParamsDir) path(id string) string { return filepath.Join(string(d), id+sealedSuffix) }

// PutPreParams implements client.PreParamsStore. A file has its name only when it is whole:
// another process would take half a set for none, and delete it.
func (d preParamsDir) PutPreParams(_ context.Context, id string, sealed []byte) error {
	unnamed := d.path(id) + ".new"
	if err := writeNew(unnamed, sealed); err != nil {
		return err
	}
	if err := os.Rename(unnamed, d.path(id)); err != nil {
		return errors.Join(err, os.Remove(unnamed))
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
			continue // not ours
		}
		sealed, err := os.ReadFile(d.path(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process has taken it
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

// syncDir makes durable which files a folder has.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
