package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// memoryInterval is how often the process's memory is sampled: Go returns memory to the kernel only after seconds.
const memoryInterval = 5 * time.Millisecond

// residentBytes returns the process's resident memory (proc(5): statm).
func residentBytes() (int64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0, fmt.Errorf("/proc/self/statm: %w", err)
	}
	return resident * int64(os.Getpagesize()), nil
}

// watchMemory frees what earlier work left, and samples until peak is called, which returns the maximum of resident
// memory.
func watchMemory() (peak func() (int64, error)) {
	debug.FreeOSMemory()
	var most int64
	var err error
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // ends with stop, or with an error
		tick := time.NewTicker(memoryInterval)
		defer tick.Stop()
		for {
			var now int64
			if now, err = residentBytes(); err != nil {
				return
			}
			most = max(most, now)
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	return func() (int64, error) {
		close(stop)
		wg.Wait()
		return most, err
	}
}
