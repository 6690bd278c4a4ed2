package session

import "time"

// clock provides two times, both with the store's precision (microseconds, UTC), so that an outcome is the same
// whether it comes from memory or from the store.
//
// wallNow is for timestamps that people read. now is for deadlines: it starts at the wall clock's time and then runs
// steadily, so that a wall clock that jumps by an hour neither erases a pending set early nor keeps it an hour too
// long.
type clock struct {
	wall  func() time.Time
	start time.Time // the wall clock's time at began
	began time.Time // with a monotonic reading
}

func newClock(wall func() time.Time) clock {
	return clock{wall: wall, start: wall(), began: time.Now()}
}

func (c clock) wallNow() time.Time { return c.wall().UTC().Truncate(time.Microsecond) }

func (c clock) now() time.Time {
	return c.start.Add(time.Since(c.began)).UTC().Truncate(time.Microsecond)
}
