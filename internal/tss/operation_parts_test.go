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

// prefixed hashes fields, each after its length, with none of the code under test.
func prefixed(fields ...[]byte) []byte {
	h := sha256.New()
	for _, f := range fields {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(f))))
		h.Write(f)
	}
	return h.Sum(nil)
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// The transcript is of everything that both sides must have seen alike.
func TestTranscriptHasEveryField(t *testing.T) {
	t.Parallel()
	base := func() *channel {
		return &channel{
			operation: &Operation{Party: Client, Kind: OperationSign, SessionID: "session", Attempt: 3, Payload: []byte("payload"), Share: &Share{SetID: SetID{ShareSetID: "source"}}},
			wallet:    "wallet", set: "set", sent: []byte("ours"), received: []byte("theirs"),
		}
	}
	made, payload := sha256.Sum256([]byte("record")), sha256.Sum256([]byte("payload"))
	want := prefixed([]byte(bindLabel), []byte("SIGN"), []byte("session"), be32(3), []byte("wallet"), []byte("source"), []byte("set"),
		made[:], payload[:], []byte("ours"), []byte("theirs"))
	require.Equal(t, want, base().transcript([]byte("record")))
	other := base() // the other side's view of the same
	other.operation.Party, other.sent, other.received = Server, other.received, other.sent
	require.Equal(t, want, other.transcript([]byte("record")))
	for name, change := range map[string]func(c *channel){
		"operation": func(c *channel) { c.operation.Kind = "BACKUP" }, "session": func(c *channel) { c.operation.SessionID = "Session" },
		"attempt": func(c *channel) { c.operation.Attempt = 4 }, "wallet": func(c *channel) { c.wallet = "Wallet" },
		"source": func(c *channel) { c.operation.Share = nil }, "set": func(c *channel) { c.set = "" },
		"payload": func(c *channel) { c.operation.Payload = nil }, "ours": func(c *channel) { c.sent = nil }, "theirs": func(c *channel) { c.received = nil },
		"a field's end": func(c *channel) { c.wallet, c.operation.Share.ShareSetID = "walletsource", "" },
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

// A direction's hash is of every field of every part.
func TestHashOfADirectionHasEveryField(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	unlike := func(name string, p Part) {
		h := sha256.New()
		p.put(h)
		sum := string(h.Sum(nil))
		require.Empty(t, seen[sum], name)
		seen[sum] = name
	}
	unlike("hello", Part{Hello: &Hello{}})
	typ := reflect.TypeFor[Hello]()
	for i := range typ.NumField() {
		h := &Hello{}
		switch f := reflect.ValueOf(h).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		default:
			f.SetBytes([]byte("x"))
		}
		unlike("hello: "+typ.Field(i).Name, Part{Hello: h})
	}
	unlike("message", Part{Message: &SealedMessage{}})
	unlike("message: curve", Part{Message: &SealedMessage{Curve: Ed25519}})
	unlike("message: private", Part{Message: &SealedMessage{Private: true}})
	unlike("message: payload", Part{Message: &SealedMessage{Payload: []byte("x")}})
	unlike("end", Part{End: &End{}})
	unlike("end: hash", Part{End: &End{ShareHash: []byte("x")}})
	full := &Hello{
		Nonce: []byte("a"), SessionKey: []byte("b"), PartyKeys: []byte("c"), WalletID: "d", ShareSetID: "e", Record: []byte("f"), Proof: []byte("g"),
	}
	h := sha256.New()
	(&Part{Hello: full}).put(h)
	require.Equal(t, prefixed([]byte("hello"), []byte("a"), []byte("b"), []byte("c"), []byte("d"), []byte("e"), []byte("f"), []byte("g")), h.Sum(nil))
	h = sha256.New()
	(&Part{Message: &SealedMessage{Curve: Ed25519, Private: true, Payload: []byte("x")}}).put(h)
	require.Equal(t, prefixed([]byte("message"), []byte{2, 1}, []byte("x")), h.Sum(nil))
	h = sha256.New()
	(&Part{End: &End{ShareHash: []byte("x")}}).put(h)
	require.Equal(t, prefixed([]byte("end"), []byte("x")), h.Sum(nil))
}

// What binds a message to one party: the session, the attempt and the direction.
func TestPrivateInfoHasEveryField(t *testing.T) {
	t.Parallel()
	c := &channel{operation: &Operation{SessionID: "session", Attempt: 3}}
	require.Equal(t, prefixed([]byte(privateLabel), []byte("session"), be32(3), []byte("CLIENT")), c.privateInfo(Client))
	require.Equal(t, prefixed([]byte(privateLabel), []byte("session"), be32(3), []byte("SERVER")), c.privateInfo(Server))
}

// Both sides of a set, and nobody else, make the same two words of a transcript.
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

// linkOf is a Link on which what is sent is kept.
type linkOf struct {
	sent []Part
	err  error
	good int // after as many parts it fails
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
func TestPartsHaveTheirOrder(t *testing.T) {
	t.Parallel()
	hello, end, word := Part{Hello: &Hello{}}, Part{End: &End{}}, Part{MAC: []byte{1}}
	message := Part{Message: &SealedMessage{Curve: Secp256k1}}
	const another = "a message for a curve that the run has not"
	for name, x := range map[string]struct {
		parts []Part
		says  string // of the last; empty: it is taken
	}{
		"a hello":                {[]Part{hello}, ""},
		"an end":                 {[]Part{hello, end}, ""},
		"a word":                 {[]Part{hello, end, word}, ""},
		"a message":              {[]Part{hello, message}, another},
		"a message first":        {[]Part{message}, "out of its order"},
		"an end first":           {[]Part{end}, "out of its order"},
		"a word first":           {[]Part{word}, "out of its order"},
		"two hellos":             {[]Part{hello, hello}, "out of its order"},
		"a word without an end":  {[]Part{hello, word}, "out of its order"},
		"two ends":               {[]Part{hello, end, end}, "out of its order"},
		"a message after an end": {[]Part{hello, end, message}, "out of its order"},
		"a hello after an end":   {[]Part{hello, end, hello}, "out of its order"},
		"nothing":                {[]Part{{}}, "out of its order"},
	} {
		c, err := newChannel(&Operation{Party: Server, Curves: []Curve{Ed25519}}, &linkOf{}, nil)
		require.NoError(t, err)
		close(c.helloKnown)
		for i, p := range x.parts {
			err := c.take(t.Context(), p)
			select { // there is room for one
			case <-c.hello:
			case <-c.ended:
			case <-c.mac:
			default:
			}
			if i < len(x.parts)-1 || x.says == "" {
				require.NoError(t, err, name)
				continue
			}
			requireBlame(t, err, Client)
			require.ErrorContains(t, err, x.says, name)
		}
	}
	// Before its hello is found good, nothing else of the other side is looked at.
	c, err := newChannel(&Operation{Party: Server}, &linkOf{}, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	require.ErrorIs(t, c.take(ctx, hello), io.ErrClosedPipe)
}

// confirming returns a server's channel at the end of a run that made nothing new, or a set.
func confirming(t *testing.T, makes bool) (*channel, *Record, *Output, []byte) {
	t.Helper()
	s := Vector(t, Signing)
	j := &Operation{Party: Server, Kind: OperationSign, Curves: []Curve{Ed25519}, Share: s.Shares[Server]}
	out := &Output{}
	if makes {
		j.Kind = "PROVISION"
		out.Share, out.Record, out.Keys = s.Shares[Server], s.Encoded, s.Record.Keys
	}
	c, err := newChannel(j, &linkOf{}, nil)
	require.NoError(t, err)
	c.ended <- endSeen{&End{}, []byte("sum")}
	probe, err := newChannel(j, &linkOf{}, nil) // what the other side's word would be
	require.NoError(t, err)
	h := <-probe.out
	(&Part{End: &End{}}).put(h)
	probe.sent, probe.received = h.Sum(nil), []byte("sum")
	word, err := mac(probe.transcript(out.Record), &s.Record.Keys[0], s.Shares[Server].Key(Secp256k1), Client)
	require.NoError(t, err)
	return c, s.Record, out, word
}

// The last words of a run: the client's end has the hash of its share where there is a new one,
// and no other form; and the other side's word is the one that it must be.
func TestLastWords(t *testing.T) {
	t.Parallel()
	short, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	c, rec, out, word := confirming(t, false)
	c.mac <- word
	require.NoError(t, c.confirm(short, rec, out))
	link, ok := c.link.(*linkOf)
	require.True(t, ok)
	require.Len(t, link.sent, 2, "an end and a word")

	c, rec, out, word = confirming(t, false)
	word[0] ^= 1
	c.mac <- word
	requireBlame(t, c.confirm(short, rec, out), Client)

	for name, x := range map[string]struct {
		makes bool
		hash  []byte
	}{
		"no hash":                  {true, nil},
		"a short hash":             {true, make([]byte, 31)},
		"a long hash":              {true, make([]byte, 33)},
		"a hash when one signs":    {false, make([]byte, 32)},
		"a hash of another length": {false, []byte{1}},
	} {
		c, rec, out, _ := confirming(t, x.makes)
		<-c.ended
		c.ended <- endSeen{&End{ShareHash: x.hash}, []byte("sum")}
		err := c.confirm(short, rec, out)
		requireBlame(t, err, Client)
		require.ErrorContains(t, err, "an end of another form", name)
	}
	c, rec, out, _ = confirming(t, true)
	<-c.ended
	hash := sha256.Sum256([]byte("share"))
	c.ended <- endSeen{&End{ShareHash: hash[:]}, []byte("sum")}
	c.mac <- []byte("no")
	err := c.confirm(short, rec, out)
	require.ErrorContains(t, err, "did not see the same run")
	require.Equal(t, hash, out.ShareHash, "it was taken")

	// What cannot be sent, and a run that ends, are not the other side's fault.
	c, rec, out, word = confirming(t, false)
	c.mac <- word
	broken := &linkOf{err: io.ErrClosedPipe}
	c.link = broken
	require.Equal(t, io.ErrClosedPipe, c.confirm(short, rec, out))
	require.Len(t, broken.sent, 1)
	c, rec, out, word = confirming(t, false)
	c.mac <- word
	c.link = &linkOf{err: io.ErrClosedPipe, good: 1}
	require.Equal(t, io.ErrClosedPipe, c.confirm(short, rec, out), "its word")
	c, rec, out, _ = confirming(t, true)
	<-c.ended
	c.operation.Party = Client
	c.ended <- endSeen{&End{ShareHash: hash[:]}, []byte("sum")}
	requireBlame(t, c.confirm(short, rec, out), Server) // a service's end with a hash
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

// A run is on curves that its set has, with party keys that differ, and with pre-params.
func TestJointRefusesBeforeItRuns(t *testing.T) {
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
		{Party: Server, Share: share, Payload: []byte("x")}, {Party: Server, Share: share, Payload: []byte("x"), Curves: Curves()},
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
	j = &Operation{Party: Server, Share: share, Curves: []Curve{Secp256k1}, PreParams: func(context.Context) (*PreParams, error) { return nil, no }}
	_, err = j.newKey(t.Context(), at(j, 1, 2), 0, nil)
	require.ErrorIs(t, err, no)
	var told []int
	j.Progress = func(_ Curve, k, n int) { told = append(told, k, n) }
	_, err = j.newKey(t.Context(), at(j, 1, 2), 0, nil)
	require.ErrorIs(t, err, no)
	require.Equal(t, []int{0, 0}, told, "pre-params are being made")
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

// A hello has the form that the run's wants, whoever sends it.
func TestHelloForm(t *testing.T) {
	t.Parallel()
	good := func() *Hello {
		return &Hello{Nonce: make([]byte, nonceLen), SessionKey: make([]byte, keyLen), PartyKeys: must(newPartyKeys([]Curve{Ed25519}))}
	}
	for _, from := range []Party{Client, Server} {
		for name, spoil := range map[string]func(h *Hello){
			"a short nonce":              func(h *Hello) { h.Nonce = h.Nonce[1:] },
			"no nonce":                   func(h *Hello) { h.Nonce = nil },
			"a long nonce":               func(h *Hello) { h.Nonce = append(h.Nonce, 0) },
			"a short session key":        func(h *Hello) { h.SessionKey = h.SessionKey[1:] },
			"a long session key":         func(h *Hello) { h.SessionKey = append(h.SessionKey, 0) },
			"a long record":              func(h *Hello) { h.Record = make([]byte, maxRecordBytes+1) },
			"no party keys":              func(h *Hello) { h.PartyKeys = nil },
			"a party key of 31 bytes":    func(h *Hello) { h.PartyKeys = h.PartyKeys[1:] },
			"party keys for two curves":  func(h *Hello) { h.PartyKeys = append(h.PartyKeys, h.PartyKeys...) },
			"a party key of zero":        func(h *Hello) { h.PartyKeys = make([]byte, scalarLen) },
			"a party key of q":           func(h *Hello) { h.PartyKeys = must(fixed(Ed25519.order(), scalarLen)) },
			"party keys where one signs": nil,
		} {
			h, curves := good(), []Curve{Ed25519}
			if spoil == nil {
				curves = nil
			} else {
				spoil(h)
			}
			require.Error(t, h.check(from, curves, false), "%v: %s", from, name)
		}
	}
	for name, spoil := range map[string]func(h *Hello){
		"a wallet": func(h *Hello) { h.WalletID = "x" }, "a set": func(h *Hello) { h.ShareSetID = "x" }, "a record": func(h *Hello) { h.Record = []byte{1} },
	} {
		h := good()
		spoil(h)
		require.ErrorContains(t, h.check(Client, []Curve{Ed25519}, false), "names sets", name)
		require.NoError(t, h.check(Server, []Curve{Ed25519}, false), name)
	}
	// A proof where a set is used, of the client alone, and of one length.
	for _, from := range []Party{Client, Server} {
		for _, used := range []bool{true, false} {
			for _, n := range []int{0, proofLen - 1, proofLen, proofLen + 1} {
				h := good()
				h.Proof = make([]byte, n)
				want := n == 0
				if from == Client && used {
					want = n == proofLen
				}
				require.Equal(t, want, h.check(from, []Curve{Ed25519}, used) == nil, "%v used=%v %d", from, used, n)
			}
		}
	}
}

// What a run that failed has made is wiped.
func TestJoinedWipe(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	o := &Output{Share: s.Shares[Client], Encoded: secret.New(s.Bytes[Client])}
	o.Wipe()
	require.Zero(t, s.Shares[Client].Keys[0].xi.Sign())
	require.Equal(t, make([]byte, len(s.Bytes[Client])), s.Bytes[Client])
	(*Output)(nil).Wipe()
}
