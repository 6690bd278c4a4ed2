package e2e_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
	"github.com/mpcd/mpcd/internal/session"
)

// Names of real phones and people are returned byte for byte, over both transports, and an owner's wallets are found
// under the name.
func TestNamesComeBackAsTheyWereSent(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{})
	calls := []func(testing.TB, *servertest.Service, *session.Caller, proto.Message) answer{overGRPC, overHTTP}
	for i, name := range []string{
		"iPhone\u00a0de\u00a0Zoé", "\U0001F469\U0001F3FD\u200d\U0001F4BB", "گوشی\u200cهای من", "הטלפון\u200f של \u200eAda", "هاتف\u061c 2",
		"Ada's \uf8ff", "\U0001FAFF\U0001FB00 \U0001FC00", "e\u0301", "\u00e9", // two spellings are two names
		strings.Repeat("電", 128),
	} {
		call := calls[i%2]
		req := createReq()
		req.DisplayName, req.Owner = name, name
		h := made(t, call(t, s, &servertest.Dev, req), "")
		for _, ask := range calls {
			w := done[*pb.GetWalletResponse](t, ask(t, s, &servertest.Dev, &pb.GetWalletRequest{WalletId: h.wallet})).GetWallet()
			require.Equal(t, name, w.GetOwner())
			require.Equal(t, name, w.GetShareSets()[0].GetDisplayName())
			list := done[*pb.ListWalletsResponse](t, ask(t, s, &servertest.Dev, &pb.ListWalletsRequest{Owner: name}))
			require.Len(t, list.GetWallets(), 1, "%q", name)
		}
	}
}

// The length is in characters.
func TestLengthOfNamesIsInCharacters(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{})
	for _, c := range []string{"a", "電", "\U0001F4F1"} {
		long := done[*pb.ListWalletsResponse](t, overHTTP(t, s, &servertest.Dev, &pb.ListWalletsRequest{Owner: strings.Repeat(c, 256)}))
		require.Empty(t, long.GetWallets())
		req := createReq()
		req.Owner, req.DisplayName = strings.Repeat(c, 257), strings.Repeat(c, 129)
		a := overGRPC(t, s, &servertest.Dev, req)
		require.Equal(t, codes.InvalidArgument, a.status.Code())
		require.Contains(t, a.status.Message(), "display_name must have at most 128 characters")
		require.Contains(t, a.status.Message(), "owner must have at most 256 characters")
	}
}
