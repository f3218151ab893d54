package registry_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage"
)

// versions is a cluster whose members come, are upgraded and downgraded, and go, beside the plainest model of its version.
type versions struct {
	*fixture
	members map[string]int // the highest that each can do, of those who have not been removed
	version int
}

func (v *versions) read(t *rapid.T) (version int) {
	if err := v.store.View(v.t.Context(), storage.Read{}, func(s storage.Snapshot) (err error) {
		version, err = registry.GetStoreVersion(s)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return version
}

// said is what a binary of that version says: those from before there were versions say nothing.
func said(t *rapid.T, version int) int {
	if version == 1 && rapid.Bool().Draw(t, "silent") {
		return 0
	}
	return version
}

func (v *versions) join(t *rapid.T) {
	name, version := fmt.Sprintf("stk_%d", rapid.IntRange(1, 5).Draw(t, "who")), rapid.IntRange(1, 4).Draw(t, "version")
	old, again := v.members[name]
	_, _, err := v.cmd.Join.Do(v.t.Context(), v.store, "", registry.Join{
		TokenID: "jtk_1", TokenHash: "h", PublicKey: "k", Replaces: name + ".1",
		Member: registry.Member{StackID: name, ServerID: name + ".1", ClusterAddr: "a:1", StoreVersion: said(t, version)},
	})
	switch {
	case version < v.version:
		if !fault.Is(err, fault.UnsupportedCapability) {
			t.Fatalf("%s, of version %d, joins a store of version %d: %v", name, version, v.version, err)
		}
		if again && v.members[name] != old {
			t.Fatal("a refused join left its mark")
		}
	case err != nil:
		t.Fatal(err)
	default:
		v.members[name] = version
	}
}

func (v *versions) update(t *rapid.T) {
	if len(v.members) == 0 {
		return
	}
	name, version := v.pick(t), rapid.IntRange(1, 4).Draw(t, "version")
	_, _, err := v.cmd.Update.Do(v.t.Context(), v.store, "", registry.Member{StackID: name, ServerID: name + ".1", ClusterAddr: "a:1", StoreVersion: said(t, version)})
	switch {
	case version < v.version:
		if !fault.Is(err, fault.UnsupportedCapability) {
			t.Fatalf("%s comes back with version %d to a store of version %d: %v", name, version, v.version, err)
		}
	case err != nil:
		t.Fatal(err)
	default:
		v.members[name] = version
	}
}

func (v *versions) pick(t *rapid.T) string {
	var names []string
	for i := range 5 {
		if name := fmt.Sprintf("stk_%d", i+1); v.members[name] != 0 {
			names = append(names, name)
		}
	}
	return rapid.SampledFrom(names).Draw(t, "who")
}

func (v *versions) state(t *rapid.T) {
	if len(v.members) == 0 {
		return
	}
	name, state := v.pick(t), rapid.SampledFrom([]registry.MemberState{registry.Draining, registry.Active, registry.Removed}).Draw(t, "state")
	if _, _, err := v.cmd.SetState.Do(v.t.Context(), v.store, "", registry.StateChange{StackID: name, State: state}); err != nil {
		t.Fatal(err)
	}
	if state == registry.Removed {
		delete(v.members, name)
	}
}

func (v *versions) raise(t *rapid.T) {
	low := 0
	for _, can := range v.members {
		if low == 0 || can < low {
			low = can
		}
	}
	v.version = max(v.version, low)
	got, _, err := v.cmd.Raise.Do(v.t.Context(), v.store, "", registry.By{Principal: "leader/stk_1"})
	if err != nil || got != v.version {
		t.Fatalf("raised to %d (%v), and the members can do %v", got, err, v.members)
	}
}

// The cluster's version is the lowest that its members could do when it was raised. It is raised by the command alone,
// never falls, whoever comes, goes or is downgraded, and whoever is below it stays out.
func TestStoreVersion_Rule(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		v := &versions{fixture: setup(t), members: make(map[string]int), version: 1}
		defer v.store.Close()
		v.token(1000, time.Hour)
		rt.Repeat(map[string]func(*rapid.T){
			"join": v.join, "update": v.update, "state": v.state, "raise": v.raise,
			"": func(rt *rapid.T) {
				if got := v.read(rt); got != v.version {
					rt.Fatalf("the store is at version %d, and was raised to %d", got, v.version)
				}
			},
		})
	})
}

// A row of a binary from before there were versions counts as the first; so does a store that says nothing.
func TestStoreVersion_OldRow(t *testing.T) {
	var old registry.Member
	if err := json.Unmarshal([]byte(`{"stack_id":"stk_a","server_id":"stk_a.1","state":"active","version":"1.01.9","cluster_addr":"a:1"}`), &old); err != nil {
		t.Fatal(err)
	}
	f := setup(t)
	if _, _, err := f.cmd.Found.Do(t.Context(), f.store, "", old); err != nil {
		t.Fatal(err)
	}
	f.token(1, time.Hour)
	if _, _, err := f.cmd.Join.Do(t.Context(), f.store, "", registry.Join{
		TokenID: "jtk_1", TokenHash: "h", PublicKey: "k", Member: registry.Member{StackID: "stk_b", ServerID: "stk_b.1", ClusterAddr: "b:1", StoreVersion: 7},
	}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := f.cmd.Raise.Do(t.Context(), f.store, "", registry.By{}); err != nil || got != 1 {
		t.Fatalf("raised to %d (%v) beside a member of an earlier release", got, err)
	}
}

// A cluster that is made anew around a node, out of a backup or of what is left, must be one that the node can read.
func TestStoreVersion_Reset(t *testing.T) {
	f := setup(t)
	self := registry.Member{StackID: "stk_a", ServerID: "stk_a.1", ClusterAddr: "a:1", StoreVersion: 3}
	if _, _, err := f.cmd.Found.Do(t.Context(), f.store, "", self); err != nil {
		t.Fatal(err)
	}
	if got, _, err := f.cmd.Raise.Do(t.Context(), f.store, "", registry.By{}); err != nil || got != 3 {
		t.Fatalf("raised to %d (%v)", got, err)
	}
	self.StoreVersion = 2
	if _, _, err := f.cmd.Reset.Do(t.Context(), f.store, "", registry.Reset{ClusterID: "clu_2", StoreEpoch: "e2", Self: self, Why: "recover"}); !fault.Is(err, fault.UnsupportedCapability) {
		t.Fatalf("a binary of version 2 takes a store of version 3: %v", err)
	}
}
