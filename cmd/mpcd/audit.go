package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mpcd/mpcd/internal/names"
	"github.com/mpcd/mpcd/internal/store"
)

// auditCmd groups the commands for the audit log. They read the service's database, whether the service is running or
// not, and need no keyset: the log has no secrets.
type auditCmd struct {
	List   auditListCmd   `cmd:"" help:"Show the entries of one wallet, or those without a wallet."`
	Verify auditVerifyCmd `cmd:"" help:"Verify every hash chain, and report where one breaks."`
}

type auditFlags struct {
	DB   string `help:"Database, as in sqlite:///var/lib/mpcd/mpcd.db." required:"" placeholder:"URL" env:"MPCD_DB"`
	JSON bool   `help:"Print JSON on standard output."`
}

func (f *auditFlags) open(ctx context.Context, use func(*store.Store) error) error {
	st, err := store.Open(ctx, f.DB)
	if err != nil {
		return err
	}
	return errors.Join(use(st), st.Close())
}

type auditListCmd struct {
	auditFlags
	Wallet id `help:"The wallet's id; without it, entries that have no wallet." placeholder:"ID"`
}

// auditView is an entry as it is printed.
type auditView struct {
	N          int64     `json:"n"`
	Time       time.Time `json:"time"`
	Caller     string    `json:"caller,omitempty"`
	Action     string    `json:"action"`
	WalletID   string    `json:"walletId,omitempty"`
	ShareSetID string    `json:"shareSetId,omitempty"`
	SessionID  string    `json:"sessionId,omitempty"`
	Outcome    string    `json:"outcome"`
	Reason     string    `json:"reason,omitempty"`
	Detail     string    `json:"detail,omitempty"`
	Hash       string    `json:"hash"`
}

// Run prints the entries in order: one line each, as text or as JSON.
func (cmd *auditListCmd) Run(ctx context.Context) error {
	return cmd.open(ctx, func(st *store.Store) error {
		lines, err := st.Audit(ctx, string(cmd.Wallet))
		if err != nil {
			return err
		}
		out := json.NewEncoder(os.Stdout)
		for _, l := range lines {
			v := auditView{
				l.N, l.Time, l.Caller, l.Action, l.WalletID, l.ShareSetID, l.SessionID, l.Outcome, l.Reason, l.Detail,
				hex.EncodeToString(l.Hash[:]),
			}
			if cmd.JSON {
				err = out.Encode(v)
			} else {
				_, err = fmt.Printf("%5d  %s  %-7s  %-18s  %s  set %s  session %s  %s %s\n",
					v.N, v.Time.Format(time.RFC3339), v.Outcome, v.Action, names.Line(v.Caller), v.ShareSetID, v.SessionID,
					v.Reason, names.Line(v.Detail))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

type auditVerifyCmd struct{ auditFlags }

// Run verifies the log. It fails if a chain is broken.
func (cmd *auditVerifyCmd) Run(ctx context.Context) error {
	return cmd.open(ctx, func(st *store.Store) error {
		entries, chains, err := st.VerifyAudit(ctx)
		if err != nil {
			return err
		}
		if cmd.JSON {
			return json.NewEncoder(os.Stdout).Encode(struct {
				Entries int `json:"entries"`
				Chains  int `json:"chains"`
			}{entries, chains})
		}
		_, err = fmt.Printf("%d entries in %d chains: every hash holds\n", entries, chains)
		return err
	})
}
