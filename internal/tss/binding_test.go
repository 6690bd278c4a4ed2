package tss_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/tss"
)

const sawOther = "the two sides did not see the same run"

// requireNothing wants both sides of a run to end with nothing, the first to notice with an
// error that says why.
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

// tss-lib.md, row 17: nothing of tss-lib's binds an Ed25519 run to the session, and little
// an ECDSA run. Two sides that are in different ones have nothing in the end, although
// every message was good.
func TestRow17Session(t *testing.T) {
	t.Parallel()
	s := newDevice("CREATE", nil, tss.Ed25519).made(t)
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
			for _, j := range d.joints {
				j.Payload = []byte("x")
			}
			if x.operation == tss.OperationSign {
				d.joints[tss.Server].ShareSetID = ""
			}
			x.change(d.joints[p])
			t.Run(fmt.Sprint(what, " ", tss.Party(p)), func(t *testing.T) { requireNothing(t, d, sawOther) })
		}
	}
}

// Each side's word on the run is its own: a peer without the key of the set, which sends
// back what it got, does not pass for the other side.
func TestRow17ReflectedMAC(t *testing.T) {
	t.Parallel()
	s := newDevice("CREATE", nil, tss.Ed25519).made(t)
	for p := range 2 {
		d := newDevice("PROVISION", s, tss.Ed25519)
		theirs := make(chan []byte, 1)
		d.meddle[1-p] = func(x tss.Part) []tss.Part {
			if x.MAC != nil {
				theirs <- x.MAC
			}
			return []tss.Part{x}
		}
		d.meddle[p] = func(x tss.Part) []tss.Part {
			if x.MAC != nil {
				x.MAC = <-theirs
			}
			return []tss.Part{x}
		}
		out, errs := d.run(t.Context())
		require.Nil(t, out[1-p])
		require.ErrorContains(t, errs[1-p], sawOther, tss.Party(p))
	}
}
