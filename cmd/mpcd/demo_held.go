package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/leaks"
)

// demoHeld is what was found on each side after a step. Nothing in it is known beforehand:
// it was looked up on the devices and in the service's database.
type demoHeld struct {
	After   string       `json:"after"`
	Devices []heldDevice `json:"devices"`
	Backup  *heldBackup  `json:"backup,omitempty"`
	Service []heldHalf   `json:"service"`
	Never   heldNever    `json:"never"`
}

type heldDevice struct {
	Device     string         `json:"device"`
	ShareSetID string         `json:"shareSetId,omitempty"` // of its share
	Purpose    client.Purpose `json:"purpose,omitempty"`
	PreParams  int            `json:"preParams"` // sets made ahead, sealed
}

// heldBackup is the ciphertext that an app would keep, and what it holds.
type heldBackup struct {
	ShareSetID string         `json:"shareSetId"`
	Purpose    client.Purpose `json:"purpose"`
	Bytes      int            `json:"bytes"`
}

// heldHalf is the server's share of a share set; of a BACKUP set, it is the custodian's.
type heldHalf struct {
	ShareSetID string `json:"shareSetId"`
	Purpose    string `json:"purpose"`
	Bytes      int    `json:"sealedBytes"` // of all curves
}

// heldNever is what was looked for where it must not be.
type heldNever struct {
	Shares int  `json:"shares"` // all shares of the devices, the backup's too
	Bytes  int  `json:"bytes"`  // of the service's files that were searched for their secrets
	Found  int  `json:"found"`  // of the shares
	Hosted bool `json:"hosted"` // whether the halves ever met in the service, as it says itself
}

// look finds out who holds what, shows it and keeps it. It fails where the service holds a
// share that is a device's.
func (p *play) look(ctx context.Context, after string) error {
	if !p.deviceHeld {
		return nil
	}
	held := demoHeld{After: after, Service: []heldHalf{}}
	var shares [][]byte
	for _, d := range []*demoDevice{p.first, p.second} {
		sets, err := d.ahead.PreParams(ctx)
		if err != nil {
			return err
		}
		on := heldDevice{Device: d.name, PreParams: len(sets)}
		if d.share != nil {
			s, err := client.ParseShare(d.share)
			if err != nil {
				return err
			}
			on.ShareSetID, on.Purpose = s.ShareSetID(), s.Purpose()
			shares = append(shares, d.share)
		}
		held.Devices = append(held.Devices, on)
	}
	if p.result.CipherText != "" {
		s, err := p.first.DecryptBackup(ctx, p.result.CipherText, client.MethodPassword)
		if err != nil {
			return err
		}
		held.Backup = &heldBackup{s.ShareSetID(), s.Purpose(), len(p.result.CipherText)}
		shares = append(shares, s.Bytes())
	}
	if err := p.halves(ctx, &held); err != nil {
		return err
	}
	if err := held.search(p.database(), shares); err != nil {
		return err
	}
	p.result.Held = append(p.result.Held, held)
	_, err := fmt.Fprint(p.show.out, held.text())
	return err
}

// halves lists what the service has of the wallet.
func (p *play) halves(ctx context.Context, held *demoHeld) error {
	if p.result.WalletID == "" {
		return nil
	}
	w, err := p.Store.Wallet(ctx, p.result.WalletID)
	if err != nil {
		return err
	}
	held.Never.Hosted = !w.HostedSince.IsZero()
	for i := range w.Sets {
		set, err := p.Store.Set(ctx, w.ID, w.Sets[i].ID)
		if err != nil {
			return err
		}
		half := heldHalf{ShareSetID: set.ID, Purpose: set.Purpose.String()}
		for _, sealed := range set.ServerShare {
			half.Bytes += len(sealed.Ciphertext)
		}
		held.Service = append(held.Service, half)
	}
	return nil
}

// search looks for the secrets of shares in a database's files.
func (h *demoHeld) search(database string, shares [][]byte) error {
	files, err := filepath.Glob(database + "*") // the journal too
	if err != nil {
		return err
	}
	var all []byte
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	h.Never.Bytes, h.Never.Shares = len(all), len(shares)
	for _, s := range shares {
		if len(leaks.Find(all, s)) > 0 {
			h.Never.Found++
		}
	}
	if h.Never.Found > 0 || h.Never.Hosted {
		return errors.New("a share that is a device's is with the service")
	}
	// A search that finds nothing says something only where it finds what is there.
	for _, half := range h.Service {
		if !bytes.Contains(all, []byte(half.ShareSetID)) {
			return errors.New("the service's files could not be searched")
		}
	}
	return nil
}

// text is a table for people.
func (h *demoHeld) text() string {
	var b strings.Builder
	row := func(who, format string, args ...any) {
		fmt.Fprintf(&b, "  %-13s  %s\n", who, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "held after %s:\n", h.After)
	for _, d := range h.Devices {
		share := "no share"
		if d.ShareSetID != "" {
			share = fmt.Sprintf("its %s share of set %s", d.Purpose, d.ShareSetID)
		}
		row(d.Device+" device", "%s; pre-params made ahead: %d, sealed", share, d.PreParams)
	}
	if h.Backup != nil {
		row("backup", "the device's %s share of set %s, in an age file of %d bytes", h.Backup.Purpose, h.Backup.ShareSetID,
			h.Backup.Bytes)
	}
	for _, half := range h.Service {
		who := "service"
		if half.Purpose == string(client.PurposeBackup) {
			who = "its custodian"
		}
		row(who, "its server share of set %s, sealed in %d bytes", half.ShareSetID, half.Bytes)
	}
	if len(h.Service) == 0 {
		row("service", "nothing")
	}
	if h.Never.Shares > 0 {
		row("never there", "the device's share of any set: %d looked for in %d bytes of the service's files, %d found",
			h.Never.Shares, h.Never.Bytes, h.Never.Found)
	}
	return b.String()
}
