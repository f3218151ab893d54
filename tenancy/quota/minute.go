package quota

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/nexixai/agentos/storage"
)

// span is how many seconds the window of a per-minute limit looks at: 60, and the one that has only begun, so that no 60
// seconds, wherever they begin, hold more than the limit.
const span = 61

// minute counts what happened in the last minute, second by second.
type minute struct {
	head   int64        // Unix second of counts[0]
	counts [span]uint32 // by age in seconds
}

const minuteSize = 8 + 4*span

func readMinute(r storage.Reader, key string) (m minute, err error) {
	raw, err := r.Get(key)
	if err != nil || raw == nil {
		return m, err
	}
	if len(raw) != minuteSize {
		return m, fmt.Errorf("quota: %s has %d bytes", key, len(raw))
	}
	m.head = int64(binary.BigEndian.Uint64(raw))
	for i := range m.counts {
		m.counts[i] = binary.BigEndian.Uint32(raw[8+4*i:])
	}
	return m, nil
}

func (m *minute) write(tx storage.Tx, key string) {
	var b [minuteSize]byte
	binary.BigEndian.PutUint64(b[:], uint64(m.head))
	for i, n := range m.counts {
		binary.BigEndian.PutUint32(b[8+4*i:], n)
	}
	tx.Set(key, b[:])
}

// advance moves the window to now. A clock that steps backwards a little is waited for. After a larger step the window
// moves back with all it holds, but for the oldest where that leaves no room: the one call that gets in by it sets the
// window's new place, which a refusal, leaving no trace, could not.
func (m *minute) advance(most int64, now time.Time) {
	second := now.Unix()
	switch gone := second - m.head; {
	case gone > 0:
		n := int(min(gone, span))
		copy(m.counts[n:], m.counts[:span-n])
		clear(m.counts[:n])
		m.head = second
	case -gone > int64(smallStep/time.Second):
		over := m.sum() - most + 1
		for age := span - 1; age >= 0 && over > 0; age-- {
			out := min(int64(m.counts[age]), over)
			m.counts[age] -= uint32(out)
			over -= out
		}
		m.head = second
	}
}

func (m *minute) sum() (n int64) {
	for _, c := range m.counts {
		n += int64(c)
	}
	return n
}

// take counts one more, or says how long until one more fits.
func (m *minute) take(most int64, now time.Time) (wait time.Duration) {
	if most <= 0 {
		return neverRetry
	}
	m.advance(most, now)
	if sum := m.sum(); sum >= most {
		return m.wait(sum-most+1, now)
	}
	if m.counts[0] < math.MaxUint32 {
		m.counts[0]++
	}
	return 0
}

// wait says when the oldest n will have left the window.
func (m *minute) wait(n int64, now time.Time) time.Duration {
	for age := span - 1; age >= 0; age-- {
		if n -= int64(m.counts[age]); n <= 0 {
			return time.Unix(m.head+int64(span-age), 0).Sub(now)
		}
	}
	return time.Minute
}
