package tss

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// brokenLink is a Link that returns parts, and then an error.
type brokenLink struct {
	linkOf
	parts []Part
	ended bool
}

func (l *brokenLink) Recv(ctx context.Context) (Part, error) {
	if len(l.parts) == 0 {
		if l.ended {
			panic("the link is read after its error")
		}
		l.ended = true
		return Part{}, io.ErrUnexpectedEOF
	}
	p := l.parts[0]
	l.parts = l.parts[1:]
	return p, ctx.Err()
}

// Nothing is read after the other side's MAC; before it, a broken link ends the run.
func TestNothingIsReadAfterTheMAC(t *testing.T) {
	t.Parallel()
	parts := []Part{{Hello: &Hello{}}, {End: &End{}}, {MAC: []byte{1}}}
	for n := range len(parts) + 1 {
		var failed error
		c, err := newChannel(&Operation{Party: Server}, &brokenLink{parts: parts[:n]}, func(err error) { failed = err })
		require.NoError(t, err)
		close(c.helloKnown)
		c.read(t.Context())
		if n == len(parts) {
			require.NoError(t, failed)
			require.Len(t, c.hello, 1)
			require.Len(t, c.ended, 1)
			require.Len(t, c.mac, 1)
		} else {
			require.ErrorIs(t, failed, io.ErrUnexpectedEOF)
		}
	}
}

// The owner of a session key is to blame if nothing can be encrypted to it; nobody is to blame for a broken link.
func TestCurveConn(t *testing.T) {
	t.Parallel()
	messages, err := ReadMessages()
	require.NoError(t, err)
	private := Message{Curve: Ed25519, Payload: messages["binance.tsslib.eddsa.resharing.DGRound3Message1"]}
	require.NotEmpty(t, private.Payload)
	link := &linkOf{}
	c, err := newChannel(&Operation{Party: Server}, link, nil)
	require.NoError(t, err)
	c.peer = &Hello{SessionKey: make([]byte, keyLen)}
	requireBlame(t, c.conn(Ed25519).Send(t.Context(), private), Client)
	require.Empty(t, link.sent)
	c.peer.SessionKey = must(newSessionKey()).PublicKey().Bytes()
	require.NoError(t, c.conn(Ed25519).Send(t.Context(), private))
	require.Len(t, link.sent, 1)
	require.True(t, link.sent[0].Message.Private)
	_, err = c.open(link.sent[0].Message)
	requireBlame(t, err, Client)
	require.ErrorContains(t, err, "not encrypted to this run's key", "the message is encrypted to the other side")
	_, err = c.open(&Message{Curve: Ed25519, Payload: private.Payload})
	requireBlame(t, err, Client)
	require.ErrorContains(t, err, "in the clear")
	public := Message{Curve: Ed25519, Payload: messages["binance.tsslib.eddsa.resharing.DGRound1Message"]}
	c.parts[Ed25519], c.left[Ed25519] = make(chan Message, 1), 2
	require.NoError(t, c.receive(&Message{Curve: Ed25519, Payload: public.Payload}))
	require.Len(t, c.parts[Ed25519], 1)
	require.Equal(t, public, <-c.parts[Ed25519])
	requireBlame(t, c.receive(&Message{Curve: Ed25519, Private: true, Payload: public.Payload}), Client)
	require.Empty(t, c.parts[Ed25519])
	link.err = io.ErrClosedPipe
	require.Equal(t, io.ErrClosedPipe, c.conn(Ed25519).Send(t.Context(), private))
}

// An error before both sides have their result is the error of the run.
func TestOperationThatCannotContinue(t *testing.T) {
	t.Parallel()
	no := errors.New("no")
	keys := must(newPartyKeys([]Curve{Secp256k1}))
	hello := &Hello{Nonce: make([]byte, nonceLen), SessionKey: must(newSessionKey()).PublicKey().Bytes(), PartyKeys: keys}
	waiting := func(parts ...Part) Link { return &waitingLink{brokenLink{parts: parts}} }
	j := &Operation{
		Party: Server, Kind: "CREATE", Curves: []Curve{Secp256k1}, Purpose: Signing,
		WalletID: "0b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11", ShareSetID: "1b9e3b0c-1f2c-4a52-8a56-8a7d4c0c2b11",
		PreParams: func(context.Context) (*PreParams, error) { return nil, no },
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := j.Run(short, waiting(Part{Hello: hello}))
	require.ErrorIs(t, err, no)
	require.Nil(t, out)
	_, err = j.Run(short, &waitingLink{brokenLink{linkOf: linkOf{err: io.ErrClosedPipe}}})
	require.Equal(t, io.ErrClosedPipe, err)
	j.WalletID = "x"
	_, err = j.Run(t.Context(), waiting(Part{Hello: hello}))
	require.ErrorContains(t, err, "no valid wallet id")

	_, err = j.Run(t.Context(), &slowLink{})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)

	// With a share that has no key the client cannot make a proof: it sends no hello.
	client := fuzzOperation(Vector(t, Signing), 3, Client)
	client.Share.Keys = nil
	link := &linkOf{err: io.ErrClosedPipe}
	_, err = client.Run(t.Context(), link)
	require.ErrorIs(t, err, ErrShareMismatch)
	require.Empty(t, link.sent)
}

// slowLink is a broken Link whose Send returns only when the run has ended.
type slowLink struct{ brokenLink }

func (*slowLink) Send(ctx context.Context, _ Part) error {
	<-ctx.Done()
	return ctx.Err()
}

// waitingLink is a brokenLink that waits after its parts instead of failing.
type waitingLink struct{ brokenLink }

func (l *waitingLink) Recv(ctx context.Context) (Part, error) {
	if len(l.parts) > 0 {
		return l.brokenLink.Recv(ctx)
	}
	return l.linkOf.Recv(ctx)
}

// If the record that the share commits to cannot be parsed, or does not match the share's secrets, the other side is
// not to blame.
func TestRecordThatTheShareCommitsTo(t *testing.T) {
	t.Parallel()
	s := Vector(t, Signing)
	j := fuzzOperation(s, 3, Client)
	own := *j.Share
	j.Share = &own
	garbage := []byte("garbage")
	own.RecordHash = Hash(garbage)
	_, err := j.checkServerHello(&Hello{WalletID: own.WalletID, Record: garbage})
	require.ErrorIs(t, err, ErrRecordMalformed)
	other := Vector(t, Signing)
	own.RecordHash = Hash(s.Encoded)
	own.Keys = other.Shares[Client].Keys
	own.Keys[0].xi.Add(own.Keys[0].xi, big.NewInt(1))
	_, err = j.checkServerHello(&Hello{WalletID: own.WalletID, Record: s.Encoded})
	require.ErrorIs(t, err, ErrShareMalformed)
}

// stopped is a Link that returns ErrStopped after its parts.
type stopped struct{ brokenLink }

func (l *stopped) Recv(ctx context.Context) (Part, error) {
	if len(l.parts) == 0 {
		return Part{}, fmt.Errorf("by its owner: %w", ErrStopped)
	}
	return l.brokenLink.Recv(ctx)
}

// After a stop, the parts that arrived before are processed; then the side returns the link's error and blames nobody.
func TestStoppedLink(t *testing.T) {
	t.Parallel()
	short, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var failed error
	link := &stopped{brokenLink{parts: []Part{{Hello: &Hello{}}}}}
	c, err := newChannel(&Operation{Party: Server, Curves: []Curve{Ed25519}}, link, func(err error) { failed = err })
	require.NoError(t, err)
	require.NoError(t, c.checkStopped(Ed25519), "it is not stopped")
	close(c.helloKnown)
	c.read(short)
	require.NoError(t, failed)
	_, err = next(short, c, c.hello)
	require.NoError(t, err, "it arrived before the stop")
	_, err = next(short, c, c.hello)
	require.ErrorIs(t, err, ErrStopped)
	require.ErrorIs(t, c.checkStopped(Ed25519), ErrStopped)
	c.parts[Ed25519] <- Message{}
	require.NoError(t, c.checkStopped(Ed25519), "a message for it arrived")
	gone, end := context.WithCancelCause(t.Context())
	end(io.ErrClosedPipe)
	fresh := must(newChannel(&Operation{Party: Server}, &linkOf{}, nil))
	_, err = next(gone, fresh, fresh.hello)
	require.Equal(t, io.ErrClosedPipe, err)

	// Neither a signing nor a key generation starts if no message for it arrived.
	s := Vector(t, Signing)
	c.operation = &Operation{Party: Server, Share: s.Shares[Server], Payload: []byte("x"), Curves: []Curve{Ed25519}}
	<-c.parts[Ed25519]
	_, err = c.operation.sign(short, c, s.Record)
	require.ErrorIs(t, err, ErrStopped)
	_, err = c.operation.newKey(short, c, 0, nil)
	require.ErrorIs(t, err, ErrStopped)
	require.Empty(t, link.sent)
}
