package session

import (
	"context"
	"fmt"
	"slices"

	"github.com/mpcd/mpcd/internal/tss"
)

// Create starts, or attaches to, the creation of a wallet with its first SIGNING set.
func (s *Service) Create(ctx context.Context, c Caller, req CreateRequest) (*Run, error) {
	if req.Owner == "" {
		req.Owner = c.Name
	}
	if !c.may(actCreate, req.Owner) {
		return nil, fmt.Errorf("%w: caller %q may not create a wallet of %q", ErrPermissionDenied, c.Name, req.Owner)
	}
	if err := s.checkStart(&req.Start); err != nil {
		return nil, err
	}
	if len(req.Curves) == 0 {
		req.Curves = tss.Curves()
	}
	slices.Sort(req.Curves)
	fp, err := s.fingerprint(OpCreate, append(req.fields(), []byte(req.Owner), curveBytes(req.Curves))...)
	if err != nil {
		return nil, err
	}
	return s.attachOrStart(ctx, job{
		operation: &create{req}, op: OpCreate, caller: c, requestID: req.RequestID, fingerprint: fp, device: req.Device,
	})
}

type create struct{ CreateRequest }

func (o *create) prepare(context.Context, *runner) (*plan, error) {
	return &plan{operation: o, walletID: newID(), owner: o.Owner, curves: o.Curves}, nil
}

func (o *create) execute(ctx context.Context, s *runner, w *work, p *plan) (*made, error) {
	m, keys, err := s.makeSet(ctx, w, p, target{Start: o.Start, purpose: Signing})
	if err != nil {
		return nil, err
	}
	m.Wallet = &Wallet{ID: m.Set.WalletID, Owner: o.Owner, Keys: keys, CreateTime: m.Set.CreateTime}
	if o.Device == nil {
		m.Wallet.HostedSince = m.Set.CreateTime
	}
	return m, nil
}

func (s *runner) checkStart(st *Start) error {
	if st.Device != nil && st.SealTo != nil {
		return &FieldError{"seal_to", "must be empty: the device makes its new share itself"}
	}
	if st.Device == nil && st.SealTo == nil && s.cfg.RequireSealTo {
		const want = "must be an age X25519 recipient (age1...), so that nothing but the caller can read the new share"
		return &FieldError{"seal_to", want}
	}
	return nil
}
