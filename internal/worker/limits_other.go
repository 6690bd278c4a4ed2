//go:build !linux

package worker

import "runtime/debug"

// apply sets the only limit that is portable.
func (l Limits) apply() error {
	debug.SetMemoryLimit(l.Memory)
	return nil
}
