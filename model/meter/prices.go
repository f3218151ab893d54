package meter

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

// pricesKey holds the cluster's price list; while there is none, DefaultTable stands.
const pricesKey = "model/prices"

// Commands are the changes of prices.
type Commands struct {
	put storage.Call[putArgs, struct{}]
}

// Define adds the commands to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{put: storage.Define(reg, "prices.put", put)}
}

type putArgs struct {
	TenantID      string          `json:"tenant_id"` // of who asks
	Principal     string          `json:"principal"`
	CorrelationID string          `json:"correlation_id"`
	Table         json.RawMessage `json:"table"`
}

func put(tx storage.Tx, a putArgs) (none struct{}, err error) {
	tx.Set(pricesKey, a.Table)
	_, err = audit.Append(tx, audit.Record{
		TenantID: a.TenantID, Principal: a.Principal, Action: "prices.put", Resource: "prices", Outcome: "ok", CorrelationID: a.CorrelationID,
	})
	return none, err
}

// PricesOptions says what Prices are made of. All but the Logger are needed.
type PricesOptions struct {
	Store    storage.Store
	Commands *Commands
	Meter    *Meter
	Logger   *zap.Logger
}

// Prices keeps the price list in the store, and the node's meter by it: a new list holds at this node when Put returns, and
// at every other as soon as its copy has it.
type Prices struct {
	o      PricesOptions
	reload chan struct{} // holds one: read anew
	cancel context.CancelFunc
	stop   func()
	wg     sync.WaitGroup

	mu    sync.Mutex
	index uint64 // of the state that the meter goes by
}

var _ storage.Watcher = (*Prices)(nil)

// NewPrices returns the prices in o.Store, which need not have been started yet. They must be closed.
func NewPrices(o PricesOptions) *Prices {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Prices{o: o, reload: make(chan struct{}, 1), cancel: cancel}
	p.reload <- struct{}{}
	p.stop = o.Store.Watch(pricesKey, p)
	p.wg.Go(func() { p.run(ctx) })
	return p
}

// Close ends what the prices do on their own, and waits for it.
func (p *Prices) Close() {
	p.cancel()
	p.stop()
	p.wg.Wait()
}

// Put replaces the list. An error names the field at fault, within prices.
func (p *Prices) Put(ctx context.Context, by tenancy.Actor, l *PriceList) (*PriceList, uint64, error) {
	t, err := l.Table(time.Now())
	if err != nil {
		return nil, 0, strictjson.Within("prices", err)
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return nil, 0, fmt.Errorf("meter: encode prices: %w", err)
	}
	_, index, err := p.o.Commands.put.Do(ctx, p.o.Store, id.New(id.Command), putArgs{
		TenantID: by.Auth.TenantID, Principal: by.Auth.Principal.ID, CorrelationID: by.CorrelationID, Table: raw,
	})
	return t.List(), index, err
}

// Get returns the list in force.
func (p *Prices) Get(ctx context.Context, read storage.Read) (l *PriceList, index uint64, err error) {
	t := DefaultTable()
	err = p.o.Store.View(ctx, read, func(s storage.Snapshot) error {
		index = s.Index()
		raw, err := s.Get(pricesKey)
		if err != nil || raw == nil {
			return err
		}
		t, err = decodeTable(raw)
		return err
	})
	return t.List(), index, err
}

func decodeTable(raw []byte) (t Table, err error) {
	if err = json.Unmarshal(raw, &t); err != nil {
		err = fmt.Errorf("meter: decode prices: %w", err)
	}
	return t, err
}

// Applied implements storage.Watcher. A list is small and changes seldom, so it's read here: whoever put it finds it in
// force.
func (p *Prices) Applied(index uint64, changes []storage.Change) {
	for _, c := range changes {
		if c.Key == pricesKey && c.RangeEnd == "" {
			p.take(index, c.Value)
		}
	}
}

// Jumped implements storage.Watcher.
func (p *Prices) Jumped(uint64) {
	select {
	case p.reload <- struct{}{}:
	default:
	}
}

// take puts a stored list in force, unless a newer state has been taken.
func (p *Prices) take(index uint64, raw []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if index < p.index {
		return
	}
	p.index = index
	t, err := DefaultTable(), error(nil)
	if raw != nil {
		t, err = decodeTable(raw)
	}
	if err == nil {
		err = p.o.Meter.Replace(t)
	}
	if err != nil {
		p.o.Logger.Error("the stored prices can't be used; those before stay in force", zap.Error(err))
	}
}

// run reads the list at the start and after each jump.
func (p *Prices) run(ctx context.Context) {
	const pause = 100 * time.Millisecond
	again := time.NewTimer(pause)
	defer again.Stop()
	again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.reload:
		case <-again.C:
		}
		err := p.o.Store.View(ctx, storage.Read{Consistency: storage.Stale}, func(s storage.Snapshot) error {
			raw, err := s.Get(pricesKey)
			if err == nil {
				p.take(s.Index(), raw)
			}
			return err
		})
		if err != nil { // the store has not been started yet
			again.Reset(pause)
		}
	}
}
