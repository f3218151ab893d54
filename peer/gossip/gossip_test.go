package gossip_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nexixai/agentos/peer/gossip"
)

func key(tb testing.TB) []byte {
	tb.Helper()
	k := make([]byte, 32)
	if _, err := rand.Read(k); err != nil {
		tb.Fatal(err)
	}
	return k
}

type seen struct {
	pool *gossip.Pool
	news chan gossip.Member
}

func join(t *testing.T, name, label string, keys [][]byte, seeds ...string) seen {
	t.Helper()
	news := make(chan gossip.Member, 1024)
	p, err := gossip.Join(gossip.Options{
		Name: name, Label: label, Keys: keys, Bind: "127.0.0.1:0", Meta: []byte("meta of " + name), Fast: true,
		Seeds: func() []string { return seeds }, Changed: func(m gossip.Member) { news <- m },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return seen{p, news}
}

// until waits for news that satisfies ok.
func (s seen) until(t *testing.T, what string, ok func(gossip.Member) bool) gossip.Member {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case m := <-s.news:
			if ok(m) {
				return m
			}
		case <-deadline:
			t.Fatalf("never heard: %s; known: %v", what, s.pool.Members())
		}
	}
}

func is(name string, st gossip.State) func(gossip.Member) bool {
	return func(m gossip.Member) bool { return m.Name == name && m.State == st }
}

func TestPool_MembersComeChangeAndGo(t *testing.T) {
	k := key(t)
	a := join(t, "stk_a", "clu_1", [][]byte{k})
	b := join(t, "stk_b", "clu_1", [][]byte{k}, a.pool.Addr())
	m := a.until(t, "b joins", is("stk_b", gossip.Alive))
	if string(m.Meta) != "meta of stk_b" {
		t.Fatalf("meta %q", m.Meta)
	}
	if err := b.pool.Say([]byte("changed")); err != nil {
		t.Fatal(err)
	}
	a.until(t, "b changes", func(m gossip.Member) bool { return m.Name == "stk_b" && string(m.Meta) == "changed" })
	if err := b.pool.Say(bytes.Repeat([]byte("x"), gossip.MaxMeta+1)); err == nil {
		t.Fatal("an over-long saying was taken")
	}
	c := join(t, "stk_c", "clu_1", [][]byte{k}, b.pool.Addr())
	a.until(t, "c joins through b", is("stk_c", gossip.Alive))
	if err := b.pool.Leave(context.Background()); err != nil {
		t.Fatal(err)
	}
	a.until(t, "b left", is("stk_b", gossip.Left))
	_ = c.pool.Close()
	a.until(t, "c died", is("stk_c", gossip.Dead))
}

func TestPool_AReturningNodeIsFoundAgain(t *testing.T) {
	k := key(t)
	a := join(t, "stk_a", "clu_1", [][]byte{k})
	b := join(t, "stk_b", "clu_1", [][]byte{k}, a.pool.Addr())
	a.until(t, "b joins", is("stk_b", gossip.Alive))
	_ = b.pool.Close()
	a.until(t, "b died", is("stk_b", gossip.Dead))
	// It returns with another address and knows nobody: reclaiming the name takes the reclaim time.
	join(t, "stk_b", "clu_1", [][]byte{k}, a.pool.Addr())
	a.until(t, "b is back", is("stk_b", gossip.Alive))
}

// Requirements: N2.
func TestPool_StrangersStayOut(t *testing.T) {
	k, other := key(t), key(t)
	a := join(t, "stk_a", "clu_1", [][]byte{k})
	wrongKey := join(t, "stk_x", "clu_1", [][]byte{other}, a.pool.Addr())
	wrongLabel := join(t, "stk_y", "clu_2", [][]byte{k}, a.pool.Addr())
	friend := join(t, "stk_b", "clu_1", [][]byte{k}, a.pool.Addr())
	a.until(t, "the friend joins", is("stk_b", gossip.Alive))
	friend.until(t, "the friend sees a", is("stk_a", gossip.Alive))
	for _, s := range []seen{wrongKey, wrongLabel} {
		if n := len(s.pool.Members()); n != 1 {
			t.Errorf("a stranger sees %d members", n)
		}
	}
	if got := a.pool.Members(); len(got) != 2 {
		t.Fatalf("a sees %v", got)
	}
}

// Whoever holds the key can make up names: of those that nobody expects a few are kept, and members always get in.
func TestPool_CrowdOfStrangers(t *testing.T) {
	p, err := gossip.Join(gossip.Options{
		Name: "stk_a", Label: "clu_1", Keys: [][]byte{key(t)}, Bind: "127.0.0.1:0", Fast: true,
		Expected: func(name string) bool { return name == "stk_b" },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	crowd := func(round string) (let int) {
		for i := range 1000 {
			n := &memberlist.Node{Name: fmt.Sprintf("stk_%s_%d", round, i), Addr: net.IPv4(127, 0, 0, 1), Port: 9}
			if p.NotifyAlive(n) == nil {
				p.NotifyJoin(n)
				let++
			}
		}
		return let
	}
	if let := crowd("first"); let != 64 || len(p.Members()) != 65 {
		t.Errorf("%d strangers got in, %d members", let, len(p.Members()))
	}
	friend := &memberlist.Node{Name: "stk_b", Addr: net.IPv4(127, 0, 0, 1), Port: 9}
	if err := p.NotifyAlive(friend); err != nil {
		t.Errorf("the crowd keeps a member out: %v", err)
	}
	p.NotifyJoin(friend)
	for _, m := range p.Members() {
		if m.Name != "stk_a" {
			p.NotifyLeave(&memberlist.Node{Name: m.Name, Addr: net.IPv4(127, 0, 0, 1), Port: 9})
		}
	}
	if got := p.Members(); len(got) != 2 || got[1].State != gossip.Dead {
		t.Errorf("after all are gone: %v", got)
	}
	if let := crowd("second"); let != 64 {
		t.Errorf("%d strangers got in after the first are gone", let)
	}
}

// A storm of lines is one line, and every dropped packet counts.
func TestPool_GarbageIsCountedAndToldOnce(t *testing.T) {
	core, seen := observer.New(zap.InfoLevel)
	p, err := gossip.Join(gossip.Options{Name: "stk_a", Label: "clu_1", Keys: [][]byte{key(t)}, Bind: "127.0.0.1:0", Fast: true, Logger: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	conn, err := net.Dial("udp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	junk := make([]byte, 64)
	deadline := time.Now().Add(20 * time.Second)
	for p.Dropped() < 500 {
		_, _ = rand.Read(junk)
		if junk[0] = 244; p.Dropped()%2 == 0 { // a label's mark, and none
			junk[0] = 1
		}
		_, _ = conn.Write(junk)
		if time.Now().After(deadline) {
			t.Fatalf("%d were counted", p.Dropped())
		}
	}
	if n := seen.Len(); n == 0 || n > 20 {
		t.Errorf("%d lines for 500 packets of garbage", n)
	}
}

// A stranger needs no key to open streams; it must not take memory or the pool's ear by them.
func TestPool_StreamsAreBounded(t *testing.T) {
	k := key(t)
	a := join(t, "stk_a", "clu_1", [][]byte{k})
	label := append([]byte{244, 5}, "clu_1"...)
	big := append(label, 10, 0x01, 0x00, 0x00, 0x00) // 16 MiB are to come, encrypted
	conn, err := net.Dial("tcp", a.pool.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	sent := 0
	for block := append(big, make([]byte, 64<<10)...); ; block = block[len(block)-(64<<10):] {
		n, err := conn.Write(block)
		if sent += n; err != nil {
			break
		}
		if sent > 12<<20 {
			t.Fatalf("%d bytes of a stranger were taken", sent)
		}
	}
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	before := a.pool.Dropped()
	for range 100 {
		c, err := net.Dial("tcp", a.pool.Addr())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		_, _ = c.Write(big)
	}
	b := join(t, "stk_b", "clu_1", [][]byte{k}, a.pool.Addr())
	for _, c := range held {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			continue // told that it failed
		}
	}
	if got := a.pool.Dropped() - before; got < 100-16 {
		t.Errorf("%d of 100 streams were turned away", got)
	}
	a.until(t, "a member joins all the same", is("stk_b", gossip.Alive))
	b.until(t, "and sees the other", is("stk_a", gossip.Alive))
}

// Requirements: N2.
func TestPool_RotateKeepsThePoolTogether(t *testing.T) {
	k1, k2 := key(t), key(t)
	a := join(t, "stk_a", "clu_1", [][]byte{k1})
	b := join(t, "stk_b", "clu_1", [][]byte{k1}, a.pool.Addr())
	a.until(t, "b joins", is("stk_b", gossip.Alive))
	for step, keys := range [][][]byte{{k1, k2}, {k2, k1}, {k2}} {
		for _, s := range []seen{a, b} {
			if err := s.pool.Rotate(keys); err != nil {
				t.Fatal(err)
			}
		}
		said := fmt.Sprintf("after step %d", step)
		if err := b.pool.Say([]byte(said)); err != nil {
			t.Fatal(err)
		}
		a.until(t, said, func(m gossip.Member) bool { return string(m.Meta) == said })
	}
	late := join(t, "stk_c", "clu_1", [][]byte{k1}, a.pool.Addr())
	if n := len(late.pool.Members()); n != 1 {
		t.Fatalf("the old key still opens the pool: %d members", n)
	}
}

func TestJoin_Refuses(t *testing.T) {
	k := key(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for name, o := range map[string]gossip.Options{
		"no key":                 {Name: "a", Label: "l", Bind: "127.0.0.1:0"},
		"a short key":            {Name: "a", Label: "l", Bind: "127.0.0.1:0", Keys: [][]byte{{1}}},
		"no label":               {Name: "a", Bind: "127.0.0.1:0", Keys: [][]byte{k}},
		"an unspecified address": {Name: "a", Label: "l", Bind: "0.0.0.0:0", Keys: [][]byte{k}},
		"a port in use":          {Name: "a", Label: "l", Bind: busy.Addr().String(), Keys: [][]byte{k}},
		"too much meta":          {Name: "a", Label: "l", Bind: "127.0.0.1:0", Keys: [][]byte{k}, Meta: make([]byte, 513)},
	} {
		if p, err := gossip.Join(o); err == nil {
			_ = p.Close()
			t.Errorf("%s: joined", name)
		}
	}
}
