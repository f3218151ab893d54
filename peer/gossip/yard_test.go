package gossip_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/peer/gossip"
)

// The bench (tests/bench) has this test binary grow a pool in a process of its own, ours or of bare memberlist, and say how
// long it took until everybody knew the member that came as the n-th.
const childEnv = "GOSSIP_TEST_CHILD" // ours or bare

func TestMain(m *testing.M) {
	kind := os.Getenv(childEnv)
	if kind == "" {
		os.Exit(m.Run())
	}
	took, err := grow(kind == "bare", os.Getenv("FAST") != "", strings.Split(os.Getenv("SIZES"), ","))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(took)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// crowd counts who knows whom.
type crowd struct {
	mu    sync.Mutex
	knows map[string]map[string]bool // by the member that knows
	ties  int
	news  chan struct{} // capacity 1
}

func (c *crowd) met(who, whom string) {
	c.mu.Lock()
	if c.knows[who] == nil {
		c.knows[who] = make(map[string]bool)
	}
	if !c.knows[who][whom] {
		c.knows[who][whom] = true
		c.ties++
	}
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// settle waits until n members know each other, at most for d.
func (c *crowd) settle(n int, d time.Duration) bool {
	late := time.NewTimer(d)
	defer late.Stop()
	for {
		c.mu.Lock()
		ties := c.ties
		c.mu.Unlock()
		if ties == n*n {
			return true
		}
		select {
		case <-c.news:
		case <-late.C:
			return false
		}
	}
}

// grow makes a pool of the greatest of sizes, member by member, and returns how long each member that made one of the sizes
// full took: from opening its port until all knew it, and it all of them.
func grow(bare, fast bool, sizes []string) (took []time.Duration, err error) {
	c := &crowd{knows: make(map[string]map[string]bool), news: make(chan struct{}, 1)}
	var members []interface {
		Addr() string
		Close() error
	}
	defer func() {
		for _, m := range members {
			_ = m.Close()
		}
	}()
	var first []string
	join := func() error {
		seeds := first
		name := fmt.Sprintf("stk_m%d", len(members)+1)
		o := gossip.Options{
			Name: name, Label: "bench", Keys: [][]byte{make([]byte, 32)}, Bind: "127.0.0.1:0", Fast: fast, Meta: make([]byte, 300),
			Seeds: func() []string { return seeds }, Logger: zap.NewNop(),
		}
		if bare {
			b, err := gossip.JoinBare(o, func(whom string) { c.met(name, whom) })
			if err != nil {
				return err
			}
			members = append(members, b)
		} else {
			o.Changed = func(m gossip.Member) { c.met(name, m.Name) }
			p, err := gossip.Join(o)
			if err != nil {
				return err
			}
			members = append(members, p)
		}
		if len(members) == 1 {
			first = []string{members[0].Addr()}
		}
		return nil
	}
	for _, text := range sizes {
		size, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		for len(members) < size-1 {
			if err := join(); err != nil {
				return nil, err
			}
			c.settle(len(members), 200*time.Millisecond) // in a rush many rumours are lost, and the next full exchange is seconds away
		}
		if !c.settle(size-1, time.Minute) {
			return nil, fmt.Errorf("%d members do not all know each other after a minute", size-1)
		}
		began := time.Now()
		if err := join(); err != nil {
			return nil, err
		}
		if !c.settle(size, time.Minute) {
			return nil, fmt.Errorf("the member %d is not known to all after a minute", size)
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

// TestGrow: ours and the yardstick both get to know each other; else the bench would compare with nothing.
func TestGrow(t *testing.T) {
	for _, bare := range []bool{false, true} {
		t.Run(fmt.Sprintf("bare=%v", bare), func(t *testing.T) {
			if took, err := grow(bare, true, []string{"2", "4"}); err != nil || len(took) != 2 || took[1] <= 0 {
				t.Errorf("%v, %v", took, err)
			}
		})
	}
}
