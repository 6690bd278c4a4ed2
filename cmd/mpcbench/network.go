package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"runtime/pprof"
	"slices"

	lib "github.com/bnb-chain/tss-lib/v2/tss"
)

// network runs tss-lib parties as tss-lib's own tests do: one goroutine each, joined by channels, with every message
// serialised and parsed again for its receiver. It checks only what tss-lib checks: it is the baseline that mpcd is
// compared with.
type network struct {
	nodes []*node
	out   chan lib.Message // what all parties emit
}

// node is one party.
type node struct {
	id    *lib.PartyID
	party lib.Party
	in    chan lib.ParsedMessage
	ended func() bool // reports whether the party has its result
}

// depth is more messages than all parties emit in any run, so that no channel blocks.
const depth = 64

func newNetwork() *network { return &network{out: make(chan lib.Message, depth)} }

// join adds a party. result returns what the party sent to end, nil before its end.
func join[S any](n *network, id *lib.PartyID, p lib.Party, end <-chan *S) (result func() *S) {
	var got *S
	n.nodes = append(n.nodes, &node{id: id, party: p, in: make(chan lib.ParsedMessage, depth), ended: func() bool {
		select {
		case got = <-end:
			return true
		default:
			return false
		}
	}})
	return func() *S { return got }
}

// run runs the parties to their ends.
func (n *network) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A profile then shows what is tss-lib's own.
	defer pprof.SetGoroutineLabels(ctx)
	pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels("side", "tss-lib")))
	done := make(chan error, len(n.nodes)+1)
	go func() { done <- n.route(ctx) }() // ends with ctx
	for _, x := range n.nodes {
		go func() { done <- x.drive(ctx) }() // ends with its party, or with ctx between two messages
	}
	for range n.nodes {
		if err := <-done; err != nil {
			return err
		}
	}
	return nil
}

// drive feeds messages to a party until it has its result.
func (x *node) drive(ctx context.Context) error {
	if err := x.party.Start(); err != nil { // a nil *Error in an error is not nil
		return failure(err)
	}
	for !x.ended() {
		select {
		case m := <-x.in:
			if _, err := x.party.Update(m); err != nil {
				return failure(err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func failure(err *lib.Error) error {
	if err.Cause() == nil {
		return errors.New("tss-lib failed without a cause")
	}
	return fmt.Errorf("tss-lib: %w", err.Cause())
}

// route delivers every message to the parties that it names, or to all others.
func (n *network) route(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-n.out:
			wire, _, err := m.WireBytes()
			if err != nil {
				return err
			}
			for _, x := range n.nodes {
				if !addressed(m, x.id) {
					continue
				}
				parsed, err := lib.ParseWireMessage(wire, m.GetFrom(), m.IsBroadcast())
				if err != nil {
					return err
				}
				x.in <- parsed
			}
		}
	}
}

func addressed(m lib.Message, id *lib.PartyID) bool {
	if m.GetFrom().KeyInt().Cmp(id.KeyInt()) == 0 {
		return false
	}
	return m.GetTo() == nil || slices.ContainsFunc(m.GetTo(),
		func(to *lib.PartyID) bool { return to.KeyInt().Cmp(id.KeyInt()) == 0 })
}

// committee returns two ids in tss-lib's order. Their keys must be random: those of old and new committees must
// differ.
func committee(keys [2]*big.Int) lib.SortedPartyIDs {
	var ids lib.UnSortedPartyIDs
	for _, k := range keys {
		ids = append(ids, lib.NewPartyID(k.Text(16), "", k))
	}
	return lib.SortPartyIDs(ids)
}
