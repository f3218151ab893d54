package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Network is a switch with machines on it, each a network namespace with an address and a loopback of its own. It exists
// within Apart only, where no packet leaves the test.
type Network struct {
	tb    testing.TB
	Hosts []*Host
}

// Host is one machine of a Network.
type Host struct {
	Netns string // its namespace's name
	Addr  string // its address
	n     *Network
}

// NewNetwork makes a network of count machines. Call it inside Apart.
func NewNetwork(tb testing.TB, count int) *Network {
	tb.Helper()
	Needs(tb, "ip", "mount")
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := syscall.Mount("none", "/run/netns", "tmpfs", 0, ""); err != nil { // names of our own, gone with this process
		tb.Fatalf("mount /run/netns: %v", err)
	}
	n := &Network{tb: tb}
	n.ip("link", "add", "agentos0", "type", "bridge")
	n.ip("link", "add", "agentos1", "type", "bridge")
	n.ip("link", "set", "agentos1", "up")
	n.ip("addr", "add", "10.99.0.254/24", "dev", "agentos0")
	n.ip("link", "set", "agentos0", "up")
	for range count {
		n.AddHost(tb)
	}
	return n
}

// AddHost puts one more machine on the switch.
func (n *Network) AddHost(tb testing.TB) *Host {
	tb.Helper()
	i := len(n.Hosts) + 1
	h := &Host{Netns: fmt.Sprintf("h%d", i), Addr: fmt.Sprintf("10.99.0.%d", i), n: n}
	port := fmt.Sprintf("port%d", i)
	n.ip("netns", "add", h.Netns)
	n.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", h.Netns)
	n.ip("link", "set", port, "master", "agentos0", "up")
	h.ip("link", "set", "lo", "up")
	h.ip("addr", "add", h.Addr+"/24", "dev", "eth0")
	h.ip("link", "set", "eth0", "up")
	n.Hosts = append(n.Hosts, h)
	return h
}

// Split moves hosts to a switch of their own: they reach each other, and none of the rest. Unite mends it.
func (n *Network) Split(hosts ...*Host) { n.plug("agentos1", hosts) }

// Unite puts all machines back on one switch.
func (n *Network) Unite() { n.plug("agentos0", n.Hosts) }

func (n *Network) plug(bridge string, hosts []*Host) {
	n.tb.Helper()
	for _, h := range hosts {
		n.ip("link", "set", "port"+h.Netns[1:], "master", bridge)
	}
}

func (n *Network) ip(args ...string) {
	n.tb.Helper()
	if out := Command(n.tb, 10*time.Second, "", nil, append([]string{"ip"}, args...)...); out.Code != 0 {
		n.tb.Fatalf("ip %v: %s", args, out.Stderr)
	}
}

func (h *Host) ip(args ...string) {
	h.n.tb.Helper()
	h.n.ip(append([]string{"-n", h.Netns}, args...)...)
}

// Mute keeps what h sends from reaching other: what other sends still arrives, and is never answered.
func (h *Host) Mute(other *Host) { h.ip("route", "replace", "blackhole", other.Addr+"/32") }

// Unmute ends Mute.
func (h *Host) Unmute(other *Host) { h.ip("route", "del", "blackhole", other.Addr+"/32") }

// Isolate cuts h off all others, both ways; Rejoin mends it.
func (h *Host) Isolate() { h.n.ip("link", "set", "port"+h.Netns[1:], "down") }

// Rejoin ends Isolate.
func (h *Host) Rejoin() { h.n.ip("link", "set", "port"+h.Netns[1:], "up") }

// Dial opens a connection as a process on h would.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled, 1)
	go func() {
		// The thread is given up with its namespace: it's never unlocked.
		runtime.LockOSThread()
		ns, err := os.Open("/run/netns/" + h.Netns)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			_ = ns.Close()
		}
		if err != nil {
			done <- dialled{nil, fmt.Errorf("enter %s: %w", h.Netns, err)}
			return
		}
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
		done <- dialled{conn, err}
	}()
	d := <-done
	return d.conn, d.err
}

// Client returns a client that speaks from h to a listener on h's own loopback.
func (h *Host) Client(base, key string) *Client { return newClient(base, key, h.Dial) }

// Run runs a command on h to its end.
func (h *Host) Run(tb testing.TB, bound time.Duration, dir string, env []string, argv ...string) Outcome {
	tb.Helper()
	return Command(tb, bound, dir, env, append([]string{"ip", "netns", "exec", h.Netns}, argv...)...)
}
