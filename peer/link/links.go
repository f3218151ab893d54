package link

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
)

// DefaultMaxAnswer is the longest answer, in bytes, that is read of a call that isn't a stream.
const DefaultMaxAnswer = 4 << 20

// Target is a federation door of a peer.
type Target struct {
	PeeringID string
	// Address is HOST:PORT.
	Address string
	// StackID, unless "", is the node that must answer there.
	StackID string
}

// Request is one call at a peer's door. It is sent at most once: nothing resends it by itself.
type Request struct {
	Method string
	// Path begins with a slash and may have a query.
	Path   string
	Header http.Header
	// Body is the JSON to be sent; nil for none.
	Body []byte
	// For says on whose behalf the call is made: Subject, TenantID (theirs), Scopes, PolicyContext, Actors and Hops; what the
	// link itself knows is set by it, and ID when it's "". nil: for this node itself, which then needs no token.
	For *trust.ForwardClaims
	// MaxAnswer bounds the answer's body; 0 means DefaultMaxAnswer, below 0 there is no bound, as for a stream.
	MaxAnswer int64
}

// Peerings are the relations that there are. *registry.Peerings implements it.
type Peerings interface {
	ByID(peeringID string) (registry.Peering, bool)
	Listen(heard func())
}

var _ Peerings = (*registry.Peerings)(nil)

// Options are what Links are made of.
type Options struct {
	Credentials *trust.Credentials
	Peerings    Peerings
	// ClusterID is this cluster's.
	ClusterID string
	// Dial opens TCP connections; nil means as usual.
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Logger *zap.Logger
}

// Links are the kept connections to other organisations' doors. Whoever polls a door keeps one warm there; a call takes it,
// and another is opened only while it's in use. Safe for concurrent use.
type Links struct {
	o   Options
	log *zap.Logger

	mu     sync.Mutex
	pools  map[Target]*pool
	closed bool
}

// New returns Links without any connection.
func New(o Options) *Links {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	l := &Links{o: o, log: o.Logger, pools: make(map[Target]*pool)}
	o.Peerings.Listen(l.cut)
	return l
}

// Close ends every connection, and every call with it.
func (l *Links) Close() {
	l.mu.Lock()
	pools := l.pools
	l.pools, l.closed = nil, true
	l.mu.Unlock()
	for _, p := range pools {
		p.close()
	}
}

// cut ends what belongs to a peering that isn't in force, or isn't the same any more.
func (l *Links) cut() {
	l.mu.Lock()
	var over []*pool
	for target, p := range l.pools {
		if now, ok := l.o.Peerings.ByID(target.PeeringID); !ok || now.State != registry.PeeringActive || !p.serves(&now) {
			over = append(over, p)
			delete(l.pools, target)
		}
	}
	l.mu.Unlock()
	for _, p := range over {
		l.log.Info("cut the connections to a door: its peering is not in force", zap.String("peering_id", p.target.PeeringID), zap.String("address", p.target.Address))
		p.close()
	}
}

// Do makes one call and returns its answer, whatever its status; the caller closes the body, which ends with an error
// where the answer is longer than it may be. An error means that there is no answer; see Unsent.
func (l *Links) Do(ctx context.Context, to Target, r Request) (*http.Response, error) {
	peering, ok := l.o.Peerings.ByID(to.PeeringID)
	if !ok || peering.State != registry.PeeringActive {
		state := registry.PeeringState("unknown")
		if ok {
			state = peering.State
		}
		err := fault.New(fault.Unavailable, "Nothing goes to the peering %s: it is %s.", to.PeeringID, state)
		return nil, &failure{unsent: true, err: err.With("service", "federation").With("peer", peering.Organization)}
	}
	p, err := l.pool(to, &peering)
	if err != nil {
		return nil, &failure{unsent: true, err: err}
	}
	return p.do(ctx, &r)
}

// pool returns the connections to a door, with the certificate that is in use now.
func (l *Links) pool(to Target, peering *registry.Peering) (*pool, error) {
	leaf := l.o.Credentials.Leaf()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fault.New(fault.Unavailable, "This node is stopping.").With("service", "node")
	}
	p := l.pools[to]
	if p != nil && p.serves(peering) && p.signer.Leaf().Equal(leaf) {
		p.used = time.Now()
		return p, nil
	}
	fresh, err := newPool(&l.o, to, peering)
	if err != nil {
		return nil, err
	}
	if p != nil {
		p.retire() // calls under way end as they may
	}
	l.pools[to] = fresh
	for target, old := range l.pools { // doors that nobody asks at any more
		if time.Since(old.used) > forgetAfter {
			delete(l.pools, target)
			old.retire()
		}
	}
	return fresh, nil
}

// forgetAfter is how long a door's pool is kept that isn't used.
const forgetAfter = 10 * time.Minute

// failure is a call without an answer.
type failure struct {
	unsent bool
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// Unsent reports whether err, of Do, came before any byte of the request was written: then the other side surely doesn't
// know of it. Any other error leaves open what became of it.
func Unsent(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.unsent
}

// bounded ends a body that is too long with an error.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLong
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n + int(b.left), errTooLong
	}
	return n, err
}

var errTooLong = errors.New("link: the answer is longer than it may be")

// newJTI names a token.
func newJTI() string { return id.New("jti_") }
