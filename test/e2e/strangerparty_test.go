package e2e_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/bnb-chain/tss-lib/v2/common"
	"github.com/bnb-chain/tss-lib/v2/crypto"
	"github.com/bnb-chain/tss-lib/v2/crypto/paillier"
	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edresharing "github.com/bnb-chain/tss-lib/v2/eddsa/resharing"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/fxamacker/cbor/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
)

func tssCurve(c pb.Curve) elliptic.Curve {
	if c == pb.Curve_CURVE_SECP256K1 {
		return lib.S256()
	}
	return lib.Edwards()
}

// strangerTSS is this side's part in one of tss-lib's protocols on one curve. It runs no goroutines: tss-lib computes
// inside Start and Update, and writes to out, which has capacity for everything a run emits.
type strangerTSS struct {
	t       *testing.T
	curve   pb.Curve
	parties []*strangerParty
	out     chan lib.Message
	emit    func(curve pb.Curve, payload []byte, private bool)
	ended   func() bool
	keep    func(*strangerRun)
}

// strangerParty is one tss-lib party. In a resharing each side has two, in different committees; each refers to all
// parties by its own ids.
type strangerParty struct {
	lib.Party
	committee string
	ids       map[string]strangerIDs
}

// strangerIDs are the ids of one committee's two parties.
type strangerIDs struct {
	ours, theirs *lib.PartyID
	sorted       lib.SortedPartyIDs
}

func newStrangerIDs(ours, theirs *big.Int) strangerIDs {
	a, b := lib.NewPartyID("client", "client", ours), lib.NewPartyID("server", "server", theirs)
	return strangerIDs{a, b, lib.SortPartyIDs(lib.UnSortedPartyIDs{a, b})}
}

func (ids strangerIDs) parameters(c pb.Curve) *lib.Parameters {
	return lib.NewParameters(tssCurve(c), lib.NewPeerContext(ids.sorted), ids.ours, 2, 1)
}

// committees has the sender's and receivers' committees of each message of a resharing, which the wire format leaves
// out. Names are without their packages; those of both curves are here.
var committees = map[protoreflect.Name]struct{ from, to string }{
	"DGRound1Message":  {"old", "new"},
	"DGRound2Message":  {"new", "old"}, // of ED25519
	"DGRound2Message1": {"new", "new"},
	"DGRound2Message2": {"new", "old"},
	"DGRound3Message1": {"old", "new"},
	"DGRound3Message2": {"old", "new"},
	"DGRound4Message":  {"new", "old new"}, // of ED25519
	"DGRound4Message1": {"new", "new"},
	"DGRound4Message2": {"new", "old new"},
}

// between returns the committees of a message's sender and receivers.
func between(name protoreflect.Name) (from, to string) {
	if c, ok := committees[name]; ok {
		return c.from, c.to
	}
	return "only", "only"
}

func (s *strangerTSS) start() {
	for _, p := range s.parties {
		s.check(p.Start())
	}
	s.pump()
}

// take handles a message of the service.
func (s *strangerTSS) take(payload []byte, private bool) {
	s.deliver(payload, private, nil)
	s.pump()
}

// deliver passes a message to those of our parties that it is for. from is our own party that sent it, or nil for the
// service's.
func (s *strangerTSS) deliver(payload []byte, private bool, from *strangerParty) {
	var message anypb.Any
	require.NoError(s.t, proto.Unmarshal(payload, &message))
	sender, to := between(message.MessageName().Name())
	for _, p := range s.parties {
		if p == from || !strings.Contains(to, p.committee) {
			continue
		}
		id := p.ids[sender].theirs
		if from != nil {
			id = p.ids[sender].ours
		}
		parsed, err := lib.ParseWireMessage(payload, id, !private)
		require.NoError(s.t, err)
		_, failure := p.Update(parsed)
		s.check(failure)
	}
}

// pump delivers what our parties emit, until they wait again. Messages from our old party to our new one stay here.
func (s *strangerTSS) pump() {
	for len(s.out) > 0 {
		m := <-s.out
		payload, routing, err := m.WireBytes()
		require.NoError(s.t, err)
		private := !routing.IsBroadcast
		stays := private && s.party(m.GetTo()[0]) != nil
		if stays || !private {
			s.deliver(payload, private, s.party(m.GetFrom()))
		}
		if !stays {
			s.emit(s.curve, payload, private)
		}
	}
}

// party returns our party with that id, or nil.
func (s *strangerTSS) party(id *lib.PartyID) *strangerParty {
	for _, p := range s.parties {
		if bytes.Equal(p.PartyID().GetKey(), id.GetKey()) {
			return p
		}
	}
	return nil
}

func (s *strangerTSS) check(err *lib.Error) {
	if err != nil { // a nil *Error in an error is not nil
		require.NoError(s.t, err.Cause(), "round %d", err.Round())
		require.Fail(s.t, "tss-lib failed", "round %d", err.Round())
	}
}

// parties creates our parties for the run's i-th curve.
func (r *strangerRun) parties(i int) *strangerTSS {
	curve := r.curves[i]
	s := &strangerTSS{t: r.t, curve: curve, out: make(chan lib.Message, 64), emit: r.emit}
	secp := curve == pb.Curve_CURVE_SECP256K1
	switch {
	case r.operation == "SIGN":
		ours, theirs := r.from.partyKeys(curve)
		r.signers(s, newStrangerIDs(ours, theirs))
	case r.from == nil && secp:
		r.keygenSECP256K1(s, r.newIDs(i))
	case r.from == nil:
		r.keygenED25519(s, r.newIDs(i))
	case secp:
		r.reshareSECP256K1(s, i)
	default:
		r.reshareED25519(s, i)
	}
	return s
}

// newIDs returns the ids of the new set: both hellos contain their parties' keys.
func (r *strangerRun) newIDs(i int) strangerIDs {
	at := func(x *pb.Hello) *big.Int { return new(big.Int).SetBytes(x.GetPartyKeys()[32*i : 32*(i+1)]) }
	return newStrangerIDs(at(r.hello), at(r.peer))
}

func (s *strangerTSS) only(p lib.Party, ids strangerIDs) {
	s.parties = []*strangerParty{{Party: p, committee: "only", ids: map[string]strangerIDs{"only": ids}}}
}

func (r *strangerRun) keygenSECP256K1(s *strangerTSS, ids strangerIDs) {
	end := make(chan *eckeygen.LocalPartySaveData, 1)
	s.only(eckeygen.NewLocalParty(ids.parameters(s.curve), s.out, end, *r.preParams()), ids)
	s.ended = func() bool { return len(end) == 1 }
	s.keep = func(r *strangerRun) { r.made.SECP256K1 = <-end }
}

func (r *strangerRun) keygenED25519(s *strangerTSS, ids strangerIDs) {
	end := make(chan *edkeygen.LocalPartySaveData, 1)
	s.only(edkeygen.NewLocalParty(ids.parameters(s.curve), s.out, end), ids)
	s.ended = func() bool { return len(end) == 1 }
	s.keep = func(r *strangerRun) { r.made.ED25519 = <-end }
}

// place returns the ids and parameters of one of our two parties in a resharing.
func (r *strangerRun) place(s *strangerTSS, i int, committee string) (*strangerParty, *lib.ReSharingParameters) {
	ours, theirs := r.from.partyKeys(s.curve)
	ids := map[string]strangerIDs{"old": newStrangerIDs(ours, theirs), "new": r.newIDs(i)}
	p := &strangerParty{committee: committee, ids: ids}
	s.parties = append(s.parties, p)
	return p, lib.NewReSharingParameters(tssCurve(s.curve), lib.NewPeerContext(ids["old"].sorted), lib.NewPeerContext(ids["new"].sorted), ids[committee].ours, 2, 1, 2, 1)
}

// The old party gets its own copy of the share, since it zeroes it at its end; the new one only fresh pre-params. The
// old one's save data is not used.
func (r *strangerRun) reshareSECP256K1(s *strangerTSS, i int) {
	oldEnd, newEnd := make(chan *eckeygen.LocalPartySaveData, 1), make(chan *eckeygen.LocalPartySaveData, 1)
	p, params := r.place(s, i, "old")
	p.Party = ecresharing.NewLocalParty(params, *r.decode(r.source).SECP256K1, s.out, oldEnd)
	p, params = r.place(s, i, "new")
	empty := eckeygen.NewLocalPartySaveData(2)
	empty.LocalPreParams = *r.preParams()
	p.Party = ecresharing.NewLocalParty(params, empty, s.out, newEnd)
	s.ended = func() bool { return len(oldEnd)+len(newEnd) == 2 }
	s.keep = func(r *strangerRun) {
		r.made.SECP256K1 = <-newEnd
		require.Equal(s.t, r.from.publicKey(s.curve), r.made.publicKey(s.curve))
	}
}

func (r *strangerRun) reshareED25519(s *strangerTSS, i int) {
	oldEnd, newEnd := make(chan *edkeygen.LocalPartySaveData, 1), make(chan *edkeygen.LocalPartySaveData, 1)
	p, params := r.place(s, i, "old")
	p.Party = edresharing.NewLocalParty(params, *r.decode(r.source).ED25519, s.out, oldEnd)
	p, params = r.place(s, i, "new")
	p.Party = edresharing.NewLocalParty(params, edkeygen.NewLocalPartySaveData(2), s.out, newEnd)
	s.ended = func() bool { return len(oldEnd)+len(newEnd) == 2 }
	s.keep = func(r *strangerRun) {
		r.made.ED25519 = <-newEnd
		require.Equal(s.t, r.from.publicKey(s.curve), r.made.publicKey(s.curve))
	}
}

func (r *strangerRun) signers(s *strangerTSS, ids strangerIDs) {
	end := make(chan *common.SignatureData, 1)
	m := new(big.Int).SetBytes(r.payload)
	if s.curve == pb.Curve_CURVE_SECP256K1 {
		s.only(ecsigning.NewLocalParty(m, ids.parameters(s.curve), *r.from.SECP256K1, s.out, end, len(r.payload)), ids)
	} else {
		s.only(edsigning.NewLocalParty(m, ids.parameters(s.curve), *r.from.ED25519, s.out, end, len(r.payload)), ids)
	}
	s.ended = func() bool { return len(end) == 1 }
	s.keep = func(r *strangerRun) { r.signature = (<-end).GetSignature() }
}

// strangerShare is what the stranger stores, as JSON: tss-lib's own save data, and the set's record. The SDK stores
// something else; the service requires neither.
type strangerShare struct {
	WalletID, ShareSetID string
	Record               []byte
	SECP256K1            *eckeygen.LocalPartySaveData `json:",omitempty"`
	ED25519              *edkeygen.LocalPartySaveData `json:",omitempty"`
}

// decode decodes a share anew for each run, since tss-lib modifies its input.
func (s *stranger) decode(encoded []byte) *strangerShare {
	out := new(strangerShare)
	require.NoError(s.t, json.Unmarshal(encoded, out))
	return out
}

func (x *strangerShare) curves() (out []pb.Curve) {
	if x.SECP256K1 != nil {
		out = append(out, pb.Curve_CURVE_SECP256K1)
	}
	if x.ED25519 != nil {
		out = append(out, pb.Curve_CURVE_ED25519)
	}
	return out
}

// values returns what both curves' save data have in common.
func (x *strangerShare) values(c pb.Curve) (xi, own *big.Int, keys []*big.Int, points []*crypto.ECPoint, public *crypto.ECPoint) {
	if c == pb.Curve_CURVE_SECP256K1 {
		d := x.SECP256K1
		return d.Xi, d.ShareID, d.Ks, d.BigXj, d.ECDSAPub
	}
	d := x.ED25519
	return d.Xi, d.ShareID, d.Ks, d.BigXj, d.EDDSAPub
}

func (x *strangerShare) publicKey(c pb.Curve) []byte {
	_, _, _, _, public := x.values(c)
	return encodePoint(c, public)
}

// sides returns the indices of both parties in tss-lib's vectors, which are in the order of the keys.
func (x *strangerShare) sides(c pb.Curve) (ours, theirs int) {
	_, own, keys, _, _ := x.values(c)
	ours = slices.IndexFunc(keys, func(k *big.Int) bool { return k.Cmp(own) == 0 })
	return ours, 1 - ours
}

func (x *strangerShare) partyKeys(c pb.Curve) (ours, theirs *big.Int) {
	_, _, keys, _, _ := x.values(c)
	i, j := x.sides(c)
	return keys[i], keys[j]
}

// shared returns what only the two sides of a set can compute: our share times their point, on the set's first curve.
func (x *strangerShare) shared() []byte {
	c := x.curves()[0]
	xi, _, _, points, _ := x.values(c)
	_, theirs := x.sides(c)
	return encodePoint(c, points[theirs].ScalarMult(new(big.Int).Mod(xi, tssCurve(c).Params().N)))
}

// prove signs a digest with our share of the set's first curve: ECDSA with low s, or Ed25519 with the share as the
// scalar. The nonce may be derived or random: the service cannot tell. tss-lib's points and big numbers, used here,
// are not constant-time; a client on a phone should use others that are.
func (x *strangerShare) prove(digest []byte) []byte {
	c := x.curves()[0]
	curve := tssCurve(c)
	q := curve.Params().N
	xi, _, _, points, _ := x.values(c)
	xi = new(big.Int).Mod(xi, q)
	if c == pb.Curve_CURVE_SECP256K1 {
		sig := ecdsa.Sign(secp256k1.PrivKeyFromBytes(xi.FillBytes(make([]byte, 32))), digest)
		r, s := sig.R(), sig.S()
		rb, sb := r.Bytes(), s.Bytes()
		return slices.Concat(rb[:], sb[:])
	}
	ours, _ := x.sides(c)
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails
	nonce := littleEndian(sha512.Sum512(slices.Concat(random, xi.FillBytes(make([]byte, 32)), digest)))
	nonce.Mod(nonce, q)
	commitment := encodePoint(c, crypto.ScalarBaseMult(curve, nonce))
	challenge := littleEndian(sha512.Sum512(slices.Concat(commitment, encodePoint(c, points[ours]), digest)))
	s := challenge.Mul(challenge, xi)
	s.Mod(s.Add(s, nonce), q)
	b := s.FillBytes(make([]byte, 32))
	slices.Reverse(b)
	return append(commitment, b...)
}

func littleEndian(b [64]byte) *big.Int {
	slices.Reverse(b[:])
	return new(big.Int).SetBytes(b[:])
}

// record encodes the set's public values, as specified in docs/adr/0001.
func (x *strangerShare) record(t *testing.T, operation string) []byte {
	t.Helper()
	purpose := pb.Purpose_PURPOSE_SIGNING
	if operation == "BACKUP" {
		purpose = pb.Purpose_PURPOSE_BACKUP
	}
	wallet, set := uuid.MustParse(x.WalletID), uuid.MustParse(x.ShareSetID)
	var keys []any
	for _, c := range x.curves() {
		ours, theirs := x.sides(c)
		parties := []any{x.party(c, ours), x.party(c, theirs)}
		keys = append(keys, map[int]any{1: c, 2: x.publicKey(c), 3: parties})
	}
	mode, err := cbor.CoreDetEncOptions().EncMode()
	require.NoError(t, err)
	b, err := mode.Marshal(map[int]any{0: "mpcd record", 1: 1, 2: wallet[:], 3: set[:], 4: purpose, 5: keys})
	require.NoError(t, err)
	return b
}

// party returns the public values of one party, by its index in tss-lib's vectors.
func (x *strangerShare) party(c pb.Curve, i int) map[int]any {
	_, _, keys, points, _ := x.values(c)
	out := map[int]any{1: keys[i].FillBytes(make([]byte, 32)), 2: encodePoint(c, points[i])}
	if d := x.SECP256K1; c == pb.Curve_CURVE_SECP256K1 {
		for k, n := range map[int]*big.Int{3: d.PaillierPKs[i].N, 4: d.NTildej[i], 5: d.H1j[i], 6: d.H2j[i]} {
			out[k] = n.FillBytes(make([]byte, 256))
		}
	}
	return out
}

// encodePoint encodes as SEC1 uncompressed, or RFC 8032.
func encodePoint(c pb.Curve, p *crypto.ECPoint) []byte {
	if c == pb.Curve_CURVE_SECP256K1 {
		return elliptic.Marshal(lib.S256(), p.X(), p.Y()) //nolint:staticcheck // crypto/ecdh does not have the curve
	}
	out := p.Y().FillBytes(make([]byte, 32))
	slices.Reverse(out)
	out[31] |= byte(p.X().Bit(0)) << 7
	return out
}

// preParams builds the next of the committed pre-params from its numbers. The service uses the same list: the
// stranger begins at the other end, and neither reaches the middle.
func (s *stranger) preParams() *eckeygen.LocalPreParams {
	all, err := os.ReadFile("../../internal/tss/tsstest/preparams.txt")
	require.NoError(s.t, err)
	lines := strings.Fields(string(all))
	s.used++
	encoded, err := hex.DecodeString(lines[len(lines)-s.used])
	require.NoError(s.t, err)
	var fields map[int]cbor.RawMessage
	require.NoError(s.t, cbor.Unmarshal(encoded, &fields))
	var x [10]*big.Int
	for i := 2; i < len(x); i++ {
		var b []byte
		require.NoError(s.t, cbor.Unmarshal(fields[i], &b))
		x[i] = new(big.Int).SetBytes(b)
	}
	one := big.NewInt(1)
	double := func(p *big.Int) *big.Int { return new(big.Int).Add(new(big.Int).Lsh(p, 1), one) }
	p1, q1 := new(big.Int).Sub(x[2], one), new(big.Int).Sub(x[3], one)
	phi := new(big.Int).Mul(p1, q1)
	return &eckeygen.LocalPreParams{
		PaillierSK: &paillier.PrivateKey{
			PublicKey: paillier.PublicKey{N: new(big.Int).Mul(x[2], x[3])},
			PhiN:      phi, LambdaN: new(big.Int).Div(phi, new(big.Int).GCD(nil, nil, p1, q1)), P: x[2], Q: x[3],
		},
		NTildei: new(big.Int).Mul(double(x[4]), double(x[5])),
		P:       x[4], Q: x[5], H1i: x[6], H2i: x[7], Alpha: x[8], Beta: x[9],
	}
}
