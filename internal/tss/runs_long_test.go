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

func TestLongJoint(t *testing.T) {
	t.Parallel()
	jointLife(t, tss.Curves()...)
}

func TestLongTamperECDSASigning(t *testing.T) { tamperECDSASigning(t, 1) }

func TestLongCancel(t *testing.T) {
	t.Parallel()
	cancelled(t, tss.Secp256k1, 2, 4)
}

func TestLongTamperEdDSA(t *testing.T) { tamperEdDSA(t, 1) }
