package cluster_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// Three machines that share no file and no network but a switch: one makes the cluster, two join with tokens, and then one
// is killed, one emptied and joined anew, and one replaced by a machine with another address, with the commands that the
// operator's guide tells.
//
// Requirements: V2, N3, N7.
func TestMachines_Life(t *testing.T) {
	t.Parallel()
	if !harness.Apart(t, suite.Binary(t), 5*time.Minute) {
		return
	}
	network := harness.NewNetwork(t, 3)
	c := harness.NewClusterOn(t, suite.Binary(t), &starter, network)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	kept := tn.Create(t, "kept", nil)
	tn.Journal(t, kept)

	agentos := func(h *harness.Host, args ...string) harness.Outcome {
		t.Helper()
		key := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(key, []byte(c.AdminKey(t)), 0o600); err != nil {
			t.Fatal(err)
		}
		argv := append([]string{suite.Binary(t)}, args...)
		out := h.Run(t, 2*time.Minute, t.TempDir(), nil, append(argv, "--api-url", "http://127.0.0.1:8420", "--key-file", key)...)
		if out.Code != 0 {
			t.Fatalf("agentos %v: exit code %d\n%s\n%s", args, out.Code, out.Stdout, out.Stderr)
		}
		return out
	}
	writes := func(what string, n *harness.Node) {
		t.Helper()
		at := n.Client(tn.Key)
		a := at.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/say "+what, nil))
		at.Journal(t, a.Str("run.run_id"))
		at.Journal(t, kept)
	}

	// Killed: the others go on, and it comes back by itself.
	c.Nodes[1].Kill(t)
	writes("one killed", c.Nodes[2])
	c.Nodes[1].Launch(t)
	c.Nodes[1].AwaitReady(t)
	c.AwaitVoters(t, 3)

	// Emptied: it is another server now, and joins with a new token under its old name.
	c.Nodes[2].Kill(t)
	c.Nodes[2].Wipe(t)
	c.Nodes[2].Launch(t)
	c.Nodes[2].AwaitReady(t)
	c.AwaitVoters(t, 3)
	writes("one emptied", c.Nodes[2])

	// Replaced: a machine with another name and address joins, and the old one is removed, dead as it is. It was the first,
	// and led.
	agentos(network.Hosts[1], "cluster", "transfer", "stk_n1")
	c.AdminKey(t) // kept, since its machine is about to go
	c.Nodes[0].Kill(t)
	joined := c.AddNodeOn(t, network.AddHost(t), "stk_n4")
	agentos(network.Hosts[1], "cluster", "remove", "stk_n1", "--yes-really")
	writes("one replaced", joined)
	agentos(network.Hosts[3], "cluster", "status")
	c.AwaitVoters(t, 3)

	// What was removed stays out, though its files and its certificate are all there.
	removed := c.Nodes[0]
	removed.Launch(t)
	if code := removed.Wait(t); code == 0 {
		t.Error("a removed node ended well")
	}
	c.AwaitVoters(t, 3)
	c.Equal(t)

	// Moved: the same node with another address.
	moved := c.Nodes[1]
	moved.Stop(t)
	moved.MoveTo(network.AddHost(t))
	moved.Launch(t)
	moved.AwaitReady(t)
	c.AwaitVoters(t, 3)
	writes("one moved", moved)
	c.Equal(t)
}

// A leader that is cut off stops acknowledging; the others elect another, and when the cut is mended it follows.
//
// Requirements: N3, Q3.
func TestMachines_LeaderCutOff(t *testing.T) {
	t.Parallel()
	if !harness.Apart(t, suite.Binary(t), 5*time.Minute) {
		return
	}
	network := harness.NewNetwork(t, 3)
	c := harness.NewClusterOn(t, suite.Binary(t), &starter, network)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	for _, cut := range []struct {
		name      string
		cut, mend func(leader *harness.Host)
	}{
		{"both ways", (*harness.Host).Isolate, (*harness.Host).Rejoin},
		{"its words are lost", mute(network, true), unmute(network, true)},
		{"it hears nobody", mute(network, false), unmute(network, false)},
	} {
		leader := c.Leader(t)
		cut.cut(leader.Machine)
		var elsewhere *harness.Node
		for _, n := range c.Nodes {
			if n != leader {
				elsewhere = n
			}
		}
		asked := time.Now()
		at := elsewhere.Client(tn.Key)
		if !harness.Poll(bound, 20*time.Millisecond, func() bool {
			a, err := at.Try(t.Context(), "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/say "+cut.name, nil), "Idempotency-Key", cut.name)
			return err == nil && (a.Status == 201 || a.Status == 200)
		}) {
			t.Fatalf("%s: the majority takes no writes", cut.name)
		}
		t.Logf("%s: the majority writes again after %v", cut.name, time.Since(asked).Round(time.Millisecond))
		a := leader.Client(tn.Key).Do(t, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("alone", nil), "Idempotency-Key", "alone "+cut.name)
		if err := a.CheckError(503, "dependency_unavailable"); err != nil && cut.name == "both ways" {
			t.Errorf("%s: the old leader acknowledged alone: %v", cut.name, err)
		}
		cut.mend(leader.Machine)
		c.AwaitVoters(t, 3)
		c.Equal(t)
	}
}

// mute cuts one direction between a host and all others: what it says (words), or what it would hear.
func mute(n *harness.Network, words bool) func(*harness.Host) {
	return func(h *harness.Host) { eachOther(n, h, words, (*harness.Host).Mute) }
}

func unmute(n *harness.Network, words bool) func(*harness.Host) {
	return func(h *harness.Host) { eachOther(n, h, words, (*harness.Host).Unmute) }
}

func eachOther(n *harness.Network, h *harness.Host, words bool, do func(from, to *harness.Host)) {
	for _, other := range n.Hosts {
		switch {
		case other == h:
		case words:
			do(h, other)
		default:
			do(other, h)
		}
	}
}
