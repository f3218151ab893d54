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

// touch is one operation on a register: a write of value, or a read that found it ("" for nothing).
type touch struct {
	key   string
	write bool
	value string
}

// register is what a key of memory is to be: one value that all clients see change at once.
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
		if in.write {
			return true, in.value
		}
		return output.(string) == state.(string), state
	},
	DescribeOperation: func(input, output any) string {
		if in := input.(touch); in.write {
			return fmt.Sprintf("%s ← %s", in.key, in.value)
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

// client touches registers through one node until ctx ends. Every second read is a default one of a key that is written
// once: what was acknowledged anywhere must never be said not to be there.
func (h *history) client(ctx context.Context, id int, c *harness.Client, round int, chance *rand.Rand) {
	for i := 0; ctx.Err() == nil; i++ {
		ask, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		// New keys each second: what a checker has to order at once stays small, however long the history is.
		t := touch{key: fmt.Sprintf("r%d-%d", chance.IntN(3), h.now()/int64(time.Second)), write: chance.IntN(3) == 0, value: fmt.Sprintf("%d.%d", id, i)}
		query := "?consistency=linearizable"
		if chance.IntN(3) == 0 { // a key that is written once, by whoever is first
			t.key, query = fmt.Sprintf("once-%d-%d", round, h.now()/int64(400*time.Millisecond)), ""
			t.value = "there"
		}
		path := fmt.Sprintf("/v1/memory/linear%d/%s", round, t.key)
		o := porcupine.Operation{ClientId: id, Input: t, Call: h.now()}
		var a harness.Answer
		var err error
		if t.write {
			a, err = c.Try(ask, "PUT", path, map[string]any{"value": t.value})
		} else {
			a, err = c.Try(ask, "GET", path+query, nil)
		}
		o.Return = h.now()
		cancel()
		switch {
		case t.write && err == nil && (a.Status == 200 || a.Status == 201):
			o.Output = ""
			h.note(o)
		case t.write: // it may have happened, or may still
			o.Output, o.Return = "", math.MaxInt64
			h.note(o)
			h.mu.Lock()
			h.lost++
			h.mu.Unlock()
			id += 1000 // a client whose operation never returned can't ask again
		case err == nil && a.Status == 200:
			o.Output = a.Str("memory.value")
			h.note(o)
		case err == nil && a.Status == 404:
			o.Output = ""
			h.note(o)
		}
		pause(time.Duration(chance.IntN(60)) * time.Millisecond)
	}
}

// Registers that clients at all nodes read and write stay linearizable whatever happens to the leader: it's cut off both
// ways, one way, again and again, and frozen.
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
			wg.Go(func() { h.client(ctx, i, c.Nodes[i%3].Client(tn.Key), round, own) })
		}
		pause(time.Second)
		fault.do(c.Leader(t))
		pause(1500 * time.Millisecond)
		cancel()
		wg.Wait()
		rate := float64(len(h.ops)) / time.Since(h.began).Seconds()
		result, info := porcupine.CheckOperationsVerbose(register, h.ops, time.Minute)
		if result != porcupine.Ok {
			name := t.TempDir() + "/history.html"
			_ = porcupine.VisualizePath(register, info, name)
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

// TestLinear_modelRefuses: the checker finds a read that went back in time, and a "not found" after an acknowledgement.
func TestLinear_modelRefuses(t *testing.T) {
	at := func(id int, in touch, out string, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: id, Input: in, Output: out, Call: call, Return: ret}
	}
	w := func(v string) touch { return touch{key: "k", write: true, value: v} }
	read := touch{key: "k"}
	for name, ops := range map[string][]porcupine.Operation{
		"back in time":             {at(1, w("a"), "", 0, 1), at(1, w("b"), "", 2, 3), at(2, read, "b", 4, 5), at(3, read, "a", 6, 7)},
		"not found, though acked":  {at(1, w("a"), "", 0, 1), at(2, read, "", 2, 3)},
		"never written":            {at(2, read, "x", 0, 1)},
		"lost after it was seen":   {at(1, w("a"), "", 0, math.MaxInt64), at(2, read, "a", 1, 2), at(3, read, "", 3, 4)},
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
