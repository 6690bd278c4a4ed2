package e2e_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"slices"
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
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// snapshot returns everything that a caller can see of alice's wallets.
func (f *stocked) snapshot(t testing.TB, do call) proto.Message {
	t.Helper()
	return done[*pb.ListWalletsResponse](t, do(t, f.Service, alice, &pb.ListWalletsRequest{}))
}

// altered returns h with its share decoded, changed, and encoded again.
func altered(t testing.TB, h held, change func(*tss.Share)) held {
	t.Helper()
	s, err := tss.ParseShare(h.share)
	require.NoError(t, err)
	change(s)
	b, err := s.Encode()
	require.NoError(t, err)
	h.share = b.Reveal()
	return h
}

// with returns h with other share bytes.
func (h held) with(share []byte) held {
	h.share = share
	return h
}

// flipped returns h with one bit of its share flipped, at a byte counted from the end: an Ed25519 share ends with the
// 32 bytes of its secret.
func (h held) flipped(fromEnd int, bit byte) held {
	share := bytes.Clone(h.share)
	share[len(share)-fromEnd] ^= bit
	return h.with(share)
}

// badCase is a request that must be refused, and how.
type badCase struct {
	req    proto.Message
	code   codes.Code
	reason string
	fields []string
	as     *session.Caller // nil: alice
	noHTTP string          // why it cannot be sent over HTTP
}

func invalid(req proto.Message, fields ...string) badCase {
	return badCase{req: req, code: codes.InvalidArgument, reason: "INVALID_ARGUMENT", fields: fields}
}

func malformed(req proto.Message) badCase {
	return badCase{req: req, code: codes.InvalidArgument, reason: "SHARE_MALFORMED"}
}

func mismatch(req proto.Message) badCase {
	return badCase{req: req, code: codes.InvalidArgument, reason: "SHARE_SET_MISMATCH"}
}

func notFound(req proto.Message, reason string) badCase {
	return badCase{req: req, code: codes.NotFound, reason: reason}
}

func notNow(req proto.Message, reason string) badCase {
	return badCase{req: req, code: codes.FailedPrecondition, reason: reason}
}

// edit returns req after a change.
func edit[M proto.Message](req M, change func(M)) M {
	change(req)
	return req
}

// set sets a string field by its name, for tables of field names.
func set(req proto.Message, field, value string) proto.Message {
	m := req.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName(protoreflect.Name(field)), protoreflect.ValueOfString(value))
	return req
}

// uses are the three ways to use a share, each with the share that it takes.
func (f *stocked) uses() map[string]struct {
	right held
	req   func(held) proto.Message
} {
	return map[string]struct {
		right held
		req   func(held) proto.Message
	}{
		"backup":    {f.first, func(h held) proto.Message { return backupReq(h) }},
		"provision": {f.backup, func(h held) proto.Message { return provisionReq(h) }},
		"sign":      {f.first, func(h held) proto.Message { return signReq(h) }},
	}
}

func (f *stocked) badShares(t *testing.T, add func(string, badCase)) {
	random := make([]byte, len(f.first.share))
	_, err := rand.Read(random)
	require.NoError(t, err)
	for use, u := range f.uses() {
		right, req := u.right, u.req
		add(use+"/empty share", malformed(req(right.with([]byte{}))))
		add(use+"/truncated share", malformed(req(right.with(right.share[:len(right.share)-1]))))
		add(use+"/one byte of a share", malformed(req(right.with(right.share[:1]))))
		add(use+"/share with more after it", malformed(req(right.with(append(slices.Clone(right.share), 0)))))
		add(use+"/share of more than 1 MiB", malformed(req(right.with(append(slices.Clone(right.share), make([]byte, 1<<20+1-len(right.share))...)))))
		add(use+"/random share", malformed(req(right.with(random))))
		for at, bit := range map[int]byte{1: 0x01, 16: 0x80, 32: 0x04} {
			add(fmt.Sprintf("%s/bit %#x of secret byte %d", use, bit, at), malformed(req(right.flipped(at, bit))))
		}

		other := map[tss.Purpose]held{tss.Signing: f.unbacked, tss.Backup: f.unbackedBackup}
		sibling := map[tss.Purpose]held{tss.Signing: f.second, tss.Backup: f.pendingBackup}
		var purpose tss.Purpose
		altered(t, right, func(s *tss.Share) { purpose = s.Purpose })
		add(use+"/share of another wallet", mismatch(req(right.with(other[purpose].share))))
		renamed := altered(t, right, func(s *tss.Share) { s.WalletID = f.unbacked.wallet })
		add(use+"/share of another wallet under this one's name", mismatch(req(renamed)))
		add(use+"/share of another set", mismatch(req(altered(t, right, func(s *tss.Share) { s.ShareSetID = sibling[purpose].set }))))
		add(use+"/share of no set", notFound(req(altered(t, right, func(s *tss.Share) { s.ShareSetID = uuid.NewString() })), "SHARE_SET_NOT_FOUND"))
		add(use+"/share with the other purpose's name", mismatch(req(altered(t, right, func(s *tss.Share) { s.Purpose = 3 - s.Purpose }))))
		add(use+"/share of the server", mismatch(req(altered(t, right, func(s *tss.Share) { s.Party = tss.Server }))))
		add(use+"/share with another record", mismatch(req(altered(t, right, func(s *tss.Share) { s.RecordHash[7] ^= 1 }))))
		add(use+"/share with another party key", mismatch(req(altered(t, right, func(s *tss.Share) { s.Keys[0].PartyKey.SetInt64(7) }))))
	}
	add("provision/signing share", mismatch(provisionReq(f.first)))
	add("provision/signing share under a backup's name", mismatch(provisionReq(altered(t, f.first, func(s *tss.Share) { s.Purpose = tss.Backup }))))
	add("backup/backup share", mismatch(backupReq(f.backup)))
	add("sign/backup share", mismatch(signReq(f.backup)))
	add("sign/backup share under a signing share's name", mismatch(signReq(altered(t, f.backup, func(s *tss.Share) { s.Purpose = tss.Signing }))))
	add("provision/no share", invalid(edit(provisionReq(f.backup), func(r *pb.ProvisionWalletRequest) { r.ClientSide = nil }), "backup_share"))
	add("backup/no share", invalid(edit(backupReq(f.first), func(r *pb.BackupWalletRequest) { r.ClientSide = nil }), "signing_share"))
}

func (f *stocked) badStates(add func(string, badCase)) {
	add("provision/with only a pending backup, random share",
		notNow(provisionReq(f.unbacked.with([]byte("random"))), "BACKUP_NOT_FOUND"))
	add("provision/with only a pending backup", notNow(provisionReq(f.unbackedBackup), "BACKUP_NOT_FOUND"))
	add("provision/from a pending set", notNow(provisionReq(f.pendingBackup), "SHARE_SET_PENDING"))
	add("backup/from a pending set", notNow(backupReq(f.pending), "SHARE_SET_PENDING"))
	add("sign/with a pending set", notNow(signReq(f.pending), "SHARE_SET_PENDING"))

	wrongHash := func(r *pb.ConfirmShareSetRequest) { r.ShareSha256 = make([]byte, 32) }
	add("confirm/wrong hash", mismatch(edit(confirmReq(f.pending), wrongHash)))
	add("confirm/wrong hash of an active set", mismatch(edit(confirmReq(f.first), wrongHash)))
	add("confirm/short hash", invalid(edit(confirmReq(f.pending), func(r *pb.ConfirmShareSetRequest) { r.ShareSha256 = r.GetShareSha256()[:31] }), "share_sha256"))
	add("confirm/no hash", invalid(edit(confirmReq(f.pending), func(r *pb.ConfirmShareSetRequest) { r.ShareSha256 = nil }), "share_sha256"))
	add("confirm/unknown set", notFound(edit(confirmReq(f.pending), func(r *pb.ConfirmShareSetRequest) { r.ShareSetId = uuid.NewString() }), "SHARE_SET_NOT_FOUND"))
	add("confirm/set of another wallet", notFound(edit(confirmReq(f.pending), func(r *pb.ConfirmShareSetRequest) {
		r.WalletId = f.unbacked.wallet
	}), "SHARE_SET_NOT_FOUND"))

	add("revoke/unknown set", notFound(edit(revokeReq(f.first), func(r *pb.RevokeShareSetRequest) { r.ShareSetId = uuid.NewString() }), "SHARE_SET_NOT_FOUND"))
	add("revoke/set of another wallet", notFound(edit(revokeReq(f.first), func(r *pb.RevokeShareSetRequest) {
		r.WalletId = f.unbacked.wallet
	}), "SHARE_SET_NOT_FOUND"))
	add("revoke/last signing set", notNow(revokeReq(f.unbacked), "LAST_SHARE_SET"))
	add("revoke/last backup set", notNow(revokeReq(f.backup), "LAST_SHARE_SET"))
	add("revoke/all signing sets by descent", notNow(revokeReq(f.first), "LAST_SHARE_SET"))
	add("revoke/last set, not allowed", badCase{
		req:  edit(revokeReq(f.unbacked), func(r *pb.RevokeShareSetRequest) { r.AllowLast = true }),
		code: codes.PermissionDenied, reason: "PERMISSION_DENIED",
	})
	for what, h := range map[string]held{
		"unknown set":           {f.first.wallet, uuid.NewString(), nil},
		"set of another wallet": {f.unbacked.wallet, f.first.set, nil},
	} {
		c := notFound(releaseReq(h), "SHARE_SET_NOT_FOUND")
		c.as = rootCaller
		add("release/"+what, c)
	}
	add("release/not allowed", badCase{
		req: releaseReq(f.first), code: codes.PermissionDenied, reason: "PERMISSION_DENIED",
	})
	for name, req := range map[string]proto.Message{
		"backup": backupReq(f.first), "provision": provisionReq(f.backup), "sign": signReq(f.first), "confirm": confirmReq(f.pending),
		"revoke": revokeReq(f.second), "release": releaseReq(f.second), "get": &pb.GetWalletRequest{},
	} {
		add(name+"/unknown wallet", notFound(set(req, "wallet_id", uuid.NewString()), "WALLET_NOT_FOUND"))
	}
	add("session/unknown", notFound(&pb.GetSessionRequest{SessionId: uuid.NewString()}, "SESSION_NOT_FOUND"))
}

func (f *stocked) badFields(t *testing.T, add func(string, badCase)) {
	requests := func() map[string]proto.Message {
		return map[string]proto.Message{
			"create": createReq(), "backup": backupReq(f.first), "provision": provisionReq(f.backup), "sign": signReq(f.first),
			"confirm": confirmReq(f.pending), "revoke": revokeReq(f.second), "release": releaseReq(f.second),
			"get": &pb.GetWalletRequest{WalletId: f.first.wallet}, "session": &pb.GetSessionRequest{},
		}
	}
	id := uuid.NewString()
	for rpc, r := range requests() {
		for _, field := range []string{"wallet_id", "request_id", "share_set_id", "session_id"} {
			if r.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field)) == nil {
				continue
			}
			for what, value := range map[string]string{
				"a word": "nonsense", "in braces": "{" + id + "}", "as a URN": "urn:uuid:" + id, "without hyphens": strings.ReplaceAll(id, "-", ""),
				"cut short": id[:35], "with more": id + "0", "with a space": id + " ", "": "",
			} {
				c := invalid(set(requests()[rpc], field, value), field)
				if value == "" && strings.Contains(routes[method0(c.req)], "{"+field+"}") {
					c.noHTTP = "a path without an id is another path"
				}
				add(fmt.Sprintf("%s/%s %s", rpc, field, what), c)
			}
		}
	}

	ecdsa := func(digest []byte) *pb.SignRequest {
		return edit(signReq(f.first), func(r *pb.SignRequest) { r.Curve, r.Payload = pb.Curve_CURVE_SECP256K1, digest })
	}
	add("sign/digest of 31 bytes", invalid(ecdsa(bytes.Repeat([]byte{1}, 31)), "payload"))
	add("sign/digest of 33 bytes", invalid(ecdsa(bytes.Repeat([]byte{1}, 33)), "payload"))
	add("sign/no digest", invalid(ecdsa(nil), "payload"))
	add("sign/digest of zeros", invalid(ecdsa(make([]byte, 32)), "payload"))
	add("sign/digest beyond the order", invalid(ecdsa(bytes.Repeat([]byte{0xff}, 32)), "payload"))
	add("sign/curve that the wallet lacks", invalid(ecdsa(bytes.Repeat([]byte{1}, 32)), "curve"))
	add("sign/message of more than 64 KiB", invalid(edit(signReq(f.first), func(r *pb.SignRequest) { r.Payload = make([]byte, 64<<10+1) }), "payload"))
	for _, curve := range []pb.Curve{0, 3, 99, -1, 258} {
		add(fmt.Sprintf("sign/curve %d", curve), invalid(edit(signReq(f.first), func(r *pb.SignRequest) { r.Curve = curve }), "curve"))
		add(fmt.Sprintf("create/curve %d", curve), invalid(createReq(pb.Curve_CURVE_ED25519, curve), "curves[1]"))
	}
	add("create/a curve twice", invalid(createReq(pb.Curve_CURVE_ED25519, pb.Curve_CURVE_SECP256K1, pb.Curve_CURVE_ED25519), "curves"))
	for _, m := range []pb.BackupMethod{0, 7, 99, -1, 257} {
		add(fmt.Sprintf("backup/method %d", m), invalid(edit(backupReq(f.first), func(r *pb.BackupWalletRequest) { r.BackupMethod = m }), "backup_method"))
	}

	for what, to := range map[string]string{
		"not age": "me", "cut short": "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8", "an identity": secretKey, "an SSH key": "ssh-ed25519 AAAA",
		"a point of small order": smallOrder,
	} {
		for rpc, req := range map[string]proto.Message{"create": createReq(), "backup": backupReq(f.first), "provision": provisionReq(f.backup)} {
			add(rpc+"/seal_to is "+what, invalid(set(req, "seal_to", to), "seal_to"))
		}
	}
	for what, name := range map[string]string{
		"too long": strings.Repeat("a", 257), "with a line end": "a\nb", "with an escape": "\x1b[2J", "with a tab": "a\tb", "with DEL": "a\x7f",
		"with a C1 control": "a\u009b2J", "with a line separator": "a\u2028b", "with a paragraph separator": "a\u2029b", "with a noncharacter": "a\uffff",
		"with a bidi override": "a\u202eb", "with a bidi embedding": "a\u202bb", "with a bidi isolate": "a\u2067b", "with a bidi pop": "a\u2069b",
	} {
		for rpc, req := range map[string]proto.Message{"create": createReq(), "backup": backupReq(f.first), "provision": provisionReq(f.backup)} {
			add(rpc+"/display_name "+what, invalid(set(req, "display_name", name), "display_name"))
		}
		add("create/owner "+what, invalid(set(createReq(), "owner", name), "owner"))
		add("list/owner "+what, invalid(&pb.ListWalletsRequest{Owner: name}, "owner"))
	}
	add("backup/display_name one character too long", invalid(set(backupReq(f.first), "display_name", strings.Repeat("a", 129)), "display_name"))
	add("list/page of 101", invalid(&pb.ListWalletsRequest{PageSize: 101}, "page_size"))
	add("list/page of -1", invalid(&pb.ListWalletsRequest{PageSize: -1}, "page_size"))
	add("list/bad page_token", invalid(&pb.ListWalletsRequest{PageToken: "next"}, "page_token"))
	for what, token := range map[string]string{
		"of an earlier release": f.first.wallet,
		"in capitals":           "1760000000000000." + strings.ToUpper(f.first.wallet),
		"of no time":            "." + f.first.wallet,
		"of a time with a sign": "+1760000000000000." + f.first.wallet,
		"of no wallet":          "1760000000000000.",
	} {
		add("list/page_token "+what, invalid(&pb.ListWalletsRequest{PageToken: token}, "page_token"))
	}
	add("sign/no share", malformed(edit(signReq(f.first), func(r *pb.SignRequest) { r.SigningShare = nil })))
	add("sign/everything at once", invalid(&pb.SignRequest{WalletId: "a", RequestId: "b"}, "wallet_id", "request_id", "curve"))
	add("provision/everything at once", invalid(&pb.ProvisionWalletRequest{WalletId: "a", SealTo: "b", DisplayName: "\n"},
		"wallet_id", "request_id", "seal_to", "display_name", "backup_share"))

	instance := uuid.NewString()
	add("create/device without an instance", invalid(edit(createReq(), func(r *pb.CreateWalletRequest) {
		r.ClientSide = &pb.CreateWalletRequest_Device{Device: &pb.DeviceSide{}}
	}), "device.instance"))
	add("create/device with a set", invalid(edit(createReq(), func(r *pb.CreateWalletRequest) {
		r.ClientSide = &pb.CreateWalletRequest_Device{Device: &pb.DeviceSide{Instance: instance, ShareSetId: f.first.set}}
	}), "device.share_set_id"))
	add("backup/device with nothing", invalid(edit(backupReq(f.first), func(r *pb.BackupWalletRequest) {
		r.ClientSide = &pb.BackupWalletRequest_Device{Device: &pb.DeviceSide{}}
	}), "device.instance", "device.share_set_id"))
	withDevice := func(set string) *pb.ProvisionWalletRequest {
		return edit(provisionReq(f.backup), func(r *pb.ProvisionWalletRequest) {
			r.ClientSide = &pb.ProvisionWalletRequest_Device{Device: &pb.DeviceSide{Instance: instance, ShareSetId: set}}
		})
	}
	add("provision/device with seal_to", invalid(set(withDevice(f.backup.set), "seal_to", recipient(t)), "seal_to"))
	add("provision/device with a signing set", badCase{req: withDevice(f.first.set), code: codes.InvalidArgument, reason: "SHARE_SET_MISMATCH"})
	add("provision/device with no such set", badCase{req: withDevice(uuid.NewString()), code: codes.NotFound, reason: "SHARE_SET_NOT_FOUND"})
	add("sign/device missing", invalid(&pb.SignWithDeviceRequest{
		WalletId: f.first.wallet, RequestId: uuid.NewString(), Curve: pb.Curve_CURVE_ED25519, Payload: []byte("x"),
	}, "device"))
	add("messages/none", invalid(&pb.SendMessagesRequest{SessionId: uuid.NewString(), Instance: instance}, "messages"))
	add("messages/no such session", badCase{
		req:  &pb.SendMessagesRequest{SessionId: uuid.NewString(), Instance: instance, Messages: []*pb.ProtocolMessage{{Sequence: 1, Mac: []byte("x")}}},
		code: codes.NotFound, reason: "SESSION_NOT_FOUND",
	})
}

// smallOrder is an age recipient with u = 0: every key agreement with it yields zero, which age rejects, but only
// when it encrypts.
const smallOrder = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z"

var secretKey = func() string {
	k, err := age.GenerateX25519Identity()
	if err != nil {
		panic(err)
	}
	return k.String()
}()

// method0 is the name of the RPC that takes req.
func method0(req proto.Message) protoreflect.Name {
	return protoreflect.Name(strings.TrimSuffix(string(req.ProtoReflect().Descriptor().Name()), "Request"))
}

// rootCaller is an admin of all wallets without other scopes.
var rootCaller = &session.Caller{Name: "root", Scopes: []session.Scope{session.ScopeAdmin}}

func (f *stocked) badWithRevoked(add func(string, badCase)) {
	revoked, revokedBackup := f.second, f.pendingBackup
	add("provision/from a revoked set", notNow(provisionReq(revokedBackup), "SHARE_SET_REVOKED"))
	add("backup/from a revoked set", notNow(backupReq(revoked), "SHARE_SET_REVOKED"))
	add("sign/with a revoked set", notNow(signReq(revoked), "SHARE_SET_REVOKED"))
	release := notNow(releaseReq(revoked), "SHARE_SET_REVOKED")
	release.as = rootCaller
	add("release/a revoked set", release)
	// The state of a set is not revealed without its share.
	add("sign/with a forged share of a revoked set", malformed(signReq(revoked.flipped(1, 1))))
	add("confirm/revoked set", notNow(confirmReq(revoked), "SHARE_SET_REVOKED"))
	add("confirm/wrong hash of a revoked set", mismatch(edit(confirmReq(revoked), func(r *pb.ConfirmShareSetRequest) { r.ShareSha256 = make([]byte, 32) })))
}

// Invalid requests of every kind over both transports: each gets a status with a reason and the fields at fault,
// leaves no trace, and the service continues to work.
func TestBadInput(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]*stocked{"all alive": start(t, servertest.Config{}), "some revoked": start(t, servertest.Config{})} {
		t.Run(name, func(t *testing.T) {
			cases := map[string]badCase{}
			add := func(name string, c badCase) {
				require.NotContains(t, cases, name)
				cases[name] = c
			}
			good := []held{f.first}
			if name == "some revoked" {
				confirm(t, f.Service, f.pendingBackup)
				revoke(t, f.Service, f.pendingBackup)
				revoke(t, f.Service, f.second)
				f.badWithRevoked(add)
			} else {
				f.badShares(t, add)
				f.badStates(add)
				f.badFields(t, add)
				require.Greater(t, len(cases), 200)
				good = append(good, f.second)
			}
			f.checkAll(t, cases, good)
		})
	}
}

func (f *stocked) checkAll(t *testing.T, cases map[string]badCase, good []held) {
	before := f.snapshot(t, overGRPC)
	t.Run("case", func(t *testing.T) {
		for name, c := range cases {
			for transport, do := range transports {
				t.Run(name+"/"+transport, func(t *testing.T) {
					t.Parallel()
					if transport == "HTTP" && c.noHTTP != "" {
						return // see c.noHTTP
					}
					f.check(t, c, transport, do)
				})
			}
		}
	})
	require.True(t, proto.Equal(before, f.snapshot(t, overGRPC)), "something changed")
	for _, h := range good {
		for _, do := range transports {
			done[*pb.SignResponse](t, do(t, f.Service, alice, signReq(h)))
		}
	}
}

func (f *stocked) check(t *testing.T, c badCase, transport string, do call) {
	as := c.as
	if as == nil {
		as = alice
	}
	a := do(t, f.Service, as, c.req)
	refused(t, a, c.code, c.reason, c.fields...)
	require.Empty(t, a.messages, "it was refused before any work started")
	if transport == "HTTP" {
		require.Equal(t, httpCodes[c.code], a.code)
	}
	if id := c.req.ProtoReflect().Descriptor().Fields().ByName("request_id"); id != nil {
		_, err := f.Store.ByRequest(t.Context(), as.Name, c.req.ProtoReflect().Get(id).String())
		require.ErrorIs(t, err, session.ErrSessionNotFound, "no session was recorded")
	}
}

// Every flipped bit of a share is detected.
func TestAlteredShareIsRefused(t *testing.T) {
	t.Parallel()
	f := start(t, servertest.Config{})
	before := wallet(t, f.Service, f.unbacked.wallet)
	for i := 0; i < len(f.unbacked.share); i += 7 {
		a := overGRPC(t, f.Service, alice, signReq(f.unbacked.flipped(len(f.unbacked.share)-i, 1<<(i%8))))
		require.Contains(t, []codes.Code{codes.InvalidArgument, codes.NotFound}, a.status.Code(), "byte %d: %v", i, a.status)
		got, _ := info(t, a.status)
		require.Contains(t, []string{"SHARE_MALFORMED", "SHARE_SET_MISMATCH", "SHARE_SET_NOT_FOUND"}, got.GetReason(), "byte %d", i)
	}
	require.True(t, proto.Equal(before, wallet(t, f.Service, f.unbacked.wallet)))
}
