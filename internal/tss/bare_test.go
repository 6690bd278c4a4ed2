package tss

import (
	"crypto/rand"
	"maps"
	"math/big"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/bnb-chain/tss-lib/v2/common"
	eckeygen "github.com/bnb-chain/tss-lib/v2/ecdsa/keygen"
	ecresharing "github.com/bnb-chain/tss-lib/v2/ecdsa/resharing"
	ecsigning "github.com/bnb-chain/tss-lib/v2/ecdsa/signing"
	edkeygen "github.com/bnb-chain/tss-lib/v2/eddsa/keygen"
	edsigning "github.com/bnb-chain/tss-lib/v2/eddsa/signing"
	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// Runs of tss-lib's parties without our guards, which show what a hostile side's message does to them, and that our
// ingress rejects the same message. The hostile side rushes: it waits for everything that the victim sends without its
// next message, and then sends that.

// batch is what the hostile side is about to send to the victim, by type.
type batch = map[protoreflect.FullName]proto.Message

// bare is such a run, with one party on each side, or two in a resharing. The client is hostile, and the server is the
// victim.
type bare struct {
	curve   Curve
	proto   *protocol
	record  *KeyRecord       // see ingress
	n       *big.Int         // the hostile side's N, from an earlier message
	parties [2][]*localParty // by Party

	// full, if set, gives the hostile side's messages keys of the right size. tamper then changes them into what is sent.
	// Both change the messages in place.
	full, tamper func(batch)
	// judge is called with our ingress' verdicts on a tampered message and on the honest one.
	judge func(name protoreflect.Name, tampered, honest error)

	sent  batch  // what the victim has sent
	queue []mail // to deliver
	held  []mail // from the hostile side, until release
}

const (
	hostile = Client
	victim  = Server
)

// mail is a message to one party.
type mail struct {
	from    Party
	to      *localParty
	name    protoreflect.FullName
	payload []byte
}

// run runs the parties until no messages are left. It returns the first error, or the stack of the first panic.
func (b *bare) run(t *testing.T) (stack string, err error) {
	b.sent = batch{}
	for p, side := range b.parties {
		for _, s := range side {
			require.Nil(t, s.party.Start())
			b.collect(t, Party(p), s)
		}
	}
	for len(b.queue)+len(b.held) > 0 {
		if len(b.queue) == 0 {
			b.release(t)
		}
		next := b.queue[0]
		b.queue = b.queue[1:]
		st := b.proto.steps[next.name]
		m, err := lib.ParseWireMessage(next.payload, next.to.senders[st.from][next.from], st.broadcast)
		require.NoError(t, err)
		if stack, err := update(next.to.party, m); err != nil || stack != "" {
			return stack, err
		}
		for p, side := range b.parties {
			if slices.Contains(side, next.to) {
				b.collect(t, Party(p), next.to)
			}
		}
	}
	return "", nil
}

// update passes a message to a party, and recovers from panics as side.call does.
func update(p lib.Party, m lib.ParsedMessage) (stack string, err error) {
	defer func() {
		if recover() != nil {
			stack = string(debug.Stack())
		}
	}()
	if _, e := p.Update(m); e != nil {
		return "", e
	}
	return "", nil
}

// collect takes the messages that s has sent.
func (b *bare) collect(t *testing.T, from Party, s *localParty) {
	for len(s.out) > 0 {
		m := <-s.out
		payload, _, err := m.WireBytes()
		require.NoError(t, err)
		name := protoreflect.FullName(m.Type())
		st := b.proto.steps[name]
		for p, side := range b.parties {
			for _, to := range side {
				if to == s || !slices.Contains(st.to, to.role) || !st.broadcast && !addressed(m, to.key) {
					continue
				}
				out := mail{from, to, name, payload}
				switch {
				case from == hostile && Party(p) == victim:
					b.held = append(b.held, out)
					continue
				case from == victim && Party(p) == hostile:
					b.sent[name] = content(t, payload)
				}
				b.queue = append(b.queue, out)
			}
		}
	}
}

// content decodes a message.
func content(t *testing.T, payload []byte) proto.Message {
	t.Helper()
	var a anypb.Any
	require.NoError(t, proto.Unmarshal(payload, &a))
	m, err := a.UnmarshalNew()
	require.NoError(t, err)
	return m
}

// release tampers with the held messages of the hostile side, and sends them.
func (b *bare) release(t *testing.T) {
	all, honest := batch{}, batch{}
	for _, h := range b.held {
		all[h.name] = content(t, h.payload)
	}
	if b.full != nil {
		b.full(all)
	}
	for name, m := range all {
		honest[name] = proto.Clone(m)
	}
	if b.tamper != nil {
		b.tamper(all)
	}
	for _, h := range b.held {
		h.payload = payload(t, all[h.name])
		b.queue = append(b.queue, h)
	}
	b.held = nil
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if b.judge != nil && !proto.Equal(all[name], honest[name]) {
			b.judge(name.Name(), b.check(t, all[name]), b.check(t, honest[name]))
		}
	}
}

// check returns the verdict on a message of our ingress in the victim's state.
func (b *bare) check(t *testing.T, m proto.Message) error {
	g := &ingress{curve: b.curve, me: victim, proto: b.proto, record: b.record, n: b.n}
	g.sent = map[protoreflect.FullName]bool{}
	for name, m := range b.sent {
		g.sent[name] = true
		if r3, ok := m.(*ecsigning.SignRound3Message); ok {
			g.theta = new(big.Int).SetBytes(r3.GetTheta())
		}
	}
	p := payload(t, m)
	var a anypb.Any
	require.NoError(t, proto.Unmarshal(p, &a))
	return g.check(&a, b.proto.steps[typeOf(m)], p)
}

// locked reports whether a party's mutex is held, so that a call of WaitingFor or Update would block forever.
func locked(p lib.Party) bool {
	base := reflect.ValueOf(p).Elem().FieldByName("BaseParty").Elem()
	m := (*sync.Mutex)(unsafe.Pointer(base.FieldByName("mtx").UnsafeAddr()))
	if m.TryLock() {
		m.Unlock()
		return false
	}
	return true
}

// addParty adds a tss-lib party to a side, and returns it with its parameters.
func (b *bare) addParty(p Party, keys committee) (*localParty, *lib.Parameters) {
	s := newLocalParty(onlyRole, keys[p])
	ids := keys.ids("party")
	s.senders[onlyRole] = ids
	b.parties[p] = append(b.parties[p], s)
	return s, lib.NewParameters(b.curve.ec(), sorted(ids), ids[p], 2, 1)
}

var bareKeys = committee{big.NewInt(3), big.NewInt(4)}

func bareEdKeygen() *bare {
	b := &bare{curve: Ed25519, proto: keygens[Ed25519]}
	for p := range b.parties {
		s, params := b.addParty(Party(p), bareKeys)
		end := make(chan *edkeygen.LocalPartySaveData, 1)
		s.party = edkeygen.NewLocalParty(params, s.out, end)
		s.ended = pollInto(end, new(*edkeygen.LocalPartySaveData))
	}
	return b
}

// bareSigning signs with the committed vectors.
func bareSigning(t *testing.T, c Curve) *bare {
	rec, both := Vector(t, Signing).Key(t, c)
	b := &bare{curve: c, proto: signings[c], record: rec}
	keys := committee{rec.Parties[Client].PartyKey, rec.Parties[Server].PartyKey}
	m := big.NewInt(7)
	for p := range b.parties {
		s, params := b.addParty(Party(p), keys)
		end := make(chan *common.SignatureData, 1)
		s.ended = pollInto(end, new(*common.SignatureData))
		if c == Secp256k1 {
			s.party = ecsigning.NewLocalParty(m, params, ecSaveData(rec, both[p], Party(p)), s.out, end, 32)
		} else {
			s.party = edsigning.NewLocalParty(m, params, edSaveData(rec, both[p], Party(p)), s.out, end, 1)
		}
	}
	return b
}

// bareResharing reshares the committed vectors, to new parties with the keys of pre. These can be small, to save time,
// since tss-lib's new parties do not check their sizes (tss-lib.md, row 18).
func bareResharing(t *testing.T, pre [2]*eckeygen.LocalPreParams) (*bare, [2]<-chan *eckeygen.LocalPartySaveData) {
	rec, both := Vector(t, Signing).Key(t, Secp256k1)
	b := &bare{curve: Secp256k1, proto: resharings[Secp256k1]}
	old := committee{rec.Parties[Client].PartyKey, rec.Parties[Server].PartyKey}
	var ends [2]<-chan *eckeygen.LocalPartySaveData
	for i := range b.parties {
		p := Party(i)
		for r, key := range []*big.Int{old[p], bareKeys[p]} {
			s := newLocalParty(role(r), key)
			s.senders = [2][2]*lib.PartyID{oldRole: old.ids("old"), newRole: bareKeys.ids("new")}
			ids := s.senders
			params := lib.NewReSharingParameters(b.curve.ec(), sorted(ids[0]), sorted(ids[1]), ids[r][p], 2, 1, 2, 1)
			save := eckeygen.NewLocalPartySaveData(2)
			save.LocalPreParams = *pre[p]
			if role(r) == oldRole {
				save = ecSaveData(rec, both[p], p)
			}
			end := make(chan *eckeygen.LocalPartySaveData, 1)
			s.party = ecresharing.NewLocalParty(params, save, s.out, end)
			b.parties[p] = append(b.parties[p], s)
			ends[p] = end // the last one is the new party's
		}
	}
	return b, ends
}

// smallPreParams returns pre-params with a Paillier N of 512 bits and an NTilde of 64.
func smallPreParams(t *testing.T) *eckeygen.LocalPreParams {
	safe := func(bits int) *big.Int { // a prime x for which 2x+1 is prime
		for {
			x, err := rand.Prime(rand.Reader, bits)
			require.NoError(t, err)
			if y := new(big.Int).Lsh(x, 1); y.SetBit(y, 0, 1).ProbablyPrime(20) {
				return x
			}
		}
	}
	twice := func(x *big.Int) *big.Int { y := new(big.Int).Lsh(x, 1); return y.SetBit(y, 0, 1) }
	blum := func() *big.Int {
		for {
			x, err := rand.Prime(rand.Reader, 256)
			require.NoError(t, err)
			if x.Bit(1) == 1 {
				return x
			}
		}
	}
	p, q := safe(31), safe(31)
	for p.Cmp(q) == 0 {
		q = safe(31)
	}
	pq, nTilde := new(big.Int).Mul(p, q), new(big.Int).Mul(twice(p), twice(q))
	h1 := common.GetRandomGeneratorOfTheQuadraticResidue(rand.Reader, nTilde)
	alpha := common.GetRandomPositiveRelativelyPrimeInt(rand.Reader, pq)
	return &eckeygen.LocalPreParams{
		PaillierSK: paillierKey(blum(), blum()),
		NTildei:    nTilde, H1i: h1, H2i: new(big.Int).Exp(h1, alpha, nTilde),
		Alpha: alpha, Beta: new(big.Int).ModInverse(alpha, pq), P: p, Q: q,
	}
}

// small returns small keys for both sides of a resharing.
func small(t *testing.T) [2]*eckeygen.LocalPreParams {
	return [2]*eckeygen.LocalPreParams{smallPreParams(t), smallPreParams(t)}
}

// Without tampering every run finishes, and our ingress accepts every message of the hostile side. A resharing is not
// included, since the ingress rejects its small keys.
func TestBareHonest(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]*bare{
		"Ed25519 keygen":  bareEdKeygen(),
		"Ed25519 signing": bareSigning(t, Ed25519),
		"ECDSA signing":   bareSigning(t, Secp256k1),
	} {
		b.tamper = func(all batch) {
			for _, m := range all {
				require.NoError(t, b.check(t, m), name)
			}
		}
		stack, err := b.run(t)
		require.NoError(t, err, name)
		require.Empty(t, stack, name)
		for _, side := range b.parties {
			require.True(t, side[0].ended(), name)
			require.False(t, locked(side[0].party), name)
		}
	}
}
