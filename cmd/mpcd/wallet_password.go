package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/term"

	"github.com/mpcd/mpcd/client"
)

// passwordFlags are the flags for a password, which cannot be passed on the command line itself: other users of the
// machine can see it there.
type passwordFlags struct {
	Method       client.BackupMethod `help:"Backup method; the command line has PASSWORD only." default:"PASSWORD" enum:"PASSWORD"`
	PasswordFile string              `help:"File with the password on its first line, in UTF-8, or in UTF-16 with a byte order mark. Without it, the terminal asks for the password." placeholder:"FILE"`
}

// password reads the password. It is called before the operation, so that the prompt does not mix with the progress
// bar. A new password is asked for twice.
func (f *passwordFlags) password(ctx context.Context, twice bool) (client.Option, error) {
	if f.PasswordFile == "" {
		p, err := promptPassword(ctx, twice)
		if err != nil {
			return nil, err
		}
		return checkedPassword(p, func(c *client.Client) error { return c.SetPassword(string(p)) })
	}
	b, err := os.ReadFile(f.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("--password-file: %w", err)
	}
	option, err := checkedPassword(b, func(c *client.Client) error { return c.SetPasswordFile(b) })
	switch {
	case errors.Is(err, client.ErrNoPassword):
		return nil, fmt.Errorf("--password-file: the first line of %s is empty", f.PasswordFile)
	case err != nil:
		return nil, fmt.Errorf("--password-file %s: %w", f.PasswordFile, err)
	}
	return option, nil
}

// checkedPassword checks early whether the SDK accepts a password. The option that it returns clears the password after
// use.
func checkedPassword(p []byte, set func(*client.Client) error) (client.Option, error) {
	c, err := client.New(noConnection{})
	if err == nil {
		err = set(c)
	}
	if err != nil {
		clear(p)
		return nil, err
	}
	return func(c *client.Client) error {
		defer clear(p)
		return set(c)
	}, nil
}

func promptPassword(ctx context.Context, twice bool) ([]byte, error) {
	if !term.IsTerminal(terminal) {
		return nil, usageError{errors.New(
			"--password-file is missing, and there is no terminal to ask for the password")}
	}
	p, err := ask(ctx, "Password of the backup: ")
	if err != nil || !twice {
		return p, err
	}
	again, err := ask(ctx, "Once more: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(p, again) {
		return nil, errors.New("the two passwords differ")
	}
	return p, nil
}

const terminal = 0 // standard input

// ask asks for a password without echoing it. If the command is interrupted meanwhile, it restores the terminal's echo.
func ask(ctx context.Context, prompt string) ([]byte, error) {
	before, err := term.GetState(terminal)
	if err != nil {
		return nil, err
	}
	defer fmt.Fprintln(os.Stderr)
	fmt.Fprint(os.Stderr, prompt)
	type answer struct {
		password []byte
		err      error
	}
	answers := make(chan answer, 1)
	go func() { // ends with a line on the terminal, or with the process
		p, err := term.ReadPassword(terminal)
		answers <- answer{p, err}
	}()
	select {
	case a := <-answers:
		if a.err == nil && len(a.password) == 0 {
			a.err = errors.New("no password was typed")
		}
		return a.password, a.err
	case <-ctx.Done():
		return nil, errors.Join(errInterrupted, term.Restore(terminal, before))
	}
}
