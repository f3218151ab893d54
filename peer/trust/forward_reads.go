package trust

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// provenTokens is how many tokens a ForwardReads remembers; the oldest makes room.
const provenTokens = 1024

// ForwardReads reads the tokens of calls that change nothing. Such a token may be shown again until it expires, and its
// signature is proven only the first time; its times, and whose connection it comes over, are looked at each time. The zero
// value is ready, and it is safe for concurrent use.
type ForwardReads struct {
	mu     sync.Mutex
	proven map[[sha256.Size]byte]*forwardWire
	ring   [provenTokens][sha256.Size]byte // the oldest at next
	next   int
}

// Verify is VerifyForward for a call that changes nothing.
func (r *ForwardReads) Verify(token string, leaf *x509.Certificate, audience string, now time.Time) (*ForwardClaims, error) {
	key := shown(token, leaf)
	r.mu.Lock()
	w := r.proven[key]
	r.mu.Unlock()
	if w != nil {
		c, err := w.check(leaf, audience, now)
		return c, unacceptable(err)
	}
	w, err := proveForward(token, leaf)
	if err != nil {
		return nil, unacceptable(err)
	}
	c, err := w.check(leaf, audience, now)
	if err != nil {
		return nil, unacceptable(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proven == nil {
		r.proven = make(map[[sha256.Size]byte]*forwardWire, provenTokens)
	}
	if r.proven[key] == nil {
		delete(r.proven, r.ring[r.next])
		r.ring[r.next], r.proven[key] = key, w
		r.next = (r.next + 1) % provenTokens
	}
	return c, nil
}

// shown names a token as it is shown over a connection of one certificate.
func shown(token string, leaf *x509.Certificate) (sum [sha256.Size]byte) {
	h := sha256.New()
	own := sha256.Sum256(leaf.Raw)
	h.Write(own[:])
	h.Write([]byte(token))
	h.Sum(sum[:0])
	return sum
}
