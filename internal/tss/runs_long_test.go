//go:build long

package tss_test

import (
	"testing"

	"github.com/mpcd/mpcd/internal/tss"
)

func TestLongLifeOfAKey(t *testing.T) {
	t.Parallel()
	lifeOfAKey(t, tss.Secp256k1)
}

func TestLongOperation(t *testing.T) {
	t.Parallel()
	operationLife(t, tss.Curves()...)
}

func TestLongTamperECDSASigning(t *testing.T) { tamperECDSASigning(t, 1) }

func TestLongCancel(t *testing.T) {
	t.Parallel()
	cancelled(t, tss.Secp256k1, 2, 4)
}

func TestLongTamperEdDSA(t *testing.T) { tamperEdDSA(t, 1) }

func TestLongTamperECDSA(t *testing.T) { tamperECDSA(t, "dlnproof_1", "modProof", "share") }

func TestLongRow15EveryEntry(t *testing.T) {
	t.Parallel()
	everyEntry(t, subjects(tss.Secp256k1)[:2]...)
}

func TestLongOperationTampering(t *testing.T) {
	t.Parallel()
	operationTampering(t, 1)
}
