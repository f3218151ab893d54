package lobby

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What one source may ask of a call for strangers. What they bring can't be guessed; this bounds the work.
const (
	callsPerSecond = 5
	callBurst      = 20
	// maxSources bounds the sources that are told apart, twice.
	maxSources = 4096
)

// Sources counts the calls of strangers by where they come from. It's safe for concurrent use.
//
// When the younger half is full it becomes the older one, which is let go: a source that is met again moves to the younger,
// so who asks often stays known.
type Sources struct {
	now func() time.Time

	mu             sync.Mutex
	younger, older map[string]*rate.Limiter
}

// NewSources returns Sources by the clock now; nil means time.Now.
func NewSources(now func() time.Time) *Sources {
	if now == nil {
		now = time.Now
	}
	return &Sources{now: now, younger: make(map[string]*rate.Limiter)}
}

// Allow reports whether source, an IP address, may call once more.
func (l *Sources) Allow(source string) bool {
	source = network(source)
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.younger[source]
	if one == nil {
		if one = l.older[source]; one == nil {
			one = rate.NewLimiter(callsPerSecond, callBurst)
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
