package zaplog

import (
	"sync"
	"time"
)

// maxRepeats is how many lines Repeats tells apart; the ones beyond share a place. A stranger's words may be in a line, so
// their number needs a bound.
const maxRepeats = 256

// Repeats keeps what says the same again and again from filling the log: it is told once, and then at most once in each
// interval, with how many were left out. Safe for concurrent use.
type Repeats struct {
	every time.Duration

	mu    sync.Mutex
	lines map[string]*repeat
}

type repeat struct {
	told time.Time
	left int
}

// NewRepeats returns a Repeats that tells each line at most once in every.
func NewRepeats(every time.Duration) *Repeats {
	return &Repeats{every: every, lines: make(map[string]*repeat)}
}

// Tell reports whether the line named key is to be told now, and how many like it were left out since it last was.
func (r *Repeats) Tell(key string) (left int, tell bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	line := r.lines[key]
	if line == nil {
		if len(r.lines) >= maxRepeats {
			r.tidy(now)
		}
		if len(r.lines) >= maxRepeats {
			key = "" // the place of all the others
			line = r.lines[key]
		}
		if line == nil {
			r.lines[key] = &repeat{told: now}
			return 0, true
		}
	}
	if now.Sub(line.told) < r.every {
		line.left++
		return 0, false
	}
	left, line.left, line.told = line.left, 0, now
	return left, true
}

// tidy drops the lines that would be told anyway, and of which none was left out.
func (r *Repeats) tidy(now time.Time) {
	for key, line := range r.lines {
		if line.left == 0 && now.Sub(line.told) >= r.every {
			delete(r.lines, key)
		}
	}
}

// Over ends the lines that over picks: what they told of is past, and coming again it is news. It returns how many lines
// it ended, and how many like them had been left out.
func (r *Repeats) Over(over func(key string) bool) (ended, left int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, line := range r.lines {
		if over(key) {
			ended, left = ended+1, left+line.left
			delete(r.lines, key)
		}
	}
	return ended, left
}
