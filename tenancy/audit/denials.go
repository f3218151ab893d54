package audit

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

const (
	// flushEvery is how long a refusal waits for others at most; the contract wants it in the audit within 3 s.
	flushEvery = time.Second
	// single is how many equal refusals of one flush get a record each; the rest share one that counts them.
	single = 10
	// maxKinds bounds how many kinds of refusals are kept apart; the rest are counted by tenant and code only, and beyond
	// twice as many in one record of the platform's.
	maxKinds = 1000
	// maxGroup bounds the records of one command.
	maxGroup = 500
	// closeWithin bounds how long Close waits for the last flush.
	closeWithin = 3 * time.Second
)

// Commands are the changes that this package makes to the store.
type Commands struct {
	refused storage.Call[refusals, int]
}

type refusals struct {
	Records []Record `json:"records"`
}

// Define adds the package's command to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{refused: storage.Define(reg, "audit.refused", evalRefused)}
}

// evalRefused appends refusals to the chains of their tenants. One that names a tenant which doesn't exist goes to the
// platform's chain: nobody makes chains by guessing names.
func evalRefused(tx storage.Tx, c refusals) (int, error) {
	known := make(map[string]bool, 1)
	for _, r := range c.Records {
		if _, asked := known[r.TenantID]; r.TenantID != "" && !asked {
			_, err := tenancy.GetTenant(tx, r.TenantID)
			if err != nil && !fault.Is(err, fault.NotFound) {
				return 0, err
			}
			known[r.TenantID] = err == nil
		}
		if r.TenantID != "" && !known[r.TenantID] {
			r.Details = with(r.Details, "claimed_tenant_id", r.TenantID)
			r.TenantID = ""
		}
		if _, err := Append(tx, r); err != nil {
			return 0, err
		}
	}
	return len(c.Records), nil
}

func with(m map[string]any, key string, value any) map[string]any {
	m = maps.Clone(m)
	if m == nil {
		m = make(map[string]any, 1)
	}
	m[key] = value
	return m
}

// Options says how to make Denials. Store and Commands are needed.
type Options struct {
	Store    storage.Store
	Commands *Commands
	Logger   *zap.Logger
}

// Denials writes down what was refused. Refusals change nothing, so they have no command of their own to ride on: they
// gather for at most a second and go to the store in groups. Equal ones above a rate share a record that counts them, so
// that who floods the door can't flood the audit, nor this node's memory. It is safe for concurrent use.
type Denials struct {
	store storage.Store
	cmds  *Commands
	log   *zap.Logger

	mu     sync.Mutex
	kinds  map[kind]*pending
	order  []kind        // of kinds, as they came
	first  chan struct{} // holds one: something waits
	closed bool

	groups []group // on their way to the store; only flush touches them

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

// kind is what makes refusals equal.
type kind struct{ tenant, principal, action, resource, code, source string }

// pending are refusals of one kind that aren't in the store yet.
type pending struct {
	records []Record // the first ones
	more    Record   // stands for all that came after them
	count   int      // how many those are
}

// group is one command: its id stays, so that asking again writes it once.
type group struct {
	id      string
	records []Record
}

// New returns Denials, which must be closed before their store.
func New(o Options) *Denials {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &Denials{
		store: o.Store, cmds: o.Commands, log: o.Logger, kinds: make(map[kind]*pending),
		first: make(chan struct{}, 1), ctx: ctx, cancel: cancel, done: make(chan struct{}),
	}
	go d.run()
	return d
}

// Refused takes note of a refusal. It never blocks on the store. Outcome is the error code; Details["source"], a text, says
// where it came from. Of the details texts, numbers and booleans are kept.
func (d *Denials) Refused(r Record) {
	bound(&r)
	source, _ := r.Details["source"].(string)
	class, _, _ := strings.Cut(r.Resource, "/")
	k := kind{tenant: r.TenantID, principal: r.Principal, action: r.Action, resource: class, code: r.Outcome, source: source}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.take(k, r)
	select {
	case d.first <- struct{}{}:
	default:
	}
}

// take adds a refusal. d.mu is held.
func (d *Denials) take(k kind, r Record) {
	p := d.kinds[k]
	if p == nil && len(d.kinds) >= maxKinds {
		k, r = coarse(k, len(d.kinds) >= 2*maxKinds)
		p = d.kinds[k]
	}
	if p == nil {
		p = new(pending)
		d.kinds[k] = p
		d.order = append(d.order, k)
	}
	if len(p.records) < single {
		p.records = append(p.records, r)
		return
	}
	p.more = r
	p.count++
}

// maxText bounds each text of a refusal: who is refused chooses some of them.
const maxText = 256

func bound(r *Record) {
	for _, s := range []*string{&r.TenantID, &r.Principal, &r.Action, &r.Resource, &r.Outcome, &r.CorrelationID, &r.Peer, &r.Policy} {
		*s = cutText(*s)
	}
	details := make(map[string]any, len(r.Details))
	for key, v := range r.Details {
		switch v := v.(type) {
		case string:
			details[cutText(key)] = cutText(v)
		case bool, int, int64, uint64, float64:
			details[cutText(key)] = v
		}
		if len(details) == 16 {
			break
		}
	}
	r.Details = details
}

func cutText(s string) string {
	if len(s) > maxText {
		return strings.Clone(s[:maxText])
	}
	return s
}

// coarse drops what tells refusals apart.
func coarse(k kind, most bool) (kind, Record) {
	c := kind{tenant: k.tenant, action: "refused", code: k.code}
	if most {
		c.tenant, c.code = "", "various"
	}
	return c, Record{TenantID: c.tenant, Action: c.action, Outcome: c.code}
}

// run flushes a second after the first refusal of a group, until Close.
func (d *Denials) run() {
	defer close(d.done)
	pause := flushEvery
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.first:
		}
		timer.Reset(pause)
		select {
		case <-d.ctx.Done():
			return
		case <-timer.C:
		}
		ctx, cancel := context.WithTimeout(d.ctx, 10*time.Second)
		err := d.flush(ctx)
		cancel()
		if err == nil {
			pause = flushEvery
			continue
		}
		if d.ctx.Err() != nil {
			return
		}
		d.log.Warn("refusals are not in the audit yet", zap.Error(err))
		pause = min(2*pause, 30*time.Second)
		select {
		case d.first <- struct{}{}:
		default:
		}
	}
}

// flush writes what waits: first the groups that the store may or may not have taken, under the ids they had. While it
// doesn't answer, what comes gathers, and is counted.
func (d *Denials) flush(ctx context.Context) error {
	if err := d.send(ctx); err != nil {
		return err
	}
	d.cut()
	return d.send(ctx)
}

func (d *Denials) send(ctx context.Context) error {
	for len(d.groups) > 0 {
		g := d.groups[0]
		if _, _, err := d.cmds.refused.Do(ctx, d.store, g.id, refusals{Records: g.records}); err != nil {
			return err
		}
		d.groups = d.groups[1:]
	}
	return nil
}

// cut makes groups of what waits.
func (d *Denials) cut() {
	d.mu.Lock()
	kinds, order := d.kinds, d.order
	d.kinds, d.order = make(map[kind]*pending), nil
	d.mu.Unlock()
	var all []Record
	for _, k := range order {
		p := kinds[k]
		all = append(all, p.records...)
		if p.count > 0 {
			p.more.Count = p.count
			all = append(all, p.more)
		}
	}
	for part := range slices.Chunk(all, maxGroup) {
		d.groups = append(d.groups, group{id: id.New(id.Command), records: part})
	}
}

// Close writes what waits, for at most a few seconds, and takes nothing more.
func (d *Denials) Close() {
	d.mu.Lock()
	closed := d.closed
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	<-d.done
	if closed {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	if err := d.flush(ctx); err != nil {
		d.log.Error("refusals could not be written to the audit", zap.Error(err))
	}
}
