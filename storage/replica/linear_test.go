package replica_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// touch is one operation on one key, and what came of it. A register is what was last put into it; "" is absent.
type touch struct {
	key   string
	write bool
	value string // written, or read
}

// register is what the history of one key is compared with.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		at := make(map[string]int)
		var out [][]porcupine.Operation
		for _, op := range history {
			key := op.Input.(touch).key
			i, ok := at[key]
			if !ok {
				i = len(out)
				at[key] = i
				out = append(out, nil)
			}
			out[i] = append(out[i], op)
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		if in := input.(touch); in.write {
			return true, in.value
		}
		return output.(string) == state.(string), state
	},
	DescribeOperation: func(input, output any) string {
		if in := input.(touch); in.write {
			return fmt.Sprintf("%s=%s", in.key, in.value)
		}
		return fmt.Sprintf("%s is %q", input.(touch).key, output)
	},
}

// history is what was asked and answered, by when.
type history struct {
	began time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
	sure  int
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

// add notes an operation. A write whose outcome is unknown may take effect at any time after it was asked for.
func (h *history) add(client int, in touch, call int64, err error) {
	if err != nil && !in.write {
		return
	}
	op := porcupine.Operation{ClientId: client, Input: in, Output: in.value, Call: call, Return: h.now()}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		op.Return = math.MaxInt64
	} else {
		h.sure++
	}
	h.ops = append(h.ops, op)
}

// mustBeLinear checks the history; that it takes too long counts as a failure.
func (h *history) mustBeLinear(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	t.Logf("%d operations, of %d the outcome is known", len(h.ops), h.sure)
	if h.sure < 50 {
		t.Error("too little was answered to mean anything")
	}
	result, info := porcupine.CheckOperationsVerbose(register, h.ops, 2*time.Minute)
	if result == porcupine.Ok {
		return
	}
	file := t.TempDir() + "/history.html"
	if long() {
		file = "/tmp/replica-history.html"
	}
	t.Errorf("no order explains the history: %s; drawn in %s: %v", result, file, porcupine.VisualizePath(register, info, file))
}

// registers is a store's commands for registers.
type registers struct {
	put storage.Call[putArgs, struct{}]
	n   atomic.Int64
}

func defineRegisters(reg *storage.Registry) *registers {
	return &registers{put: storage.Define(reg, "put", func(tx storage.Tx, a putArgs) (struct{}, error) {
		if a.Value == "" {
			tx.Delete("r/" + a.Key)
		} else {
			tx.Set("r/"+a.Key, []byte(a.Value))
		}
		return struct{}{}, nil
	})}
}

func read(value *string, key string) func(storage.Snapshot) error {
	return func(s storage.Snapshot) error {
		v, err := s.Get("r/" + key)
		*value = string(v)
		if err == nil && v == nil {
			err = fault.New(fault.NotFound, "no %s", key)
		}
		return err
	}
}

// client does one operation at s: puts and removes registers and reads them linearizably; makes entries once and looks for
// them by Find, which may answer from its own copy, except that something is not there.
func (r *registers) client(ctx context.Context, h *history, client int, s *replica.Store, rng *rand.Rand) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	id := r.n.Add(1)
	in := touch{key: fmt.Sprint("register", rng.IntN(3))}
	call := h.now()
	var err error
	switch what := rng.IntN(10); {
	case what < 3: // each value once
		in.write, in.value = true, fmt.Sprint(id)
		_, _, err = r.put.Do(ctx, s, fmt.Sprint("put", id), putArgs{in.key, in.value})
	case what < 4:
		in.write = true
		_, _, err = r.put.Do(ctx, s, fmt.Sprint("put", id), putArgs{in.key, ""})
	case what < 7:
		err = s.View(ctx, storage.Read{Consistency: storage.Linearizable}, read(&in.value, in.key))
	case what < 8: // an entry near the end of those that were made
		in = touch{key: fmt.Sprint("entry", id), write: true, value: "made"}
		_, _, err = r.put.Do(ctx, s, fmt.Sprint("put", id), putArgs{in.key, in.value})
	default:
		in.key = fmt.Sprint("entry", id-int64(rng.IntN(8)))
		err = storage.Find(ctx, s, storage.Read{}, read(&in.value, in.key))
	}
	if fault.Is(err, fault.NotFound) {
		err = nil
	}
	h.add(client, in, call, err)
}

// trouble does one thing to the wire.
func (c *cluster) trouble(rng *rand.Rand) string {
	leader := c.nodes[rng.IntN(3)]
	for _, n := range c.nodes {
		if n.store.Status().Role == storage.Leader && rng.IntN(3) > 0 {
			leader = n
		}
	}
	var others []*node
	for _, n := range c.nodes[:3] {
		if n != leader {
			others = append(others, n)
		}
	}
	silent := c.nodes[3] // has no vote
	switch rng.IntN(5) {
	case 0: // with the non-voter on its side
		for _, o := range others {
			c.isolate(leader.id, o.id)
			c.isolate(silent.id, o.id)
		}
		return leader.id + " and the non-voter are cut off"
	case 1:
		for _, o := range others {
			c.sever(leader.id, o.id)
		}
		return leader.id + " is not heard"
	case 2:
		for _, o := range others {
			c.sever(o.id, leader.id)
		}
		return leader.id + " hears nobody"
	case 3:
		for _, o := range others {
			c.delay(o.id, leader.id, time.Duration(rng.IntN(400))*time.Millisecond)
			c.delay(leader.id, o.id, time.Duration(rng.IntN(100))*time.Millisecond)
		}
		return leader.id + " gets late answers"
	default:
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return fmt.Sprintf("%s hands on to %s: %v", leader.id, others[0].id, leader.store.Transfer(ctx, others[0].id))
	}
}

// TestCluster_Linearizable: three voters and a member without a vote are cut off in one direction or both, hear late, and
// hand the office on, while clients at all of them write, read and look. Some order explains every answer.
//
// Requirements: N3, Q3.
func TestCluster_Linearizable(t *testing.T) {
	troubles := 6
	if long() {
		troubles = 100
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	reg := storage.NewRegistry()
	r := defineRegisters(reg)
	c := newCluster(t)
	for i := range 4 {
		c.mustNode(t, i, reg, func(_ int, o *replica.Options) { o.AskTimeout = time.Second })
	}
	c.mustJoin(t, 3)
	h := &history{began: time.Now()}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for client := range 8 {
		own := rand.New(rand.NewPCG(seed, uint64(client)+1))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond): // so that the history stays short enough to be searched
					r.client(context.Background(), h, client, c.nodes[own.IntN(4)].store, own)
				}
			}
		})
	}
	for range troubles {
		what := c.trouble(rng)
		<-time.After(time.Duration(200+rng.IntN(600)) * time.Millisecond)
		c.mend()
		t.Log(what)
		<-time.After(time.Duration(rng.IntN(400)) * time.Millisecond)
	}
	c.leader(t)
	close(stop)
	wg.Wait()
	h.mustBeLinear(t)
	c.mustAgree(t)
}

// TestCluster_LateAnswers: a leader whose clock runs slow is cut off together with a member that has no vote, while answers
// of the other voters are still on their way to it. It still believes to lead when they have elected another; a look there
// must not show a state without what the other acknowledged.
func TestCluster_LateAnswers(t *testing.T) {
	t.Parallel() // most of it is waiting
	rounds := 1
	if long() {
		rounds = 12
	}
	reg := storage.NewRegistry()
	count := counter(reg)
	c := newCluster(t)
	for i := range 4 {
		c.mustNode(t, i, reg, func(i int, o *replica.Options) { o.Fast = i != 0 })
	}
	c.mustJoin(t, 3)
	old, voters, silent := c.nodes[0], c.nodes[1:3], c.nodes[3]
	for round := range rounds {
		var stop func()
		c.mustWait(t, old, func(context.Context) error {
			c.mend()
			c.mustLead(t, old)
			for _, v := range voters {
				c.delay(v.id, old.id, 380*time.Millisecond)
			}
			stop = old.keepAnswersComing()
			want := old.store.Status().Applied + 10
			for old.store.Status().Applied < want {
				if old.store.Status().Role != storage.Leader { // late answers alone can cost the office: once more
					stop()
					return errors.New("the office was lost too soon")
				}
				<-time.After(5 * time.Millisecond)
			}
			return nil
		})
		for _, v := range voters {
			c.isolate(v.id, old.id)
			c.isolate(v.id, silent.id)
		}
		key := fmt.Sprint("new", round)
		c.mustWait(t, voters[0], func(ctx context.Context) error {
			_, _, err := count.Do(ctx, voters[0].store, "", key)
			return err
		})
		believes := old.store.Status().Role
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		err := old.store.View(ctx, storage.Read{Consistency: storage.Linearizable}, func(s storage.Snapshot) error {
			if v, err := s.Get("k/" + key); err != nil || v == nil {
				t.Errorf("round %d: a look at the old leader, a %s, missed what the new one had acknowledged: %v", round, believes, err)
			}
			return nil
		})
		cancel()
		if err == nil || !fault.Is(err, fault.Unavailable) {
			t.Errorf("round %d: a look at the old leader ended with %v", round, err)
		}
		t.Logf("round %d: the old leader was a %s", round, believes)
		stop()
		c.mend()
		c.mustAgree(t)
	}
}

// keepAnswersComing has n, which leads, propose entries past the writer, which stays free to look, until stop is called.
func (n *node) keepAnswersComing() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := n.store.ProposeForeign("load", true); err != nil {
					return
				}
			}
		})
	}
	return func() { close(done); wg.Wait() }
}
