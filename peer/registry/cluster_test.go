package registry_test

import (
	"context"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
)

type fixture struct {
	t     *testing.T
	store *mem.Store
	cmd   *registry.Commands
	now   time.Time
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	reg := storage.NewRegistry()
	f.cmd = registry.Define(reg)
	f.store = mem.New(mem.Options{Registry: reg, Now: func() time.Time { return f.now }})
	t.Cleanup(f.store.Close)
	if _, _, err := f.cmd.Init.Do(t.Context(), f.store, "", registry.Cluster{ID: "clu_1", Organization: "acme"}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) token(uses int, life time.Duration) {
	f.t.Helper()
	_, _, err := f.cmd.PutToken.Do(f.t.Context(), f.store, "", registry.NewToken{JoinToken: registry.JoinToken{ID: "jtk_1", Hash: "h", ExpiresAt: f.now.Add(life), UsesLeft: uses}})
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) join(stack, server, hash, key string) error {
	_, _, err := f.cmd.Join.Do(context.Background(), f.store, "", registry.Join{
		TokenID: "jtk_1", TokenHash: hash, PublicKey: key,
		Member: registry.Member{StackID: stack, ServerID: server, ClusterAddr: "10.0.0.1:8422"},
	})
	return err
}

func (f *fixture) member(stack string) registry.Member {
	f.t.Helper()
	var m registry.Member
	if err := f.store.View(f.t.Context(), storage.Read{}, func(s storage.Snapshot) (err error) {
		m, err = registry.GetMember(s, stack)
		return err
	}); err != nil {
		f.t.Fatal(err)
	}
	return m
}

func TestInit_Once(t *testing.T) {
	f := setup(t)
	c, _, err := f.cmd.Init.Do(t.Context(), f.store, "", registry.Cluster{ID: "clu_2"})
	if err != nil || c.ID != "clu_1" {
		t.Fatalf("a second init made %q (%v): two clusters in one store", c.ID, err)
	}
}

func TestJoin_TokenRules(t *testing.T) {
	f := setup(t)
	f.token(1, time.Hour)
	if err := f.join("stk_a", "srv_a1", "wrong", "k1"); !fault.Is(err, fault.Unauthorized) {
		t.Fatalf("a wrong secret: %v", err)
	}
	if err := f.join("stk_a", "srv_a1", "h", "k1"); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(time.Minute)
	if err := f.join("stk_a", "srv_a1", "h", "k1"); err != nil {
		t.Fatalf("the same node asking again, its answer lost: %v", err)
	}
	if m := f.member("stk_a"); !m.JoinedAt.Equal(f.now.Add(-time.Minute)) {
		t.Errorf("asking again moved the time of joining to %v", m.JoinedAt)
	}
	if err := f.join("stk_b", "srv_b1", "h", "k2"); !fault.Is(err, fault.Unauthorized) {
		t.Fatalf("a one-time token served two nodes: %v", err)
	}
	f.token(2, time.Hour)
	f.now = f.now.Add(time.Hour)
	if err := f.join("stk_b", "srv_b1", "h", "k2"); !fault.Is(err, fault.Unauthorized) {
		t.Fatalf("an expired token: %v", err)
	}
}

func TestJoin_RefusalUsesNothing(t *testing.T) {
	f := setup(t)
	f.token(1, time.Hour)
	if err := f.join("bad/id", "srv", "h", "k1"); !fault.Is(err, fault.InvalidRequest) {
		t.Fatal(err)
	}
	if err := f.join("stk_a", "srv_a1", "h", "k1"); err != nil {
		t.Fatalf("a refused join used the token up: %v", err)
	}
}

func TestMember_RemovedStaysOut(t *testing.T) {
	f := setup(t)
	f.token(2, time.Hour)
	if err := f.join("stk_a", "srv_a1", "h", "k1"); err != nil {
		t.Fatal(err)
	}
	set := func(s registry.MemberState) error {
		_, _, err := f.cmd.SetState.Do(t.Context(), f.store, "", registry.StateChange{StackID: "stk_a", State: s})
		return err
	}
	for _, s := range []registry.MemberState{registry.Draining, registry.Active, registry.Removed} {
		if err := set(s); err != nil {
			t.Fatal(s, err)
		}
	}
	if err := set(registry.Active); !fault.Is(err, fault.Conflict) {
		t.Fatalf("a removed member was made active by a word: %v", err)
	}
	_, _, err := f.cmd.Update.Do(t.Context(), f.store, "", registry.Member{StackID: "stk_a", ServerID: "srv_a1", ClusterAddr: "x:1"})
	if !fault.Is(err, fault.Forbidden) {
		t.Fatalf("a removed member updated itself: %v", err)
	}
	if err := f.join("stk_a", "srv_a2", "h", "k2"); err != nil {
		t.Fatalf("joining anew with a token: %v", err)
	}
	if m := f.member("stk_a"); m.State != registry.Active || m.ServerID != "srv_a2" {
		t.Fatalf("%+v", m)
	}
	_, _, err = f.cmd.Update.Do(t.Context(), f.store, "", registry.Member{StackID: "stk_a", ServerID: "srv_a1", ClusterAddr: "x:1"})
	if !fault.Is(err, fault.Forbidden) {
		t.Fatalf("the old incarnation spoke for the new: %v", err)
	}
}
