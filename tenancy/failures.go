package tenancy

import (
	"net/netip"
	"sync"
	"time"
)

// What a source may fail before it has to wait. A secret has 256 bits: this is not what keeps it from being guessed, but
// what keeps the guessing cheap for us.
const (
	failBurst  = 50
	failEvery  = time.Second // one more each
	maxSources = 8192        // remembered at once, twice
)

// failures counts failed credentials by source and key. Good credentials never meet it, so nobody is locked out by others.
// It remembers a bounded number of sources: when the younger half is full it becomes the older one, which is let go.
type failures struct {
	now func() time.Time

	mu             sync.Mutex
	younger, older map[failure]*bucket
}

type failure struct{ source, keyID string }

type bucket struct {
	used float64
	mark time.Time
}

func (f *failures) wait(ip, keyID string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.bucket(failure{sourceOf(ip), keyID}, false)
	if b == nil {
		return 0
	}
	b.drain(f.now())
	if b.used <= failBurst-1 {
		return 0
	}
	return time.Duration((b.used - (failBurst - 1)) * float64(failEvery))
}

func (f *failures) add(ip, keyID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.bucket(failure{sourceOf(ip), keyID}, true)
	b.drain(f.now())
	b.used++
}

func (b *bucket) drain(now time.Time) {
	if gone := now.Sub(b.mark); gone > 0 {
		b.used = max(b.used-float64(gone)/float64(failEvery), 0)
	}
	b.mark = now
}

// bucket finds the bucket of k, or makes it. f.mu is held.
func (f *failures) bucket(k failure, create bool) *bucket {
	if b := f.younger[k]; b != nil {
		return b
	}
	b := f.older[k]
	if b == nil && !create {
		return nil
	}
	if b == nil {
		b = &bucket{mark: f.now()}
	}
	if f.younger == nil || len(f.younger) >= maxSources {
		f.older, f.younger = f.younger, make(map[failure]*bucket)
	}
	f.younger[k] = b
	return b
}

// sourceOf is what counts as one source: an IPv4 address, or the /64 that one IPv6 host commands.
func sourceOf(ip string) string {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		if len(ip) > 64 {
			ip = ip[:64]
		}
		return ip
	}
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	p, _ := a.Prefix(64)
	return p.String()
}
