package session

import (
	"context"
	"time"
)

// sweepEvery is the interval between sweeps.
const sweepEvery = 30 * time.Second

// Sweep periodically erases what was not confirmed in time, and retries ends that could not be stored, until ctx is
// done.
func (s *Service) Sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		s.storeEnds(ctx)
		swept, err := s.ports.Housekeeper.Sweep(ctx, s.clock.now(), s.cfg.SessionTTL)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.ports.Log.Error("what was not confirmed in time could not be erased; will retry", "error", err)
		case swept != Swept{}:
			s.ports.Log.Info("erased what was not confirmed in time", "sets", swept.Sets, "results", swept.Results,
				"wallets", swept.Wallets, "sessions", swept.Sessions)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
