//go:build long

package client_test

import "testing"

func TestLongImpostor(t *testing.T) { impostors(t, 1) }
