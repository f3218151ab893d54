package queue

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nexixai/agentos/agent/internal/field"
	"github.com/nexixai/agentos/storage"
)

// Priority is a run's rank; the lower number goes first.
type Priority uint8

// The priorities of the contract.
const (
	High Priority = iota
	Normal
	Low
	ranks
)

// ParsePriority reads a priority of the contract.
func ParsePriority(s string) (Priority, bool) {
	switch s {
	case "high":
		return High, true
	case "normal":
		return Normal, true
	case "low":
		return Low, true
	}
	return 0, false
}

// Item is a run that waits for a worker.
type Item struct {
	TenantID, RunID string
	Priority        Priority
	// Region, when set, is the only region whose nodes may take the item.
	Region string
	// CreatedMS orders items that are otherwise equal, in Unix milliseconds.
	CreatedMS int64
}

// Where the queue lies. Each region has lines of its own, beside those of items that may run anywhere.
const (
	lineKeys = "queue/line/" // queue/line/{region}/{rank}/{tag}/{created}/{tenant}/{run}
	sizeKeys = "queue/size/" // queue/size/{region}: how many wait, by rank
	timeKeys = "queue/time/" // queue/time/{region}/{rank}: the line's virtual time
	tagKeys  = "queue/tag/"  // queue/tag/{region}/{rank}/{tenant}: where the tenant's next item begins
	anywhere = "*"           // no region can be called that
	// turn is what one item advances its tenant's virtual time by, at weight 1.
	turn = 1 << 20
)

// Push puts it at the end of its tenant's share of the line and returns its place, which Remove takes. Tenants that wait
// in one line are served in proportion to their weights (at least 1); within a tenant, first come is first served. This is
// start-time fair queueing (Goyal, Vin, Cheng, 1996), with every item at the same cost.
func Push(tx storage.Tx, it Item, weight int) (place string, err error) {
	now, err := readUint(tx, it.timeKey())
	if err != nil {
		return "", err
	}
	tagKey := it.tagKey()
	tag, err := readUint(tx, tagKey)
	if err != nil {
		return "", err
	}
	tag = max(tag, now)
	tx.Set(tagKey, field.Uint(nil, tag+turn/uint64(max(weight, 1))))
	return push(tx, it, tag)
}

// Return puts back an item that was taken in vain, before all that came after it, without charging its tenant again.
func Return(tx storage.Tx, it Item) (place string, err error) {
	now, err := readUint(tx, it.timeKey())
	if err != nil {
		return "", err
	}
	return push(tx, it, now)
}

func push(tx storage.Tx, it Item, tag uint64) (string, error) {
	b := append(it.line(make([]byte, 0, 192), lineKeys), '/')
	b = appendPadded(b, tag, 20)
	b = append(b, '/')
	b = appendPadded(b, uint64(max(it.CreatedMS, 0)), 13)
	b = append(append(append(append(b, '/'), it.TenantID...), '/'), it.RunID...)
	place := string(b)
	tx.Set(place, nil)
	return place, resize(tx, it.region(), it.Priority, 1)
}

// Remove takes an item out of the line, wherever it stands.
func Remove(tx storage.Tx, place string) error {
	it, _, err := parsePlace(place)
	if err != nil {
		return err
	}
	if there, err := tx.Get(place); err != nil || there == nil {
		return err
	}
	tx.Delete(place)
	return resize(tx, it.region(), it.Priority, -1)
}

// Take removes and returns the item whose turn it is at a node of region; ok is false when nothing waits for such a node.
func Take(tx storage.Tx, region string) (it Item, ok bool, err error) {
	place, err := first(tx, region)
	if err != nil || place == "" {
		return Item{}, false, err
	}
	it, tag, err := parsePlace(place)
	if err != nil {
		return Item{}, false, err
	}
	tx.Set(it.timeKey(), field.Uint(nil, tag))
	tx.Delete(place)
	return it, true, resize(tx, it.region(), it.Priority, -1)
}

// first finds the place of the item whose turn it is.
func first(r storage.Reader, region string) (string, error) {
	lines := []string{anywhere}
	if region != "" {
		lines = append(lines, region)
	}
	sizes := make([][ranks]uint64, len(lines))
	for i, line := range lines {
		var err error
		if sizes[i], err = readSize(r, line); err != nil {
			return "", err
		}
	}
	for rank := range ranks {
		best, bestAge := "", ""
		for i, line := range lines {
			if sizes[i][rank] == 0 {
				continue
			}
			prefix := lineKeys + line + "/" + strconv.Itoa(int(rank)) + "/"
			err := r.Scan(storage.Prefix(prefix), func(key string, _ []byte) bool {
				// Lines have virtual times of their own, so between two lines the older item goes first.
				if age := key[len(prefix)+21:]; best == "" || age < bestAge {
					best, bestAge = key, age
				}
				return false
			})
			if err != nil {
				return "", err
			}
		}
		if best != "" {
			return best, nil
		}
	}
	return "", nil
}

// Waits reports whether anything that a node of region may take waits at rank or above.
func Waits(r storage.Reader, region string, rank Priority) (bool, error) {
	for _, line := range [...]string{anywhere, region} {
		if line == "" {
			continue
		}
		size, err := readSize(r, line)
		if err != nil {
			return false, err
		}
		for i := High; i <= rank && i < ranks; i++ {
			if size[i] > 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// Depth counts the items that wait, by priority, over all regions.
func Depth(r storage.Reader) (high, normal, low uint64, err error) {
	var broken error
	err = r.Scan(storage.Prefix(sizeKeys), func(_ string, value []byte) bool {
		size, err := parseSize(value)
		high, normal, low, broken = high+size[High], normal+size[Normal], low+size[Low], err
		return err == nil
	})
	if err == nil {
		err = broken
	}
	return high, normal, low, err
}

func (it *Item) region() string {
	if it.Region == "" {
		return anywhere
	}
	return it.Region
}

func (it *Item) line(b []byte, root string) []byte {
	b = append(b, root...)
	b = append(b, it.region()...)
	return append(b, '/', '0'+byte(it.Priority))
}

func (it *Item) timeKey() string { return string(it.line(make([]byte, 0, 64), timeKeys)) }

func (it *Item) tagKey() string {
	b := append(it.line(make([]byte, 0, 128), tagKeys), '/')
	return string(append(b, it.TenantID...))
}

func parsePlace(place string) (it Item, tag uint64, err error) {
	part := strings.SplitN(strings.TrimPrefix(place, lineKeys), "/", 6)
	if len(part) != 6 || len(part[1]) != 1 || part[1][0] < '0' || part[1][0] >= '0'+byte(ranks) {
		return it, 0, fmt.Errorf("queue: broken place %q", place)
	}
	it = Item{Priority: Priority(part[1][0] - '0'), TenantID: part[4], RunID: part[5]}
	if part[0] != anywhere {
		it.Region = part[0]
	}
	if tag, err = strconv.ParseUint(part[2], 10, 64); err == nil {
		it.CreatedMS, err = strconv.ParseInt(part[3], 10, 64)
	}
	if err != nil {
		return it, 0, fmt.Errorf("queue: broken place %q: %w", place, err)
	}
	return it, tag, nil
}

func readSize(r storage.Reader, line string) (size [ranks]uint64, err error) {
	raw, err := r.Get(sizeKeys + line)
	if err != nil {
		return size, fmt.Errorf("queue: read size: %w", err)
	}
	return parseSize(raw)
}

func parseSize(raw []byte) (size [ranks]uint64, err error) {
	in := field.Read(raw)
	for i := range size {
		size[i] = in.Uint()
	}
	return size, in.Err()
}

func resize(tx storage.Tx, line string, rank Priority, by int) error {
	size, err := readSize(tx, line)
	if err != nil {
		return err
	}
	if by < 0 && size[rank] == 0 {
		return fmt.Errorf("queue: line %s/%d counts fewer than it holds", line, rank)
	}
	size[rank] += uint64(by)
	b := make([]byte, 0, 16)
	for _, n := range size {
		b = field.Uint(b, n)
	}
	tx.Set(sizeKeys+line, b)
	return nil
}

func readUint(r storage.Reader, key string) (uint64, error) {
	raw, err := r.Get(key)
	if err != nil {
		return 0, fmt.Errorf("queue: read %s: %w", key, err)
	}
	in := field.Read(raw)
	return in.Uint(), in.Err()
}

func appendPadded(b []byte, n uint64, width int) []byte {
	var digits [20]byte
	d := strconv.AppendUint(digits[:0], n, 10)
	for i := len(d); i < width; i++ {
		b = append(b, '0')
	}
	return append(b, d...)
}
