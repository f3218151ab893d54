package faults_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// bound is how long anything may take that should take no time, on a machine that is busy.
const bound = 60 * time.Second

// op is one create by its idempotency key, and what became of it.
type op struct {
	key, text string
	runID     string // "" as long as nobody has acknowledged it
	at        time.Time
}

// put is one write to memory that was asked for.
type put struct {
	key, value string
	acked      bool
}

// load asks a node for work from many sides at once and remembers what was asked and what was answered.
type load struct {
	tenant *harness.Tenant
	texts  func(w, i int) string
	prefix string
	mu     sync.Mutex
	ops    []*op
	puts   []*put
	acks   int
	onAck  func(n int)
}

// run keeps workers busy until ctx ends. A request that meets a dead node or one that refuses is left unknown.
func (l *load) run(ctx context.Context, t *testing.T, workers int) {
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if !l.create(ctx, t, w, i) || w%4 == 0 && !l.put(ctx, w, i) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// create reports whether the node is still there.
func (l *load) create(ctx context.Context, t *testing.T, w, i int) bool {
	o := &op{key: fmt.Sprintf("%s-%d-%d", l.prefix, w, i), text: l.texts(w, i)}
	l.mu.Lock()
	l.ops = append(l.ops, o)
	l.mu.Unlock()
	a, err := l.ask(ctx, o)
	if err != nil {
		return false
	}
	switch a.Status {
	case 200, 201:
		l.acked(o, a)
	case 429: // no slot: the load is ahead of the node
		o.text = "" // surely not made
		pause(5 * time.Millisecond)
	case 503:
		if a.Str("error.details.service") == "disk" {
			o.text = "" // surely not made
			pause(5 * time.Millisecond)
		}
	default:
		t.Errorf("create %s: %d %s", o.key, a.Status, a.Body)
	}
	return true
}

func (l *load) ask(ctx context.Context, o *op) (harness.Answer, error) {
	return l.tenant.Try(ctx, "POST", "/v1/agents/"+l.tenant.Agent+"/runs", harness.Body(o.text, nil), "Idempotency-Key", o.key)
}

func (l *load) acked(o *op, a harness.Answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.runID, o.at = a.Str("run.run_id"), time.Now()
	l.acks++
	if l.onAck != nil {
		l.onAck(l.acks)
	}
}

func (l *load) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks
}

func (l *load) put(ctx context.Context, w, i int) bool {
	p := &put{key: fmt.Sprintf("%s-%d-%d", l.prefix, w, i), value: fmt.Sprintf("value %d of %d", i, w)}
	l.mu.Lock()
	l.puts = append(l.puts, p)
	l.mu.Unlock()
	a, err := l.tenant.Try(ctx, "PUT", "/v1/memory/load/"+p.key, map[string]any{"value": p.value})
	if err == nil && (a.Status == 200 || a.Status == 201) {
		l.mu.Lock()
		p.acked = true
		l.mu.Unlock()
	}
	return err == nil
}

// settle asks again for every create whose answer was lost, under its key, and checks that each key has one run.
func (l *load) settle(t *testing.T) {
	t.Helper()
	if err := l.trySettle(nil); err != nil {
		t.Fatal(err)
	}
}

// trySettle is settle that gives up when gone is closed, the node having ended.
func (l *load) trySettle(gone <-chan struct{}) error {
	var errs []error
	for _, o := range l.ops {
		if o.text == "" {
			continue
		}
		want := o.runID
		a, err := l.insist(gone, func(ctx context.Context) (harness.Answer, error) { return l.ask(ctx, o) })
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("create %s after the fault: %w", o.key, err))...)
		}
		if got := a.Str("run.run_id"); want != "" && (got != want || a.Status != 200) {
			errs = append(errs, fmt.Errorf("%w: key %s named run %s before the fault and names %s after it (status %d)", errWrong, o.key, want, got, a.Status))
		}
		o.runID = a.Str("run.run_id")
	}
	for _, p := range l.puts {
		if !p.acked {
			continue
		}
		a, err := l.tenant.Try(context.Background(), "GET", "/v1/memory/load/"+p.key, nil)
		switch {
		case err != nil:
			return errors.Join(append(errs, err)...)
		case a.Status == 404, a.Status == 200 && !strings.Contains(string(a.Body), p.value):
			errs = append(errs, fmt.Errorf("%w: memory %s: %s, want %q", errWrong, p.key, a.Body, p.value))
		case a.Status != 200:
			errs = append(errs, fmt.Errorf("memory %s: %d %s", p.key, a.Status, a.Body))
		}
	}
	return errors.Join(errs...)
}

// insist asks until it's answered with 200 or 201.
func (l *load) insist(gone <-chan struct{}, ask func(context.Context) (harness.Answer, error)) (a harness.Answer, err error) {
	over := false
	if harness.Poll(bound, 20*time.Millisecond, func() bool {
		if a, err = ask(context.Background()); err == nil && (a.Status == 200 || a.Status == 201) {
			return true
		}
		select {
		case <-gone:
			over = true
		default:
		}
		return over
	}) && !over {
		return a, nil
	}
	return a, fmt.Errorf("no answer, the last was %d %s, %w", a.Status, a.Body, errors.Join(err, errGone))
}

// errGone says that the node did not answer as it should.
var errGone = errors.New("the node does not answer")

// ended is a finished run, as it was seen once: it must stay so for ever.
type ended struct {
	status string
	sum    [32]byte
	tokens int64
	calls  []string // effect ids that were completed
}

// finish follows every run to its end and checks its journal; known are the runs that ended earlier.
func (l *load) finish(t *testing.T, known map[string]ended) {
	t.Helper()
	if err := l.tryFinish(known); err != nil {
		t.Error(err)
	}
}

// tryFinish is finish that leaves the verdict to its caller.
func (l *load) tryFinish(known map[string]ended) error {
	ids := make(chan string)
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for id := range ids {
				e, err := end(l.tenant, id)
				mu.Lock()
				if before, ok := known[id]; err == nil && ok && before.sum != e.sum {
					err = fmt.Errorf("%w: it was final and has another journal now", errWrong)
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("run %s: %w", id, err))
				} else {
					known[id] = e
				}
				mu.Unlock()
			}
		})
	}
	for _, o := range l.ops {
		if o.runID != "" && o.text != "" {
			ids <- o.runID
		}
	}
	close(ids)
	wg.Wait()
	return errors.Join(errs...)
}

// end follows one run to its final event, checks the journal, and compares the record with it.
func end(tn *harness.Tenant, id string) (ended, error) {
	events, err := tn.TryJournal(id, bound)
	if err != nil {
		return ended{}, err
	}
	if err := harness.CheckJournal(events); err != nil {
		return ended{}, fmt.Errorf("%w: %w\n%v", errWrong, err, harness.Types(events))
	}
	e := ended{status: strings.TrimPrefix(events[len(events)-1].Type, "agentos.run.")}
	h := sha256.New()
	for _, v := range events {
		h.Write([]byte(v.Raw))
		switch v.Type {
		case "agentos.tool.call.completed":
			e.calls = append(e.calls, v.Str("tool_call_id"))
		case "agentos.model.completed":
			n, _ := harness.At(v.Payload, "usage.total_tokens").(json.Number)
			tokens, _ := n.Int64()
			e.tokens += tokens
		}
	}
	h.Sum(e.sum[:0])
	a, err := tn.Try(context.Background(), "GET", "/v1/runs/"+id, nil)
	switch {
	case err != nil:
		return e, err
	case a.Status >= 500:
		return e, fmt.Errorf("GET: %d %s", a.Status, a.Body)
	case a.Str("run.status") != e.status:
		return e, fmt.Errorf("%w: the record says %q, the journal %q", errWrong, a.Str("run.status"), e.status)
	case e.status != "completed":
		return e, fmt.Errorf("%w: it ended %s: %s", errWrong, e.status, events[len(events)-1].Raw)
	}
	return e, nil
}
