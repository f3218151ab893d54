package replica

import "github.com/hashicorp/raft"

// logCache holds the newest entries of the log in memory, up to limit bytes: a leader reads them to send them, a follower
// to apply them. The owner locks it. Its zero value holds nothing.
type logCache struct {
	limit, size int
	entries     []raft.Log // consecutive
}

func (c *logCache) add(entries []*raft.Log) {
	if c.limit == 0 {
		return
	}
	if n := len(c.entries); n > 0 && c.entries[n-1].Index+1 != entries[0].Index {
		c.drop(n)
	}
	for _, e := range entries {
		c.entries = append(c.entries, *e)
		c.size += weight(*e)
	}
	over := 0
	for size := c.size; size > c.limit && over < len(c.entries); over++ {
		size -= weight(c.entries[over])
	}
	c.drop(over)
}

func weight(e raft.Log) int { return len(e.Data) + len(e.Extensions) + 128 }

// drop forgets the n oldest entries.
func (c *logCache) drop(n int) {
	for i := range n {
		c.size -= weight(c.entries[i])
		c.entries[i] = raft.Log{} // let its bytes go; the slot goes with the next growth
	}
	if c.entries = c.entries[n:]; len(c.entries) == 0 {
		c.entries, c.size = nil, 0
	}
}

func (c *logCache) get(index uint64, e *raft.Log) bool {
	if len(c.entries) == 0 || index < c.entries[0].Index {
		return false
	}
	at := index - c.entries[0].Index
	if at >= uint64(len(c.entries)) {
		return false
	}
	*e = c.entries[at]
	return true
}

// cut keeps what lies between first and last.
func (c *logCache) cut(first, last uint64) {
	for n := len(c.entries); n > 0 && (last == 0 || c.entries[n-1].Index > last); n = len(c.entries) {
		c.size -= weight(c.entries[n-1])
		c.entries = c.entries[:n-1]
	}
	n := 0
	for n < len(c.entries) && c.entries[n].Index < first {
		n++
	}
	c.drop(n)
}

// setLimit changes how much is held.
func (c *logCache) setLimit(limit int) {
	if c.limit = limit; limit == 0 {
		c.drop(len(c.entries))
	}
}
