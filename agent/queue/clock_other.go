//go:build !linux

package queue

import "time"

// sinceBoot has to count the time a machine sleeps, which the monotonic clock of some systems doesn't: the wall clock does.
func sinceBoot() time.Duration { return time.Duration(time.Now().UnixNano()) }
