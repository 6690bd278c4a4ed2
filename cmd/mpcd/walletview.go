package main

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mpcd/mpcd/client"
	"github.com/mpcd/mpcd/internal/names"
)

// walletView is a wallet as it is printed.
type walletView struct {
	WalletID    string         `json:"walletId"`
	Owner       string         `json:"owner"`
	Keys        []demoKey      `json:"keys"`
	ShareSets   []shareSetView `json:"shareSets"`
	CreateTime  time.Time      `json:"createTime"`
	HostedSince *time.Time     `json:"hostedSince,omitempty"`
	walletBudget
}

// walletBudget is the part of its abort budget that a wallet has used; empty for most wallets.
type walletBudget struct {
	Locked     *time.Time `json:"lockTime,omitempty"`
	Aborts     uint32     `json:"aborts,omitempty"`
	SoftAborts uint32     `json:"softAborts,omitempty"`
}

type shareSetView struct {
	ID      string              `json:"id"`
	Purpose client.Purpose      `json:"purpose"`
	Method  client.BackupMethod `json:"method,omitempty"`
	State   client.State        `json:"state"`
	Parent  string              `json:"parent,omitempty"`
	Device  string              `json:"device,omitempty"`
	Created time.Time           `json:"createTime"`
	Locked  *time.Time          `json:"lockTime,omitempty"`
	Aborts  uint32              `json:"aborts,omitempty"`
	Soft    uint32              `json:"softAborts,omitempty"`
	Limited *time.Time          `json:"limitedUntil,omitempty"`
}

func viewWallet(w *client.Wallet) walletView {
	v := walletView{WalletID: w.ID, Owner: w.Owner, CreateTime: w.CreateTime, Keys: []demoKey{},
		ShareSets: []shareSetView{}}
	v.HostedSince, v.Locked = notZero(w.HostedSince), notZero(w.LockTime)
	v.Aborts, v.SoftAborts = w.Aborts, w.SoftAborts
	for _, k := range w.PublicKeys {
		v.Keys = append(v.Keys, demoKey{k.Curve, hex.EncodeToString(k.Bytes)})
	}
	for _, s := range w.ShareSets {
		view := shareSetView{ID: s.ID, Purpose: s.Purpose, Method: s.Method, State: s.State, Parent: s.ParentID,
			Device: s.DisplayName, Created: s.CreateTime, Aborts: s.Aborts}
		view.Soft, view.Locked, view.Limited = s.SoftAborts, notZero(s.LockTime), notZero(s.LimitedUntil)
		v.ShareSets = append(v.ShareSets, view)
	}
	return v
}

func notZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (v *walletView) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "wallet %s  owner %s  created %s\n", v.WalletID, names.Line(v.Owner),
		v.CreateTime.Format(time.RFC3339))
	if s := v.walletBudget.text(); s != "" {
		fmt.Fprintf(&b, "  all sets  %s\n", s)
	}
	for _, k := range v.Keys {
		fmt.Fprintf(&b, "  key  %-9s  %s\n", k.Curve, k.PublicKey)
	}
	for _, s := range v.ShareSets {
		about := slices.DeleteFunc([]string{string(s.Method), names.Line(s.Device), s.budget()},
			func(x string) bool { return x == "" })
		b.WriteString(strings.TrimRight(fmt.Sprintf("  set  %s  %-7s  %-7s  %s", s.ID, s.Purpose, s.State,
			strings.Join(about, "  ")), " ") + "\n")
	}
	return b.String()
}

// text formats the budget for a person.
func (w *walletBudget) text() string {
	return budget(w.Locked, "", w.Aborts, w.SoftAborts)
}

// budget formats the part of its abort budget that a set has used; empty for most sets.
func (s *shareSetView) budget() string {
	limited := ""
	if s.Limited != nil {
		limited = "limited: no ECDSA signature with a device before " + s.Limited.Format(time.RFC3339)
	}
	return budget(s.Locked, limited, s.Aborts, s.Soft)
}

func budget(locked *time.Time, limited string, aborts, soft uint32) string {
	var words []string
	if locked != nil {
		words = append(words, "LOCKED "+locked.Format(time.RFC3339))
	}
	if limited != "" {
		words = append(words, limited)
	}
	if aborts > 0 {
		words = append(words, fmt.Sprintf("aborts: %d", aborts))
	}
	if soft > 0 {
		words = append(words, fmt.Sprintf("soft aborts: %d", soft))
	}
	return strings.Join(words, ", ")
}
