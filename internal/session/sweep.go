package session

import (
	"context"
	"time"
)

// sweepEvery is how often the service looks for what nobody confirmed in time.
const sweepEvery = 30 * time.Second

// Sweep erases what nobody confirmed in time, and stores the ends that could not be stored, again
// and again until ctx is done.
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
			s.ports.Log.Error("what was not confirmed in time could not be erased; it is tried again", "error", err)
		case swept != Swept{}:
			s.ports.Log.Info("erased what was not confirmed in time", "sets", swept.Sets, "results", swept.Results, "wallets", swept.Wallets, "sessions", swept.Sessions)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
