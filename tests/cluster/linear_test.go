package cluster_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nexixai/agentos/tests/harness"
)

// touch is one operation on a register: a write of value, a create of a run under the key, or a read; the last two found
// what is their output ("" for nothing).
type touch struct {
	key    string
	write  bool
	create bool
	value  string
}

// register is what a key is to be: one value that all clients see change at once, or one run, made once.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := map[string][]porcupine.Operation{}
		for _, o := range history {
			k := o.Input.(touch).key
			parts[k] = append(parts[k], o)
		}
		var out [][]porcupine.Operation
		for _, p := range parts {
			out = append(out, p)
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in := input.(touch)
		switch {
		case in.write:
			return true, in.value
		case in.create && state == "":
			return true, output
		}
		return output == state, state
	},
	DescribeOperation: func(input, output any) string {
		switch in := input.(touch); {
		case in.write:
			return fmt.Sprintf("%s ← %s", in.key, in.value)
		case in.create:
			return fmt.Sprintf("create %s: %s", in.key, output)
		}
		return fmt.Sprintf("%s = %q", input.(touch).key, output)
	},
}

// history is what clients at all nodes did to a few registers, and what they were told.
type history struct {
	mu    sync.Mutex
	began time.Time
	ops   []porcupine.Operation
	lost  int // writes whose outcome nobody knows
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) note(o porcupine.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
}

// do does one operation and notes it: runs are the agent's, and so is the memory. It returns false when nobody knows whether
// it happened.
func (h *history) do(ctx context.Context, id int, c *harness.Client, agent, query string, t touch) (known bool) {
	o := porcupine.Operation{ClientId: id, Input: t, Output: "", Call: h.now()}
	var a harness.Answer
	var err error
	path := "/v1/memory/" + agent + "/" + t.key
	switch {
	case t.create:
		a, err = c.Try(ctx, "POST", "/v1/agents/"+agent+"/runs", harness.Body("/say made", nil), "Idempotency-Key", t.key)
	case t.write:
		a, err = c.Try(ctx, "PUT", path, map[string]any{"value": t.value})
	default:
		a, err = c.Try(ctx, "GET", path+query, nil)
	}
	o.Return = h.now()
	made := err == nil && (a.Status == 200 || a.Status == 201)
	switch {
	case t.create && made:
		o.Output = a.Str("run.run_id")
	case t.create: // whether it happened shows in the next create alone, and there it makes no difference
		return false
	case t.write && !made: // it may have happened, or may still
		o.Return = math.MaxInt64
		h.mu.Lock()
		h.lost++
		h.mu.Unlock()
	case t.write:
	case made:
		o.Output = a.Str("memory.value")
	case err != nil || a.Status != 404:
		return true
	}
	h.note(o)
	return made || !t.write
}

// client touches registers through one node until ctx ends. Some reads are default ones of a key that is written once:
// what was acknowledged anywhere must never be said not to be there. Some operations are creates under one key.
func (h *history) client(ctx context.Context, id int, c *harness.Client, agent string, round int, chance *rand.Rand) {
	for i := 0; ctx.Err() == nil; i++ {
		ask, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		// New keys each second: what a checker has to order at once stays small, however long the history is.
		t := touch{key: fmt.Sprintf("r%d-%d-%d", round, chance.IntN(3), h.now()/int64(time.Second)), write: chance.IntN(3) == 0, value: fmt.Sprintf("%d.%d", id, i)}
		query := "?consistency=linearizable"
		switch chance.IntN(6) {
		case 0, 1: // a key that is written once, by whoever is first
			t.key, query = fmt.Sprintf("once-%d-%d", round, h.now()/int64(400*time.Millisecond)), ""
			t.value = "there"
		case 2:
			t = touch{key: fmt.Sprintf("make-%d-%d", round, h.now()/int64(400*time.Millisecond)), create: true}
		}
		if !h.do(ask, id, c, agent, query, t) {
			id += 1000 // a client whose operation never returned can't ask again
		}
		cancel()
		pause(time.Duration(chance.IntN(60)) * time.Millisecond)
	}
}

// Registers that clients at all nodes read and write stay linearizable whatever happens to the leader: it's cut off both
// ways, one way, again and again, and frozen.
//
// Requirements: N3, Q3.
func TestLinear_Registers(t *testing.T) {
	t.Parallel()
	if !harness.Apart(t, suite.Binary(t), 10*time.Minute) {
		return
	}
	chance := seeded(t)
	network := harness.NewNetwork(t, 3)
	c := harness.NewClusterOn(t, suite.Binary(t), &starter, network)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	faults := []struct {
		name string
		do   func(*harness.Node)
	}{
		{"cut off", func(n *harness.Node) { n.Machine.Isolate(); pause(3 * time.Second); n.Machine.Rejoin() }},
		{"its words are lost", func(n *harness.Node) {
			mute(network, true)(n.Machine)
			pause(3 * time.Second)
			unmute(network, true)(n.Machine)
		}},
		{"it hears nobody", func(n *harness.Node) {
			mute(network, false)(n.Machine)
			pause(3 * time.Second)
			unmute(network, false)(n.Machine)
		}},
		{"flapping", func(n *harness.Node) {
			for range 6 {
				n.Machine.Isolate()
				pause(300 * time.Millisecond)
				n.Machine.Rejoin()
				pause(200 * time.Millisecond)
			}
		}},
		{"frozen", func(n *harness.Node) {
			n.Signal(t, syscall.SIGSTOP)
			pause(3 * time.Second)
			n.Signal(t, syscall.SIGCONT)
		}},
		{"killed", func(n *harness.Node) { n.Kill(t); pause(time.Second); n.Launch(t); n.AwaitReady(t) }},
	}
	for round := range rounds(3, 24) {
		fault := faults[(round+int(chance.Uint32()))%len(faults)]
		if rounds(0, 1) == 1 {
			fault = faults[round%len(faults)]
		}
		h := &history{began: time.Now()}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for i := range 9 {
			own := rand.New(rand.NewPCG(chance.Uint64(), uint64(i)))
			wg.Go(func() { h.client(ctx, i, c.Nodes[i%3].Client(tn.Key), tn.Agent, round, own) })
		}
		pause(time.Second)
		fault.do(c.Leader(t))
		pause(1500 * time.Millisecond)
		cancel()
		wg.Wait()
		rate := float64(len(h.ops)) / time.Since(h.began).Seconds()
		if result := h.check(t); result != porcupine.Ok {
			t.Fatalf("round %d, leader %s: the history of %d operations is %s", round, fault.name, len(h.ops), result)
		}
		if rate < 50 {
			t.Errorf("round %d: only %.0f operations/s: such a history shows little", round, rate)
		}
		t.Logf("round %d, leader %s: %d operations at %.0f/s, %d of unknown outcome: linearizable", round, fault.name, len(h.ops), rate, h.lost)
		c.AwaitVoters(t, 3)
	}
	c.Equal(t)
}

// check looks for an order that explains the history; what has none is drawn. That the search takes too long is no order.
func (h *history) check(t *testing.T) porcupine.CheckResult {
	t.Helper()
	result, info := porcupine.CheckOperationsVerbose(register, h.ops, time.Minute)
	if result != porcupine.Ok {
		_ = porcupine.VisualizePath(register, info, t.TempDir()+"/history.html")
	}
	return result
}

// TestLinear_modelRefuses: the checker finds a read that went back in time, and a "not found" after an acknowledgement.
func TestLinear_modelRefuses(t *testing.T) {
	at := func(id int, in touch, out string, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: id, Input: in, Output: out, Call: call, Return: ret}
	}
	w := func(v string) touch { return touch{key: "k", write: true, value: v} }
	read, create := touch{key: "k"}, touch{key: "k", create: true}
	for name, ops := range map[string][]porcupine.Operation{
		"back in time":             {at(1, w("a"), "", 0, 1), at(1, w("b"), "", 2, 3), at(2, read, "b", 4, 5), at(3, read, "a", 6, 7)},
		"not found, though acked":  {at(1, w("a"), "", 0, 1), at(2, read, "", 2, 3)},
		"never written":            {at(2, read, "x", 0, 1)},
		"lost after it was seen":   {at(1, w("a"), "", 0, math.MaxInt64), at(2, read, "a", 1, 2), at(3, read, "", 3, 4)},
		"two runs of one key":      {at(1, create, "a", 0, 3), at(2, create, "b", 1, 2), at(3, create, "b", 4, 5)},
		"overwritten, then it was": {at(1, w("a"), "", 0, 1), at(2, w("b"), "", 2, 3), at(3, read, "a", 4, 5)},
	} {
		if porcupine.CheckOperations(register, ops) {
			t.Errorf("%s: found linearizable", name)
		}
	}
	if !porcupine.CheckOperations(register, []porcupine.Operation{at(1, w("a"), "", 0, math.MaxInt64), at(2, read, "", 1, 2), at(3, read, "a", 3, 4)}) {
		t.Error("a write of unknown outcome that came late: found not linearizable")
	}
}

func pause(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}
