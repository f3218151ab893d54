package cluster_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// storm is how long a gossip port is pelted.
func storm() time.Duration {
	if os.Getenv("AGENTOS_FAULTS") == "full" {
		return time.Minute
	}
	return 3 * time.Second
}

// maxGrowth is how much memory garbage may cost a node, in bytes, on top of what its other work takes in that time.
const maxGrowth = 256 << 20

// pelted runs throwers against each node of a new cluster for a while, as runs are made at all of them, and checks that
// nothing has changed.
func pelted(t *testing.T, prepare func(c *harness.Cluster) []func(rnd *rand.Rand, n *harness.Node)) *harness.Cluster {
	t.Helper()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3, "--timing=standard") // no election because the machine is busy
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	gossipers(t, c, 3)
	throwers := prepare(c)
	before, leader := members(t, c, 0), c.Leader(t).Name
	term := c.Describe(t, 0).Int("cluster.term")
	var pids []int
	var rss []int64
	for _, n := range c.Nodes {
		got, err := harness.RSS(n.Pid())
		if err != nil {
			t.Fatal(err)
		}
		pids, rss = append(pids, n.Pid()), append(rss, got)
	}
	rnd := seeded(t)
	l := newLoad(c, tn, "storm", func(int, int) string { return "/say on" })
	ctx, cancel := context.WithTimeout(context.Background(), storm())
	defer cancel()
	began := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { l.run(ctx, t, 3) })
	for _, n := range c.Nodes {
		for _, throw := range throwers {
			own := rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64()))
			wg.Go(func() {
				for ctx.Err() == nil {
					throw(own, n)
				}
			})
		}
	}
	wg.Wait()
	for i, n := range c.Nodes {
		got, err := harness.PeakRSS(n.Pid())
		if err != nil {
			t.Fatalf("%s has ended: %v\n%s", n.Name, err, n.Output())
		}
		t.Logf("%s: %d MiB before, %d MiB at most, %d packets and streams dropped", n.Name, rss[i]>>20, got>>20, figure(t, n, "agentos_gossip_dropped"))
		if got-rss[i] > maxGrowth {
			t.Errorf("%s grew from %d to %d MiB", n.Name, rss[i]>>20, got>>20)
		}
		if size := len(n.Output()); size > 256<<10 {
			t.Errorf("%s has logged %d KiB", n.Name, size>>10)
		}
	}
	if gap := l.gap(began); gap > 5*time.Second {
		t.Errorf("for %v no run could be made", gap)
	}
	t.Logf("%d runs were made, longest silence %v", l.acks, l.gap(began).Round(time.Millisecond))
	if got := c.Describe(t, 0); got.Str("cluster.leader") != leader || got.Int("cluster.term") != term {
		t.Errorf("%s led term %d; now %s leads term %d", leader, term, got.Str("cluster.leader"), got.Int("cluster.term"))
	}
	l.check(t)
	unmoved(t, c, tn, before, pids)
	return c
}

// Garbage at the gossip ports changes nothing: random bytes, packets of the pool with bits flipped, cut or glued together,
// streams that announce megabytes, and streams that never end.
//
// Requirements: N2, Q3.
func TestGossip_Garbage(t *testing.T) {
	t.Parallel()
	c := pelted(t, func(c *harness.Cluster) []func(*rand.Rand, *harness.Node) {
		r := c.Nodes[0].Rumour(t)
		var caught [][]byte
		for _, n := range c.Nodes {
			packet, ok := r.Answers(n.GossipAddr(), n.Name, 20*time.Second)
			if !ok {
				t.Fatalf("%s answers no ping", n.Name)
			}
			caught = append(caught, packet, r.Packet(r.Ping(n.Name)), r.Stream(r.PushPull(1, []string{n.Name})))
		}
		var out []func(*rand.Rand, *harness.Node)
		for range 2 {
			out = append(out,
				func(rnd *rand.Rand, n *harness.Node) { volley(n, func() []byte { return garbage(rnd, r, caught) }) },
				func(rnd *rand.Rand, n *harness.Node) { spill(n, garbage(rnd, r, caught), 50*time.Millisecond) },
			)
		}
		return append(out,
			// 20 MiB are announced, and come.
			func(_ *rand.Rand, n *harness.Node) {
				head := binary.BigEndian.AppendUint32(append([]byte{244, byte(len(r.Label))}, r.Label+"\x0a"...), 20<<20)
				spill(n, append(head, make([]byte, 8<<20)...), time.Second)
			},
			// They hold the line and say nothing, or next to nothing.
			func(rnd *rand.Rand, n *harness.Node) { hold(n, r, rnd) },
		)
	})
	gossipers(t, c, 3)
}

// garbage is one of many kinds of bytes that are no gossip.
func garbage(rnd *rand.Rand, r harness.Rumour, caught [][]byte) []byte {
	b := append([]byte(nil), caught[rnd.IntN(len(caught))]...)
	switch rnd.IntN(8) {
	case 0:
		return random(rnd, rnd.IntN(1500))
	case 1:
		return random(rnd, 60_000)
	case 2: // labelled, and nothing behind it that could be opened
		return append(append([]byte{244, byte(len(r.Label))}, r.Label...), random(rnd, rnd.IntN(200))...)
	case 3: // in the clear: any kind of message, and anything after it
		return harness.Rumour{Label: r.Label}.Packet(append([]byte{byte(rnd.IntN(16))}, random(rnd, rnd.IntN(200))...))
	case 6: // the byte behind the label, which names the format, is not authenticated
		b[2+len(r.Label)] = byte(rnd.IntN(4))
		return b
	case 4:
		return b[:rnd.IntN(len(b))]
	case 5:
		return append(b, caught[rnd.IntN(len(caught))]...)
	}
	for range 1 + rnd.IntN(8) {
		b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
	}
	return b
}

func random(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// volley sends a dozen datagrams to a node's gossip.
func volley(n *harness.Node, next func() []byte) {
	conn, err := net.Dial("udp", n.GossipAddr())
	if err != nil {
		return
	}
	defer conn.Close()
	for range 12 {
		_, _ = conn.Write(next())
	}
	harness.Poll(5*time.Millisecond, 5*time.Millisecond, func() bool { return false }) // the machine has other work
}

// spill sends b over TCP and takes what comes back, for at most d.
func spill(n *harness.Node, b []byte, d time.Duration) {
	conn, err := net.DialTimeout("tcp", n.GossipAddr(), time.Second)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(d))
	_, _ = conn.Write(b)
	_, _ = conn.Read(make([]byte, 64<<10))
}

// hold opens many streams and lets each say a byte at a time.
func hold(n *harness.Node, r harness.Rumour, rnd *rand.Rand) {
	var open []net.Conn
	for range 100 {
		if conn, err := net.DialTimeout("tcp", n.GossipAddr(), time.Second); err == nil {
			open = append(open, conn)
		}
	}
	words := r.Stream(r.PushPull(3, []string{n.Name}))
	for i := range 10 {
		for _, conn := range open {
			_ = conn.SetDeadline(time.Now().Add(time.Millisecond))
			_, _ = conn.Write(words[i : i+1])
			_, _ = conn.Read(make([]byte, 1+rnd.IntN(16)))
		}
	}
	for _, conn := range open {
		_ = conn.Close()
	}
}

// Who has label and key may say what it likes, and rumour is all that comes of it: nobody is let in or put out, the
// office stays, and a thousand names that it makes up fill nothing.
//
// Requirements: N2, Q3.
func TestGossip_Liar(t *testing.T) {
	t.Parallel()
	pelted(t, func(c *harness.Cluster) []func(*rand.Rand, *harness.Node) {
		r := c.Nodes[0].Rumour(t)
		home := net.IPv4(127, 0, 0, 1)
		lie := func(rnd *rand.Rand) []byte {
			other := c.Nodes[rnd.IntN(3)]
			incarnation := []uint32{0, 1, rnd.Uint32(), math.MaxUint32 - 1, math.MaxUint32}[rnd.IntN(5)]
			meta := make([]byte, []int{0, 1, 300, 511, 512, 513, 1000}[rnd.IntN(7)])
			for i := range meta {
				meta[i] = byte(rnd.Uint32())
			}
			switch rnd.IntN(7) {
			case 0: // a crowd
				return r.Alive(fmt.Sprintf("stk_fake%d", rnd.IntN(1000)), home, uint16(1+rnd.IntN(65535)), incarnation, meta)
			case 1: // a member somewhere else
				return r.Alive(other.Name, home, uint16(1+rnd.IntN(65535)), incarnation, meta)
			case 2: // a member that says something else
				return r.Alive(other.Name, home, uint16(other.Port+3), incarnation, []byte(`\x00{"cluster":"127.0.0.1:1","ready":tru`))
			case 3:
				return r.Dead(other.Name, c.Nodes[rnd.IntN(3)].Name, incarnation)
			case 4: // it leaves of its own will
				return r.Dead(other.Name, other.Name, incarnation)
			case 5:
				return r.Suspect(other.Name, "stk_fake1", incarnation)
			}
			return r.Alive([]string{"", "../../etc", "a b", string(make([]byte, 100)), "stk_\xff\xfe"}[rnd.IntN(5)], home, 9, incarnation, meta)
		}
		crowd := make([]string, 1000)
		for i := range crowd {
			crowd[i] = fmt.Sprintf("stk_crowd%d", i)
		}
		return []func(*rand.Rand, *harness.Node){
			func(rnd *rand.Rand, n *harness.Node) { volley(n, func() []byte { return r.Packet(lie(rnd)) }) },
			func(_ *rand.Rand, n *harness.Node) {
				spill(n, r.Stream(r.PushPull(len(crowd), crowd)), 200*time.Millisecond)
			},
			func(rnd *rand.Rand, n *harness.Node) { // more are announced than come, fewer than none, or nothing is said
				spill(n, r.Stream(r.PushPull(10_000, nil)), 200*time.Millisecond)
				spill(n, r.Stream(r.PushPull(-1, nil)), 200*time.Millisecond)
				spill(n, r.Stream(nil), 200*time.Millisecond)
				spill(n, r.Stream(random(rnd, rnd.IntN(100))), 200*time.Millisecond)
				send(t, n, r.Packet(nil))
				send(t, n, r.Packet(random(rnd, rnd.IntN(100))))
			},
			func(_ *rand.Rand, n *harness.Node) {
				if got := figure(t, n, "agentos_gossip_members_alive"); got > 3+64 {
					t.Errorf("gossip at %s holds %d nodes for alive", n.Name, got)
				}
				harness.Poll(100*time.Millisecond, 100*time.Millisecond, func() bool { return false })
			},
		}
	})
}
