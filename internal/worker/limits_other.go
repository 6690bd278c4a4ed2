//go:build !linux

package worker

import "runtime/debug"

// apply sets the limit that there is everywhere.
func (l Limits) apply() error {
	debug.SetMemoryLimit(l.Memory)
	return nil
}
