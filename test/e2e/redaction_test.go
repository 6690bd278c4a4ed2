package e2e_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/leaks"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// leaksNothing searches the log and every file of a service that has ended for shares.
func leaksNothing(t testing.TB, s *servertest.Parts, shares ...[]byte) {
	t.Helper()
	log := s.Log.String()
	require.Contains(t, log, "finished call", "there is something to look through")
	files := map[string][]byte{"the log": []byte(log)}
	require.NoError(t, filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[path], err = os.ReadFile(path)
		return err
	}))
	require.GreaterOrEqual(t, len(files), 2)
	for name, text := range files {
		for i, share := range shares {
			require.Empty(t, leaks.Find(text, share), "share %d in %s", i, name)
		}
	}
}

// Shares are in neither the log nor any file of a service, whatever happens: successful runs, refusals, aborts and
// panics, at debug level, over both transports.
func TestSharesAreNeitherLoggedNorStored(t *testing.T) {
	t.Parallel()
	fault := make(chan func(context.Context) error, 1)
	s := start(t, servertest.Config{Wrap: func(p *session.Ports) {
		p.Custodian = &servertest.Custodian{Custodian: p.Custodian, BeforeFetch: func(ctx context.Context) error {
			select {
			case f := <-fault:
				return f(ctx)
			default:
				return nil
			}
		}}
	}})
	fresh := made(t, overHTTP(t, s.Service, alice, provisionReq(s.backup)), s.backup.wallet)
	done[*pb.SignResponse](t, overHTTP(t, s.Service, alice, signReq(s.first)))
	for _, do := range transports {
		refused(t, do(t, s.Service, alice, signReq(fresh)), codes.FailedPrecondition, "SHARE_SET_PENDING")
		refused(t, do(t, s.Service, alice, signReq(s.backup)), codes.InvalidArgument, "SHARE_SET_MISMATCH")
		refused(t, do(t, s.Service, alice, signReq(s.first.flipped(1, 1))), codes.InvalidArgument, "SHARE_MALFORMED")
		refused(t, do(t, s.Service, alice, signReq(s.first.with(s.first.share[1:]))), codes.InvalidArgument, "SHARE_MALFORMED")
		refused(t, do(t, s.Service, &session.Caller{Name: "stranger"}, signReq(s.first)), codes.NotFound, "WALLET_NOT_FOUND")
		fault <- func(context.Context) error { panic(append([]byte("a panic with "), s.backup.share...)) }
		refused(t, do(t, s.Service, alice, provisionReq(s.backup)), codes.Internal, "INTERNAL")
		fault <- func(context.Context) error { return errors.New("the custodian's disk is full") }
		refused(t, do(t, s.Service, alice, provisionReq(s.backup)), codes.Internal, "INTERNAL")
	}
	s.Log.Wait(t, "the custodian's disk is full") // causes are logged
	confirm(t, s.Service, fresh)
	s.Stop()
	leaksNothing(t, s.Parts, s.first.share, s.backup.share, s.pending.share, fresh.share)

	// A control: the search finds shares in whatever contains them.
	asJSON, err := protojson.Marshal(provisionReq(s.backup))
	require.NoError(t, err)
	for name, text := range map[string]string{
		"raw": "xx" + string(s.backup.share) + "yy", "hex": hex.EncodeToString(s.backup.share[7:]), "JSON": string(asJSON),
		"decimal": "xi=" + new(big.Int).SetBytes(s.backup.share[len(s.backup.share)-32:]).String(), "as bytes": fmt.Sprintf("%d", s.backup.share),
	} {
		require.NotEmpty(t, leaks.Find([]byte(text), s.backup.share), name)
		require.Empty(t, leaks.Find([]byte(text), fresh.share), name)
	}
}
