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

// demoHeld is what each party stores after a step, as found on the devices and in the service's database.
type demoHeld struct {
	After   string            `json:"after"`
	Devices []heldDevice      `json:"devices"`
	Backup  *heldBackup       `json:"backup,omitempty"`
	Service []heldServerShare `json:"service"`
	Never   heldNever         `json:"never"`
}

type heldDevice struct {
	Device     string         `json:"device"`
	ShareSetID string         `json:"shareSetId,omitempty"` // of its share
	Purpose    client.Purpose `json:"purpose,omitempty"`
	PreParams  int            `json:"preParams"` // prewarmed sets
}

// heldBackup is the ciphertext that an app would store, and the share in it.
type heldBackup struct {
	ShareSetID string         `json:"shareSetId"`
	Purpose    client.Purpose `json:"purpose"`
	Bytes      int            `json:"bytes"`
}

// heldServerShare is the server share of a share set. Those of BACKUP sets are the custodian's.
type heldServerShare struct {
	ShareSetID string `json:"shareSetId"`
	Purpose    string `json:"purpose"`
	Bytes      int    `json:"sealedBytes"` // of all curves
}

// heldNever is the result of a search for client shares in the service's files, where they must not be.
type heldNever struct {
	Shares int  `json:"shares"` // how many client shares were searched for, including the backup's
	Bytes  int  `json:"bytes"`  // how many bytes of the service's files were searched
	Found  int  `json:"found"`  // how many of the shares were found
	Hosted bool `json:"hosted"` // whether the service has recorded a hosted operation on the wallet
}

// inspect finds out what each party stores, shows it and records it. It fails if the service has a client share.
func (p *demoRun) inspect(ctx context.Context, after string) error {
	if !p.deviceHeld {
		return nil
	}
	held := demoHeld{After: after, Service: []heldServerShare{}}
	var shares [][]byte
	for _, d := range []*demoDevice{p.first, p.second} {
		sets, err := d.preParams.PreParams(ctx)
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
	if err := p.serverShares(ctx, &held); err != nil {
		return err
	}
	if err := held.search(p.database(), shares); err != nil {
		return err
	}
	p.result.Held = append(p.result.Held, held)
	_, err := fmt.Fprint(p.show.out, held.text())
	return err
}

// serverShares lists the wallet's server shares in the service's database.
func (p *demoRun) serverShares(ctx context.Context, held *demoHeld) error {
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
		share := heldServerShare{ShareSetID: set.ID, Purpose: set.Purpose.String()}
		for _, sealed := range set.ServerShare {
			share.Bytes += len(sealed.Ciphertext)
		}
		held.Service = append(held.Service, share)
	}
	return nil
}

// search searches a database's files for the secrets of shares, and fails if it finds one.
func (h *demoHeld) search(database string, shares [][]byte) error {
	files, err := filepath.Glob(database + "*") // includes the journal
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
		return errors.New("a device's share is in the service")
	}
	// Positive control: the search must find what is there.
	for _, share := range h.Service {
		if !bytes.Contains(all, []byte(share.ShareSetID)) {
			return errors.New("the service's files could not be searched")
		}
	}
	return nil
}

// text formats the result as a table.
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
		row("backup", "the device's %s share of set %s, in an age file of %d bytes",
			h.Backup.Purpose, h.Backup.ShareSetID, h.Backup.Bytes)
	}
	for _, share := range h.Service {
		who := "service"
		if share.Purpose == string(client.PurposeBackup) {
			who = "its custodian"
		}
		row(who, "its server share of set %s, sealed in %d bytes", share.ShareSetID, share.Bytes)
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
