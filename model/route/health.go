package route

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

const (
	// latencyMemory is how long a measured latency counts: a model that was slow gets another chance.
	latencyMemory = time.Minute
	// maxRetryAfter bounds how long a backend's Retry-After is obeyed, so that a wrong header can't switch it off for good.
	maxRetryAfter = 10 * time.Minute
	// maxSeen bounds the models whose latency is remembered.
	maxSeen = 1024
)

// health is what calls have shown of the backends.
type health struct {
	threshold   int
	cooldown    time.Duration
	maxCooldown time.Duration
	now         func() time.Time

	mu       sync.Mutex
	breakers map[string]*breaker
	seen     map[string]seen
}

// breaker spares one backend: closed it lets all calls through; after threshold failures in a row it's open until a time;
// then one call may try, and its end closes or opens it again.
type breaker struct {
	failures int
	opened   int // times in a row it opened
	until    time.Time
	trying   time.Time // since when one call tries; zero when none does
	limited  time.Time // the backend's own Retry-After
}

type seen struct {
	latency time.Duration
	at      time.Time
}

func newHealth(o Options) *health {
	h := &health{
		threshold: o.Threshold, cooldown: o.Cooldown, maxCooldown: o.MaxCooldown, now: o.Now,
		breakers: make(map[string]*breaker), seen: make(map[string]seen),
	}
	if h.threshold <= 0 {
		h.threshold = 5
	}
	if h.cooldown <= 0 {
		h.cooldown = 2 * time.Second
	}
	if h.maxCooldown < h.cooldown {
		h.maxCooldown = max(time.Minute, h.cooldown)
	}
	if h.now == nil {
		h.now = time.Now
	}
	return h
}

// reason tells whether a backend is fit to be called, and changes nothing.
func (h *health) reason(backend string) model.Reason {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, b := h.now(), h.breakers[backend]
	switch {
	case b == nil:
		return model.Reason{Check: "health", OK: true, Detail: "the backend answers"}
	case b.limited.After(now):
		return model.Reason{Check: "health", Detail: fmt.Sprintf("the backend asked to be left alone for %s", b.limited.Sub(now).Round(time.Second))}
	case b.until.After(now):
		return model.Reason{Check: "health", Detail: fmt.Sprintf("the breaker is open for %s after %d failures in a row", b.until.Sub(now).Round(time.Second), b.failures)}
	}
	return model.Reason{Check: "health", OK: true, Detail: "the backend answers"}
}

func (h *health) begin(backend string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, b := h.now(), h.breakers[backend]
	switch {
	case b == nil:
		return nil
	case b.limited.After(now):
		return fault.New(fault.RateLimited, "The model backend %q takes no more calls for now; try again later or name another model.", backend).
			With("service", backend).After(b.limited.Sub(now))
	case b.until.After(now):
		return away(backend, b.until.Sub(now))
	case b.opened > 0: // half open
		if !b.trying.IsZero() && now.Sub(b.trying) < h.maxCooldown {
			return away(backend, h.cooldown)
		}
		b.trying = now
	}
	return nil
}

func away(backend string, wait time.Duration) error {
	return fault.New(fault.Unavailable, "The model backend %q has failed several times in a row and is being spared; try again later or name another model.", backend).
		With("service", backend).After(wait)
}

func (h *health) end(backend, id string, rep model.Report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, b := h.now(), h.breakers[backend]
	if rep.Err == nil {
		delete(h.breakers, backend)
		h.measure(id, rep.Latency, now)
		return
	}
	if b == nil {
		b = &breaker{}
	}
	b.trying = time.Time{}
	switch code := fault.CodeOf(rep.Err); {
	case rep.Left: // the caller went away; that says nothing
	case code == fault.RateLimited:
		if wait := min(fault.Of(rep.Err).RetryAfter, maxRetryAfter); wait > 0 {
			b.limited = now.Add(wait)
		}
		h.breakers[backend] = b
	case code.Retryable():
		b.failures++
		if wait := min(fault.Of(rep.Err).RetryAfter, maxRetryAfter); wait > 0 {
			b.limited = now.Add(wait)
		}
		if b.failures >= h.threshold || b.opened > 0 {
			wait := float64(h.cooldown) * math.Pow(2, float64(min(b.opened, 30)))
			b.opened++
			b.until = now.Add(time.Duration(min(wait, float64(h.maxCooldown))))
		}
		h.breakers[backend] = b
	default: // the backend answered: the request was at fault
		if b.opened > 0 {
			delete(h.breakers, backend)
		} else {
			b.failures = 0
		}
	}
}

func (h *health) measure(id string, latency time.Duration, now time.Time) {
	s, ok := h.seen[id]
	if !ok && len(h.seen) >= maxSeen {
		clear(h.seen)
	}
	if !ok || now.Sub(s.at) > latencyMemory {
		s.latency = latency
	} else {
		s.latency += (latency - s.latency) / 4
	}
	h.seen[id] = seen{latency: s.latency, at: now}
}

// latency returns how long a model has taken of late.
func (h *health) latency(id string) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.seen[id]
	if !ok || h.now().Sub(s.at) > latencyMemory {
		return 0, false
	}
	return s.latency, true
}
