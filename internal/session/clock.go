package session

import "time"

// clock tells two times, both as the store keeps them (microseconds, UTC), since an outcome
// must be the same whether it comes from memory or from there.
//
// wallNow is for people: when something was made, who did what when. now is for deadlines:
// it starts at the wall's time and goes on steadily, so that a wall clock that jumps by an
// hour neither erases a set that waits for its confirmation nor keeps it an hour too long.
type clock struct {
	wall  func() time.Time
	start time.Time // the wall's, when began was
	began time.Time // with a monotonic reading
}

func newClock(wall func() time.Time) clock {
	return clock{wall: wall, start: wall(), began: time.Now()}
}

func (c clock) wallNow() time.Time { return c.wall().UTC().Truncate(time.Microsecond) }

func (c clock) now() time.Time {
	return c.start.Add(time.Since(c.began)).UTC().Truncate(time.Microsecond)
}
