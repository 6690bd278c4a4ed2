package main

import (
	"context"
	"fmt"
)

// Wire is what one warm provision sends over the wire, in bytes; medians of a few.
type Wire struct {
	Curves     string  `json:"curves"`
	Provisions int     `json:"provisions"`
	Messages   Summary `json:"messages"` // in the answer's stream
	Sent       Summary `json:"sent"`     // gRPC, ProvisionWallet only, from the caller
	Received   Summary `json:"received"`
	TCPSent    Summary `json:"tcpSent"` // the whole SDK call, including ConfirmShareSet and HTTP/2's overhead
	TCPGot     Summary `json:"tcpReceived"`
}

// wire counts the bytes of provisions.
func (b *bench) wire(ctx context.Context) error {
	r, err := b.idleRig(ctx)
	if err != nil {
		return err
	}
	b.log.step("wire: makes a wallet and its backup")
	cipherText, err := r.wallet(ctx, b.plan.curves)
	if err != nil {
		return err
	}
	dev, err := r.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = dev.conn.Close() }() // its calls are over
	var messages, sent, received, tcpSent, tcpGot []float64
	for range b.plan.wire {
		if err := r.stock(ctx, needs(b.plan.curves)); err != nil {
			return err
		}
		out, in := dev.meter.sent.Load(), dev.meter.received.Load()
		if err := dev.provision(ctx, cipherText); err != nil {
			return err
		}
		calls := dev.meter.take()
		if len(calls) != 1 {
			return fmt.Errorf("%d calls of ProvisionWallet were seen, not one", len(calls))
		}
		messages, sent, received = append(messages, float64(calls[0].messages)), append(sent, float64(calls[0].sent)),
			append(received, float64(calls[0].received))
		tcpSent, tcpGot = append(tcpSent, float64(dev.meter.sent.Load()-out)),
			append(tcpGot, float64(dev.meter.received.Load()-in))
	}
	b.report.Wire = &Wire{
		Curves: named(b.plan.curves), Provisions: b.plan.wire, Messages: summarize(messages), Sent: summarize(sent),
		Received: summarize(received), TCPSent: summarize(tcpSent), TCPGot: summarize(tcpGot),
	}
	b.log.step("wire: %.0f bytes sent, %.0f received", b.report.Wire.TCPSent.Median, b.report.Wire.TCPGot.Median)
	return nil
}
