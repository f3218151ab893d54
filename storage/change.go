package storage

import "slices"

// Within returns what of changes lies in span, as a watcher of that span sees it: removed ranges, clipped to the span,
// then keys in order. changes are in the order of Group.Each. The result may share their memory.
func Within(changes []Change, span Range) []Change {
	ranges := 0
	for ranges < len(changes) && changes[ranges].RangeEnd != "" {
		ranges++
	}
	keys := changes[ranges:]
	from, _ := slices.BinarySearchFunc(keys, span.From, compareKey)
	to := len(keys)
	if span.To != "" {
		to, _ = slices.BinarySearchFunc(keys, span.To, compareKey)
	}
	keys = keys[min(from, to):to]
	var clipped []Change
	for _, c := range changes[:ranges] {
		c.Key = max(c.Key, span.From)
		if span.To != "" {
			c.RangeEnd = min(c.RangeEnd, span.To)
		}
		if c.Key < c.RangeEnd {
			clipped = append(clipped, c)
		}
	}
	if clipped == nil {
		return keys
	}
	return append(clipped, keys...)
}

func compareKey(c Change, key string) int {
	switch {
	case c.Key < key:
		return -1
	case c.Key > key:
		return 1
	}
	return 0
}
