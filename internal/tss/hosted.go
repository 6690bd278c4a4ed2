package tss

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Hosted runs both sides of a protocol in this process, joined by a pipe. Every share
// that enters was checked against its set's record, and every public value comes from
// that record, so that no input from outside reaches tss-lib (tss-lib.md, row 14).

// HostedKeygen generates a key on one curve. pre is by Party and may be zero for
// Ed25519. It returns the sides' new keys, by Party, with equal records.
func HostedKeygen(ctx context.Context, c Curve, pre [2]*PreParams, obs Observer) (*[2]NewKey, error) {
	keys, err := NewPartyKeys(c)
	if err != nil {
		return nil, err
	}
	return hostedKeys(ctx, obs, func(ctx context.Context, p Party, conn Conn, obs Observer) (*NewKey, error) {
		return Keygen(ctx, conn, KeygenInput{Curve: c, Party: p, Keys: keys, PreParams: pre[p]}, obs)
	})
}

// HostedReshare makes a new sharing of old's key. shares and pre are by Party.
func HostedReshare(ctx context.Context, old *KeyRecord, shares [2]*KeyShare, pre [2]*PreParams, obs Observer) (*[2]NewKey, error) {
	keys, err := NewPartyKeys(old.Curve)
	if err != nil {
		return nil, err
	}
	return hostedKeys(ctx, obs, func(ctx context.Context, p Party, conn Conn, obs Observer) (*NewKey, error) {
		return Reshare(ctx, conn, ReshareInput{Party: p, Old: old, Share: shares[p], NewKeys: keys, PreParams: pre[p]}, obs)
	})
}

// HostedSign signs payload with a share set. shares is by Party.
func HostedSign(ctx context.Context, rec *KeyRecord, shares [2]*KeyShare, payload []byte, obs Observer) (*Signature, error) {
	sigs, err := hosted(ctx, obs, func(ctx context.Context, p Party, conn Conn, obs Observer) (*Signature, error) {
		return Sign(ctx, conn, SignInput{Party: p, Record: rec, Share: shares[p], Payload: payload}, obs)
	})
	if err != nil {
		return nil, err
	}
	return sigs[Server], nil
}

func hostedKeys(ctx context.Context, obs Observer, run sideFunc[NewKey]) (*[2]NewKey, error) {
	keys, err := hosted(ctx, obs, run)
	if err != nil {
		return nil, err
	}
	if !keys[Client].Record.Equal(&keys[Server].Record) {
		keys[Client].Share.wipe()
		keys[Server].Share.wipe()
		return nil, errors.New("the two sides hold different public values")
	}
	return &[2]NewKey{*keys[Client], *keys[Server]}, nil
}

type sideFunc[T any] func(context.Context, Party, Conn, Observer) (*T, error)

// hosted runs both sides and waits for both: a side can finish although the other one
// fails a last check (tss-lib.md, row 7). The first failure ends the other side.
func hosted[T any](ctx context.Context, obs Observer, run sideFunc[T]) ([2]*T, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	obs.Round = rising(obs.Round)
	var ends [2]Conn
	ends[Client], ends[Server] = Pipe()
	var out [2]*T
	var wg sync.WaitGroup
	for _, p := range []Party{Client, Server} {
		wg.Go(func() { // ends with its side, which ends at once with ctx
			got, err := run(ctx, p, ends[p], obs)
			if err != nil {
				cancel(fmt.Errorf("%v side: %w", p, err))
				return
			}
			out[p] = got
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return [2]*T{}, context.Cause(ctx)
	}
	return out, nil
}

// rising makes two sides' reports into one that only rises.
func rising(report func(k, n int)) func(k, n int) {
	if report == nil {
		return nil
	}
	var mu sync.Mutex // guards last, and keeps reports in order
	last := 0
	return func(k, n int) {
		mu.Lock()
		defer mu.Unlock()
		if k > last {
			last = k
			report(k, n)
		}
	}
}
