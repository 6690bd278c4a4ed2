package main

import (
	"fmt"

	"github.com/mpcd/mpcd/internal/seal"
)

type keysetCmd struct {
	Create keysetCreateCmd `cmd:"" help:"Write a new keyset to a new file, mode 0600."`
}

type keysetCreateCmd struct {
	Keyset string `help:"New file. Keep a copy of it apart from the database: without it the database is lost." required:"" placeholder:"FILE"`
}

// Run makes a keyset.
func (k *keysetCreateCmd) Run() error {
	if err := seal.Create(k.Keyset); err != nil {
		return err
	}
	_, err := fmt.Printf("keyset in %s, mode 0600\n", k.Keyset)
	return err
}
