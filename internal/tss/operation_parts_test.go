package tss

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/secret"
)

// prefixed hashes fields, each preceded by its length, independently of the code under test.
func prefixed(fields ...[]byte) []byte {
	h := sha256.New()
	for _, f := range fields {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(f))))
		h.Write(f)
	}
	return h.Sum(nil)
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// The transcript covers everything that both sides must agree on.
func TestTranscriptHasEveryField(t *testing.T) {
	t.Parallel()
	base := func() *channel {
		return &channel{
			operation: &Operation{
				Party: Client, Kind: OperationSign, SessionID: "session", Attempt: 3, Payload: []byte("payload"),
				Share: &Share{SetID: SetID{ShareSetID: "source"}},
			},
			wallet: "wallet", set: "set", sent: []byte("ours"), received: []byte("theirs"),
		}
	}
	record, payload := sha256.Sum256([]byte("record")), sha256.Sum256([]byte("payload"))
	want := prefixed([]byte(bindLabel), []byte("SIGN"), []byte("session"), be32(3),
		[]byte("wallet"), []byte("source"), []byte("set"), record[:], payload[:], []byte("ours"), []byte("theirs"))
	require.Equal(t, want, base().transcript([]byte("record")))
	other := base() // the other side's view of the same
	other.operation.Party, other.sent, other.received = Server, other.received, other.sent
	require.Equal(t, want, other.transcript([]byte("record")))
	for name, change := range map[string]func(c *channel){
		"operation":      func(c *channel) { c.operation.Kind = "BACKUP" },
		"session":        func(c *channel) { c.operation.SessionID = "Session" },
		"attempt":        func(c *channel) { c.operation.Attempt = 4 },
		"wallet":         func(c *channel) { c.wallet = "Wallet" },
		"source":         func(c *channel) { c.operation.Share = nil },
		"set":            func(c *channel) { c.set = "" },
		"payload":        func(c *channel) { c.operation.Payload = nil },
		"ours":           func(c *channel) { c.sent = nil },
		"theirs":         func(c *channel) { c.received = nil },
		"field boundary": func(c *channel) { c.wallet, c.operation.Share.ShareSetID = "walletsource", "" },
	} {
		c := base()
		change(c)
		require.NotEqual(t, want, c.transcript([]byte("record")), name)
	}
	require.NotEqual(t, want, base().transcript(nil), "record")
	create := base()
	create.operation.Kind = "CREATE"
	before := create.transcript(nil)
	create.operation.Payload = nil
	require.Equal(t, before, create.transcript(nil), "nothing is signed")
}

// A direction's hash covers every field of every part but the MAC.
func TestHashOfADirectionHasEveryField(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	distinct := func(name string, p Part) {
		h := sha256.New()
		p.addTo(h)
		sum := string(h.Sum(nil))
		require.Empty(t, seen[sum], name)
		seen[sum] = name
	}
	distinct("hello", Part{Hello: &Hello{}})
	typ := reflect.TypeFor[Hello]()
	for i := range typ.NumField() {
		h := &Hello{}
		switch f := reflect.ValueOf(h).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		default:
			f.SetBytes([]byte("x"))
		}
		distinct("hello: "+typ.Field(i).Name, Part{Hello: h})
	}
	distinct("message", Part{Message: &Message{}})
	distinct("message: curve", Part{Message: &Message{Curve: Ed25519}})
	distinct("message: private", Part{Message: &Message{Private: true}})
	distinct("message: payload", Part{Message: &Message{Payload: []byte("x")}})
	distinct("end", Part{End: &End{}})
	distinct("end: hash", Part{End: &End{ShareHash: []byte("x")}})
	full := &Hello{
		Nonce: []byte("a"), SessionKey: []byte("b"), PartyKeys: []byte("c"),
		WalletID: "d", ShareSetID: "e", Record: []byte("f"), Proof: []byte("g"),
	}
	h := sha256.New()
	(&Part{Hello: full}).addTo(h)
	want := prefixed([]byte("hello"),
		[]byte("a"), []byte("b"), []byte("c"), []byte("d"), []byte("e"), []byte("f"), []byte("g"))
	require.Equal(t, want, h.Sum(nil))
	h = sha256.New()
	(&Part{Message: &Message{Curve: Ed25519, Private: true, Payload: []byte("x")}}).addTo(h)
	require.Equal(t, prefixed([]byte("message"), []byte{2, 1}, []byte("x")), h.Sum(nil))
	h = sha256.New()
	(&Part{End: &End{ShareHash: []byte("x")}}).addTo(h)
	require.Equal(t, prefixed([]byte("end"), []byte("x")), h.Sum(nil))
}

// A private message is bound to the session, the attempt and the direction.
func TestPrivateInfoHasEveryField(t *testing.T) {
	t.Parallel()
	c := &channel{operation: &Operation{SessionID: "session", Attempt: 3}}
	for _, from := range []Party{Client, Server} {
		want := prefixed([]byte(privateLabel), []byte("session"), be32(3), []byte(from.String()))
		require.Equal(t, want, c.privateInfo(from))
	}
}

// Both parties of a set compute the same two MACs of a transcript, from their Diffie-Hellman secret.
func TestMACOfATranscript(t *testing.T) {
	t.Parallel()
	for _, c := range Curves() {
		rec, both := Vector(t, Signing).Key(t, c)
		point, err := c.mult(both[Client].xi, rec.Parties[Server].BigX)
		require.NoError(t, err)
		for _, transcript := range []string{"one", "two"} {
			for _, of := range []Party{Client, Server} {
				mine, err := mac([]byte(transcript), rec, both[Client], of)
				require.NoError(t, err)
				theirs, err := mac([]byte(transcript), rec, both[Server], of)
				require.NoError(t, err)
				require.True(t, hmac.Equal(mine, theirs))
				key, err := hkdf.Key(sha256.New, c.encodePoint(point), []byte(transcript), "mpcd confirm 2", 32)
				require.NoError(t, err)
				want := hmac.New(sha256.New, key)
				want.Write(slices.Concat(be32(6), []byte(of.String()), be32(3), []byte(transcript)))
				require.Equal(t, want.Sum(nil), mine)
			}
		}
		if c == Ed25519 {
			bad := *rec
			bad.Parties[Server].BigX = offCurve()
			_, err := mac(nil, &bad, both[Client], Client)
			require.ErrorIs(t, err, errPoint)
		}
	}
}

// linkOf is a Link that records the sent parts.
type linkOf struct {
	sent []Part
	err  error
	good int // Send fails with err after this many parts
}

func (l *linkOf) Send(_ context.Context, p Part) error {
	l.sent = append(l.sent, p)
	if len(l.sent) <= l.good {
		return nil
	}
	return l.err
}

func (l *linkOf) Recv(ctx context.Context) (Part, error) {
	<-ctx.Done()
	return Part{}, context.Cause(ctx)
}

// In each direction there is one hello, then messages, then one end, then one MAC.
func TestPartsMustBeInOrder(t *testing.T) {
	t.Parallel()
	hello, end, mac := Part{Hello: &Hello{}}, Part{End: &End{}}, Part{MAC: []byte{1}}
	message := Part{Message: &Message{Curve: Secp256k1}}
	const another = "a message for a curve that is not part of the run"
	for name, x := range map[string]struct {
		parts []Part
		want  string // the error for the last part; empty: it is accepted
	}{
		"a hello":                {[]Part{hello}, ""},
		"an end":                 {[]Part{hello, end}, ""},
		"a MAC":                  {[]Part{hello, end, mac}, ""},
		"a message":              {[]Part{hello, message}, another},
		"a message first":        {[]Part{message}, "out of order"},
		"an end first":           {[]Part{end}, "out of order"},
		"a MAC first":            {[]Part{mac}, "out of order"},
		"two hellos":             {[]Part{hello, hello}, "out of order"},
		"a MAC without an end":   {[]Part{hello, mac}, "out of order"},
		"two ends":               {[]Part{hello, end, end}, "out of order"},
		"a message after an end": {[]Part{hello, end, message}, "out of order"},
		"a hello after an end":   {[]Part{hello, end, hello}, "out of order"},
		"nothing":                {[]Part{{}}, "out of order"},
	} {
		c, err := newChannel(&Operation{Party: Server, Curves: []Curve{Ed25519}}, &linkOf{}, nil)
		require.NoError(t, err)
		close(c.helloKnown)
		for i, p := range x.parts {
			err := c.dispatch(t.Context(), p)
			select { // each of these channels has capacity for one
			case <-c.hello:
			case <-c.ended:
			case <-c.mac:
			default:
			}
			if i < len(x.parts)-1 || x.want == "" {
				require.NoError(t, err, name)
				continue
			}
			requireBlame(t, err, Client)
			require.ErrorContains(t, err, x.want, name)
		}
	}
	// Nothing else from the other side is processed before its hello has been checked.
	c, err := newChannel(&Operation{Party: Server}, &linkOf{}, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	require.ErrorIs(t, c.dispatch(ctx, hello), io.ErrClosedPipe)
}

// confirming returns a server's channel at the end of a signing, or of a run that made a set; then the set used, the
// output, and the other side's MAC.
func confirming(t *testing.T, newSet bool) (*channel, *Record, *Output, []byte) {
	t.Helper()
	s := Vector(t, Signing)
	j := &Operation{Party: Server, Kind: OperationSign, Curves: []Curve{Ed25519}, Share: s.Shares[Server]}
	out := &Output{}
	if newSet {
		j.Kind = "PROVISION"
		out.Share, out.Record, out.Keys = s.Shares[Server], s.Encoded, s.Record.Keys
	}
	c, err := newChannel(j, &linkOf{}, nil)
	require.NoError(t, err)
	c.ended <- receivedEnd{&End{}, []byte("sum")}
	probe, err := newChannel(j, &linkOf{}, nil) // computes the other side's MAC
	require.NoError(t, err)
	h := <-probe.out
	(&Part{End: &End{}}).addTo(h)
	probe.sent, probe.received = h.Sum(nil), []byte("sum")
	theirs, err := mac(probe.transcript(out.Record), &s.Record.Keys[0], s.Shares[Server].Key(Secp256k1), Client)
	require.NoError(t, err)
	return c, s.Record, out, theirs
}

// A client's end must have the hash of its share if there is a new set, and none otherwise; and the other side's MAC
// must be right.
func TestConfirm(t *testing.T) {
	t.Parallel()
	short, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	c, rec, out, theirs := confirming(t, false)
	c.mac <- theirs
	require.NoError(t, c.confirm(short, rec, out))
	link, ok := c.link.(*linkOf)
	require.True(t, ok)
	require.Len(t, link.sent, 2, "an end and a MAC")

	c, rec, out, theirs = confirming(t, false)
	theirs[0] ^= 1
	c.mac <- theirs
	requireBlame(t, c.confirm(short, rec, out), Client)

	for name, x := range map[string]struct {
		newSet bool
		hash   []byte
	}{
		"no hash":                   {true, nil},
		"a short hash":              {true, make([]byte, 31)},
		"a long hash":               {true, make([]byte, 33)},
		"a hash when signing":       {false, make([]byte, 32)},
		"a short hash when signing": {false, []byte{1}},
	} {
		c, rec, out, _ := confirming(t, x.newSet)
		<-c.ended
		c.ended <- receivedEnd{&End{ShareHash: x.hash}, []byte("sum")}
		err := c.confirm(short, rec, out)
		requireBlame(t, err, Client)
		require.ErrorContains(t, err, "an end with an unexpected share hash", name)
	}
	c, rec, out, _ = confirming(t, true)
	<-c.ended
	hash := sha256.Sum256([]byte("share"))
	c.ended <- receivedEnd{&End{ShareHash: hash[:]}, []byte("sum")}
	c.mac <- []byte("no")
	err := c.confirm(short, rec, out)
	require.ErrorContains(t, err, "did not see the same run")
	require.Equal(t, hash, out.ShareHash)

	// A broken link, and the end of the run, are not the other side's fault.
	c, rec, out, theirs = confirming(t, false)
	c.mac <- theirs
	broken := &linkOf{err: io.ErrClosedPipe}
	c.link = broken
	require.Equal(t, io.ErrClosedPipe, c.confirm(short, rec, out))
	require.Len(t, broken.sent, 1)
	c, rec, out, theirs = confirming(t, false)
	c.mac <- theirs
	c.link = &linkOf{err: io.ErrClosedPipe, good: 1}
	require.Equal(t, io.ErrClosedPipe, c.confirm(short, rec, out), "of its MAC")
	c, rec, out, _ = confirming(t, true)
	<-c.ended
	c.operation.Party = Client
	c.ended <- receivedEnd{&End{ShareHash: hash[:]}, []byte("sum")}
	requireBlame(t, c.confirm(short, rec, out), Server) // a server's end must not have a hash
	c, rec, out, _ = confirming(t, false)
	c.mac <- nil
	rec.Keys = rec.Keys[1:]
	rec.Keys[0].Parties[Client].BigX = offCurve()
	require.ErrorIs(t, c.confirm(short, rec, out), errPoint)
	gone, end := context.WithCancelCause(t.Context())
	end(io.ErrClosedPipe)
	c, rec, out, _ = confirming(t, false)
	<-c.ended
	require.Equal(t, io.ErrClosedPipe, c.confirm(gone, rec, out))
	c, rec, out, _ = confirming(t, false)
	require.Equal(t, io.ErrClosedPipe, c.confirm(gone, rec, out))
}

// An operation checks its curves against its set, that the party keys differ, and that it gets pre-params.
func TestOperationChecksItsInput(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	share := s.Shares[Server]
	one, err := share.Only(Ed25519)
	require.NoError(t, err)
	key := func(x int64) []byte { return must(fixed(big.NewInt(x), scalarLen)) }
	at := func(j *Operation, ours, theirs int64) *channel {
		c := must(newChannel(j, &linkOf{}, nil))
		c.own, c.peer = &Hello{PartyKeys: key(ours)}, &Hello{PartyKeys: key(theirs)}
		return c
	}
	for _, j := range []*Operation{
		{Party: Server, Share: share, Payload: []byte("x")},
		{Party: Server, Share: share, Payload: []byte("x"), Curves: Curves()},
	} {
		_, err := j.sign(t.Context(), at(j, 1, 2), s.Record)
		require.ErrorContains(t, err, "a signing is on one curve")
	}
	single := &Record{SetID: s.Record.SetID, Keys: s.Record.Keys[1:]}
	j := &Operation{Party: Server, Share: share, Payload: make([]byte, 32), Curves: []Curve{Secp256k1}}
	_, err = j.sign(t.Context(), at(j, 1, 2), single)
	require.ErrorIs(t, err, ErrShareMismatch)
	j.Share = one
	_, err = j.sign(t.Context(), at(j, 1, 2), s.Record)
	require.ErrorIs(t, err, ErrShareMismatch)

	no := errors.New("no")
	j = &Operation{
		Party: Server, Share: share, Curves: []Curve{Secp256k1},
		PreParams: func(context.Context) (*PreParams, error) { return nil, no },
	}
	_, err = j.newKey(t.Context(), at(j, 1, 2), 0, nil)
	require.ErrorIs(t, err, no)
	var progress []int
	j.Progress = func(_ Curve, k, n int) { progress = append(progress, k, n) }
	_, err = j.newKey(t.Context(), at(j, 1, 2), 0, nil)
	require.ErrorIs(t, err, no)
	require.Equal(t, []int{0, 0}, progress, "before it gets pre-params")
	j = &Operation{Party: Server, Share: share, Curves: []Curve{Ed25519}}
	_, err = j.newKey(t.Context(), at(j, 7, 7), 0, nil)
	requireBlame(t, err, Client)
	require.ErrorContains(t, err, "two parties have the same party key")
	_, err = j.newKey(t.Context(), at(j, 7, 7), 0, s.Record)
	requireBlame(t, err, Client)
	_, err = j.newKey(t.Context(), at(j, 1, 2), 0, &Record{Keys: s.Record.Keys[:1]})
	require.ErrorIs(t, err, ErrShareMismatch)
	j.Share = must(share.Only(Secp256k1))
	_, err = j.newKey(t.Context(), at(j, 1, 2), 0, s.Record)
	require.ErrorIs(t, err, ErrShareMismatch)
}

// Both sides reject a hello with fields of the wrong length, or out of range.
func TestHelloForm(t *testing.T) {
	t.Parallel()
	good := func() *Hello {
		keys := must(newPartyKeys([]Curve{Ed25519}))
		return &Hello{Nonce: make([]byte, nonceLen), SessionKey: make([]byte, keyLen), PartyKeys: keys}
	}
	for _, from := range []Party{Client, Server} {
		for name, spoil := range map[string]func(h *Hello){
			"a short nonce":             func(h *Hello) { h.Nonce = h.Nonce[1:] },
			"no nonce":                  func(h *Hello) { h.Nonce = nil },
			"a long nonce":              func(h *Hello) { h.Nonce = append(h.Nonce, 0) },
			"a short session key":       func(h *Hello) { h.SessionKey = h.SessionKey[1:] },
			"a long session key":        func(h *Hello) { h.SessionKey = append(h.SessionKey, 0) },
			"a long record":             func(h *Hello) { h.Record = make([]byte, maxRecordBytes+1) },
			"no party keys":             func(h *Hello) { h.PartyKeys = nil },
			"a party key of 31 bytes":   func(h *Hello) { h.PartyKeys = h.PartyKeys[1:] },
			"party keys for two curves": func(h *Hello) { h.PartyKeys = append(h.PartyKeys, h.PartyKeys...) },
			"a party key of zero":       func(h *Hello) { h.PartyKeys = make([]byte, scalarLen) },
			"a party key of q":          func(h *Hello) { h.PartyKeys = must(fixed(Ed25519.order(), scalarLen)) },
			"party keys when signing":   nil,
		} {
			h, curves := good(), []Curve{Ed25519}
			if spoil == nil {
				curves = nil
			} else {
				spoil(h)
			}
			require.Error(t, h.checkForm(from, curves, false), "%v: %s", from, name)
		}
	}
	for name, spoil := range map[string]func(h *Hello){
		"a wallet": func(h *Hello) { h.WalletID = "x" },
		"a set":    func(h *Hello) { h.ShareSetID = "x" },
		"a record": func(h *Hello) { h.Record = []byte{1} },
	} {
		h := good()
		spoil(h)
		require.ErrorContains(t, h.checkForm(Client, []Curve{Ed25519}, false), "a wallet, a set or a record", name)
		require.NoError(t, h.checkForm(Server, []Curve{Ed25519}, false), name)
	}
	// There is a proof, of one length, only in a client's hello and only if a set is used.
	for _, from := range []Party{Client, Server} {
		for _, used := range []bool{true, false} {
			for _, n := range []int{0, proofLen - 1, proofLen, proofLen + 1} {
				h := good()
				h.Proof = make([]byte, n)
				want := n == 0
				if from == Client && used {
					want = n == proofLen
				}
				require.Equal(t, want, h.checkForm(from, []Curve{Ed25519}, used) == nil, "%v used=%v %d", from, used, n)
			}
		}
	}
}

// Wipe overwrites the new share in both forms.
func TestOutputWipe(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	o := &Output{Share: s.Shares[Client], Encoded: secret.New(s.Bytes[Client])}
	o.Wipe()
	require.Zero(t, s.Shares[Client].Keys[0].xi.Sign())
	require.Equal(t, make([]byte, len(s.Bytes[Client])), s.Bytes[Client])
	(*Output)(nil).Wipe()
}
