package pairing

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What one source may ask of the join call. Invitations can't be guessed; this bounds the work.
const (
	joinsPerSecond = 5
	joinBurst      = 20
	// maxSources bounds the sources that are told apart, twice.
	maxSources = 4096
)

// limits counts by source. When the younger half is full it becomes the older one, which is let go: a source that is met
// again moves to the younger, so who asks often stays known.
type limits struct {
	now func() time.Time

	mu             sync.Mutex
	younger, older map[string]*rate.Limiter
}

func newLimits(now func() time.Time) *limits {
	return &limits{now: now, younger: make(map[string]*rate.Limiter)}
}

func (l *limits) allow(source string) bool {
	source = network(source)
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.younger[source]
	if one == nil {
		if one = l.older[source]; one == nil {
			one = rate.NewLimiter(joinsPerSecond, joinBurst)
		}
		if len(l.younger) >= maxSources {
			l.younger, l.older = make(map[string]*rate.Limiter), l.younger
		}
		l.younger[source] = one
	}
	return one.AllowN(l.now(), 1)
}

// network is what counts as one source: an IPv4 address, or a /64 of IPv6, which one host has whole.
func network(source string) string {
	ip, err := netip.ParseAddr(source)
	if err != nil || ip.Unmap().Is4() {
		return source
	}
	p, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return source
	}
	return p.String()
}
