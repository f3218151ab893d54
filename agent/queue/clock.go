package queue

import "time"

// moment is one reading of both clocks by which a node judges the age of its own lease. The boot clock counts suspended
// time and never steps; the wall clock catches what a boot clock of a paused virtual machine misses.
type moment struct {
	boot time.Duration
	wall time.Time
}

func (s *Sessions) moment() moment { return moment{boot: s.boot(), wall: s.now().Round(0)} }

// since is the larger of what both clocks say has passed.
func (m moment) since(earlier moment) time.Duration {
	return max(m.boot-earlier.boot, m.wall.Sub(earlier.wall))
}
