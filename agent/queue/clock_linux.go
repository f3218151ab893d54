package queue

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot is the time since the machine started, counting the time it slept.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Duration(time.Now().UnixNano()) // every Linux has this clock; without it the wall clock must do
	}
	return time.Duration(ts.Nano())
}
