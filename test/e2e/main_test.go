package e2e_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/mpcd/mpcd/internal/server/servertest"
)

func TestMain(m *testing.M) {
	servertest.Main()
	// A logger of one of tss-lib's dependencies, started by its init.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/ipfs/go-log/writer.(*MirrorWriter).logRoutine"))
}
