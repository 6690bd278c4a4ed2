package tss_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

const errTranscript = "the two sides did not see the same run"

// requireNothing runs d and checks that neither side has a result, and that the errors that blame the other side
// contain why.
func requireNothing(t *testing.T, d *device, why string) {
	t.Helper()
	out, errs := d.run(t.Context())
	noticed := 0
	for p := range out {
		require.Nil(t, out[p])
		require.Error(t, errs[p])
		if pe := new(tss.ProtocolError); errors.As(errs[p], &pe) {
			require.Equal(t, tss.Party(p).Other(), pe.Culprit)
			require.ErrorContains(t, pe, why)
			noticed++
		}
	}
	require.NotZero(t, noticed, "%v", errs)
}

// tss-lib.md, row 17: tss-lib binds an Ed25519 run to no session, and an ECDSA run only partly. Two sides that are in
// different sessions have no result, although every message was valid.
func TestRow17Session(t *testing.T) {
	t.Parallel()
	s := newDevice("CREATE", nil, tss.Ed25519).makeSet(t)
	for what, x := range map[string]struct {
		operation string
		change    func(*tss.Operation)
	}{
		"another session":   {tss.OperationSign, func(j *tss.Operation) { j.SessionID += "0" }},
		"another attempt":   {tss.OperationSign, func(j *tss.Operation) { j.Attempt++ }},
		"another operation": {"PROVISION", func(j *tss.Operation) { j.Kind = "BACKUP" }},
		"another purpose":   {"PROVISION", func(j *tss.Operation) { j.Purpose = tss.Backup }},
	} {
		for p := range 2 {
			d := newDevice(x.operation, s, tss.Ed25519)
			for _, j := range d.operations {
				j.Payload = []byte("x")
			}
			if x.operation == tss.OperationSign {
				d.operations[tss.Server].ShareSetID = ""
			}
			x.change(d.operations[p])
			t.Run(fmt.Sprint(what, " ", tss.Party(p)), func(t *testing.T) { requireNothing(t, d, errTranscript) })
		}
	}
}

// The two sides' MACs differ: a peer without a share of the set cannot send back the MAC that it received.
func TestRow17ReflectedMAC(t *testing.T) {
	t.Parallel()
	s := newDevice("CREATE", nil, tss.Ed25519).makeSet(t)
	for p := range 2 {
		d := newDevice("PROVISION", s, tss.Ed25519)
		theirs := make(chan []byte, 1)
		d.tamper[1-p] = func(x tss.Part) []tss.Part {
			if x.MAC != nil {
				theirs <- x.MAC
			}
			return []tss.Part{x}
		}
		d.tamper[p] = func(x tss.Part) []tss.Part {
			if x.MAC != nil {
				x.MAC = <-theirs
			}
			return []tss.Part{x}
		}
		out, errs := d.run(t.Context())
		require.Nil(t, out[1-p])
		require.ErrorContains(t, errs[1-p], errTranscript, tss.Party(p))
	}
}
