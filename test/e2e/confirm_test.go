package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/server/servertest"
)

// A caller that confirms with a hash of something else is told what it is of.
func TestConfirmWithAnotherHash(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{})
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	req := createReq()
	req.SealTo = key.Recipient().String()
	sealed := made(t, overGRPC(t, s, alice, req), "")
	for _, do := range transports {
		again := made(t, do(t, s, alice, req), "")
		require.Equal(t, sealed, again, "an attached caller gets the same age file")
	}
	r, err := age.Decrypt(bytes.NewReader(sealed.share), key)
	require.NoError(t, err)
	plain, err := io.ReadAll(r)
	require.NoError(t, err)
	open := create(t, s)
	text := func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }
	lines := func(b []byte) []byte { // as openssl and MIME have it
		return regexp.MustCompile(".{1,64}").ReplaceAll(text(b), []byte("$0\n"))
	}
	// Hashes of unrecognised data get one sentence, which names likely causes.
	const general = "decrypt the age file first where it was sealed to you, and hash neither that file nor base64 or hex text, with line breaks or without"
	for name, c := range map[string]struct {
		of   held
		hash []byte
		says string
	}{
		"the age file":                 {sealed, sealed.share, "the sealed share, the age file"},
		"the age file's base64":        {sealed, text(sealed.share), "the share's base64 text"},
		"a share's base64":             {open, text(open.share), "the share's base64 text"},
		"another set's share":          {open, plain, "not that of the set's client share"},
		"another set's age file":       {open, sealed.share, "not that of the set's client share"},
		"a plaintext share, in base64": {sealed, text(plain), "not that of the set's client share"},
		"base64 in lines":              {open, lines(open.share), general},
		"base64 and a newline":         {open, append(text(open.share), '\n'), general},
		"hex text":                     {open, []byte(hex.EncodeToString(open.share)), general},
		"nothing":                      {sealed, nil, "not that of the set's client share"},
	} {
		for transport, do := range transports {
			a := do(t, s, alice, confirmReq(c.of.with(c.hash)))
			refused(t, a, codes.InvalidArgument, "SHARE_SET_MISMATCH")
			require.Contains(t, a.status.Message(), c.says, "%s, %s", name, transport)
		}
	}
	confirm(t, s, sealed.with(plain))
	a := overGRPC(t, s, alice, confirmReq(sealed)) // the age file is erased by now
	refused(t, a, codes.InvalidArgument, "SHARE_SET_MISMATCH")
	require.Contains(t, a.status.Message(), general)
	confirm(t, s, sealed.with(plain))
	confirm(t, s, open)
}

// A hash sent as text is distinguished from a truncated one.
func TestConfirmWithAHashInText(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, servertest.Config{})
	h := create(t, s)
	sum := sha256.Sum256(h.share)
	digits := hex.EncodeToString(sum[:])
	asBase64, err := base64.StdEncoding.DecodeString(digits) // how JSON decodes hex
	require.NoError(t, err)
	for sent, says := range map[string]string{
		digits:                         "digits in hex: decode them",
		strings.ToUpper(digits) + "\n": "digits in hex: decode them",
		"0x" + digits:                  "digits in hex: decode them",
		string(asBase64):               "in hex, read as base64: in JSON, send it as base64",
		base64.StdEncoding.EncodeToString(sum[:]):           "its base64 text: decode it, or, in JSON, encode it once",
		base64.RawURLEncoding.EncodeToString(sum[:]) + "\n": "its base64 text: decode it, or, in JSON, encode it once",
		string(sum[:31]):                "these are 31 bytes",
		string(sum[:]) + string(sum[:]): "these are 64 bytes",
	} {
		for _, do := range transports {
			a := do(t, s, alice, &pb.ConfirmShareSetRequest{WalletId: h.wallet, ShareSetId: h.set, ShareSha256: []byte(sent)})
			refused(t, a, codes.InvalidArgument, "INVALID_ARGUMENT", "share_sha256")
			require.Contains(t, a.status.Message(), says)
		}
	}
	confirm(t, s, h)
}

// Which fields a repeated request must repeat, as documented in the proto: all but those about the caller's position
// in the stream.
func TestRepeatedRequestMustMatch(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	one, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	two, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	create := createReq()
	create.SealTo, create.DisplayName = one.Recipient().String(), "phone"
	backup := backupReq(f.first)
	backup.SealTo, backup.DisplayName = one.Recipient().String(), "phone"
	provision := provisionReq(f.backup)
	provision.SealTo, provision.DisplayName = one.Recipient().String(), "phone"
	sign := signReq(f.first)
	type edits map[string]protoreflect.Value // by field; several for one change
	device := func(set string) edits {
		d := &pb.DeviceSide{Instance: uuid.NewString(), ShareSetId: set}
		return edits{"device": protoreflect.ValueOfMessage(d.ProtoReflect()), "seal_to": protoreflect.ValueOfString("")}
	}
	curves := func(all ...pb.Curve) edits {
		r := (&pb.CreateWalletRequest{Curves: all}).ProtoReflect()
		return edits{"curves": r.Mutable(r.Descriptor().Fields().ByName("curves"))}
	}
	text := func(field, s string) edits { return edits{field: protoreflect.ValueOfString(s)} }
	data := func(field, s string) edits { return edits{field: protoreflect.ValueOfBytes([]byte(s))} }
	streams := []edits{text("seal_to", two.Recipient().String()), text("seal_to", ""), text("display_name", "Phone"), text("display_name", "")}
	for name, c := range map[string]struct {
		req    proto.Message
		others []edits
	}{
		"create": {create, append(streams, device(""), curves(pb.Curve_CURVE_SECP256K1, pb.Curve_CURVE_ED25519), curves())},
		"backup": {backup, append(streams, device(f.first.set), text("wallet_id", uuid.NewString()), data("signing_share", "x"),
			edits{"backup_method": protoreflect.ValueOfEnum(pb.BackupMethod_BACKUP_METHOD_CUSTOM.Number())})},
		"provision": {provision, append(streams, device(f.backup.set), text("wallet_id", uuid.NewString()), data("backup_share", "x"))},
		"sign": {sign, []edits{text("wallet_id", uuid.NewString()), data("signing_share", "x"), data("payload", "Hello"), {
			"curve": protoreflect.ValueOfEnum(pb.Curve_CURVE_SECP256K1.Number()), "payload": protoreflect.ValueOfBytes(bytes.Repeat([]byte{1}, 32)),
		}}},
	} {
		want := overGRPC(t, f.Service, alice, c.req)
		require.Equal(t, codes.OK, want.status.Code(), "%s: %s", name, want.status.Message())
		edited := func(e edits) proto.Message {
			m := proto.Clone(c.req)
			for field, v := range e {
				m.ProtoReflect().Set(m.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field)), v)
			}
			return m
		}
		same := []edits{text("request_id", strings.ToUpper(c.req.ProtoReflect().Get(c.req.ProtoReflect().Descriptor().Fields().ByName("request_id")).String()))}
		if name != "sign" {
			same = append(same, edits{"after_sequence": protoreflect.ValueOfUint32(1 << 31)})
		}
		if name == "create" {
			same = append(same, text("owner", alice.Name)) // the same as an empty one
		}
		for transport, do := range transports {
			for _, e := range c.others {
				a := do(t, f.Service, alice, edited(e))
				info, _ := info(t, a.status)
				require.Equal(t, "REQUEST_ID_REUSED", info.GetReason(), "%s, %s: %v", name, transport, e)
			}
			for _, e := range same {
				a := do(t, f.Service, alice, edited(e))
				require.Equal(t, codes.OK, a.status.Code(), "%s, %s: %s", name, transport, a.status.Message())
				require.True(t, proto.Equal(want.messages[len(want.messages)-1], a.messages[len(a.messages)-1]), "%s, %s: %v", name, transport, e)
			}
		}
	}
}
