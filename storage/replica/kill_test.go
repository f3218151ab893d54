package replica_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// process is a member process from outside.
type process struct {
	id, folder string
	round      int
	all        *ledger

	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan string
	ended   chan struct{} // closed when its output has ended
}

func (p *process) mustStart(t *testing.T, init bool) {
	t.Helper()
	p.round++
	env := []string{"ID=" + p.id, "FOLDER=" + p.folder, fmt.Sprint("ROUND=", p.round)}
	if init {
		env = append(env, "INIT=1")
	}
	p.cmd = child(t, "member", env...)
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answers, ended := make(chan string, 1), make(chan struct{})
	p.in, p.answers, p.ended = in, answers, ended
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if key, ok := strings.CutPrefix(lines.Text(), "+"); ok {
				p.all.add(key)
			} else {
				answers <- lines.Text()[1:]
			}
		}
	}()
}

// ask sends a line and returns the answer.
func (p *process) ask(ctx context.Context, line string) (string, error) {
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		return "", err
	}
	select {
	case answer := <-p.answers:
		if text, ok := strings.CutPrefix(answer, "error "); ok {
			return "", errors.New(text)
		}
		return answer, nil
	case <-p.ended:
		return "", errors.New("the process has ended")
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// mustAsk asks until there is an answer.
func (p *process) mustAsk(t *testing.T, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for {
		answer, err := p.ask(ctx, line)
		if err == nil {
			return answer
		}
		select {
		case <-p.ended:
			t.Fatalf("%s ended, asked to %s", p.id, line)
		case <-ctx.Done():
			t.Fatalf("%s, asked to %s: %v", p.id, line, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// kill ends the process as a loss of power to its machine would, except that what it wrote is kept.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
	_ = p.cmd.Wait()
}

// signal sends the process one of the signals that stop it and let it go on.
func (p *process) signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// trio is three member processes, and what they acknowledged.
type trio struct {
	all     ledger
	members []*process
}

func mustTrio(t *testing.T) *trio {
	t.Helper()
	folder, err := os.MkdirTemp("", "trio") // sockets want short names
	if err != nil {
		t.Fatal(err)
	}
	c := &trio{}
	t.Cleanup(func() {
		for _, p := range c.members {
			p.kill()
		}
		_ = os.RemoveAll(folder)
	})
	for i := range 3 {
		p := &process{id: fmt.Sprint("n", i), folder: folder, all: &c.all}
		p.mustStart(t, i == 0)
		c.members = append(c.members, p)
	}
	first := c.members[0]
	first.mustAsk(t, "ready")
	for _, p := range c.members[1:] {
		first.mustAsk(t, "add "+p.id+" "+filepath.Join(folder, p.id+".raft"))
	}
	for _, p := range c.members {
		p.mustAsk(t, "ready")
		p.mustAsk(t, "load")
	}
	return c
}

// mustProgress waits until n more commands were acknowledged.
func (c *trio) mustProgress(t *testing.T, n int) {
	t.Helper()
	want := c.all.size() + n
	for deadline := time.Now().Add(90 * time.Second); c.all.size() < want; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d commands were acknowledged", c.all.size(), want)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// leader returns who says that it leads, or nil.
func (c *trio) leader(t *testing.T) *process {
	for _, p := range c.members {
		if p.mustAsk(t, "role") == string(storage.Leader) {
			return p
		}
	}
	return nil
}

// harm does one thing to the trio, and undoes it.
func (c *trio) harm(t *testing.T, rng *rand.Rand) string {
	victim := c.members[rng.IntN(3)]
	if leader := c.leader(t); leader != nil && rng.IntN(2) == 0 {
		victim = leader
	}
	dies := []*process{victim}
	switch what := rng.IntN(6); what {
	case 0: // all at once
		dies = c.members
	case 1: // a quorum
		dies = []*process{victim, c.members[(int(victim.id[1]-'0')+1)%3]}
	case 2: // not dead, but gone for longer than an election takes
		victim.signal(syscall.SIGSTOP)
		<-time.After(time.Duration(500+rng.IntN(1000)) * time.Millisecond)
		victim.signal(syscall.SIGCONT)
		return victim.id + " was stopped for a while"
	}
	ids := ""
	for _, p := range dies {
		p.kill()
		ids += " " + p.id
	}
	<-time.After(time.Duration(rng.IntN(500)) * time.Millisecond) // the others may elect, or not
	for _, p := range dies {
		p.mustStart(t, false)
	}
	for _, p := range dies {
		p.mustAsk(t, "load")
	}
	return "killed:" + ids
}

// mustAgree stops the load and waits until all stand at one entry. Their views must be the same.
func (c *trio) mustAgree(t *testing.T) {
	t.Helper()
	for _, p := range c.members {
		p.mustAsk(t, "stop")
	}
	for _, p := range c.members {
		p.mustAsk(t, "ready")
	}
	views := make([]string, 3)
	for deadline := time.Now().Add(60 * time.Second); ; {
		at := make(map[string]bool)
		for i, p := range c.members {
			views[i] = p.mustAsk(t, "view")
			index, _, _ := strings.Cut(views[i], " ")
			at[index] = true
		}
		if len(at) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the members stand at different entries: %q", views)
		}
	}
	if views[0] != views[1] || views[1] != views[2] {
		t.Errorf("the members differ (index, state, running): %q", views)
	}
}

// TestCluster_Kill: three processes under load, with tiny write buffers and a cut of the log each 80 ms, are killed and
// stopped at random, one or two or all. Every acknowledged command is in each copy exactly once, and the copies are equal.
//
// Requirements: N3, Q3.
func TestCluster_Kill(t *testing.T) {
	t.Parallel()
	rounds := 4
	if long() {
		rounds = 80
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := mustTrio(t)
	for round := range rounds {
		c.mustProgress(t, 60)
		<-time.After(time.Duration(rng.IntN(300)) * time.Millisecond) // the moment is drawn
		what := c.harm(t, rng)
		t.Logf("round %d: %s; %d acknowledged", round, what, c.all.size())
	}
	c.mustProgress(t, 60)
	c.mustAgree(t)
	acked := c.all.copy()
	for _, p := range c.members {
		p.mustAsk(t, "quit")
		<-p.ended
		_ = p.cmd.Wait()
		reg := storage.NewRegistry()
		s, err := replica.Open(replica.Options{Dir: filepath.Join(p.folder, p.id), ServerID: p.id, ClusterID: "test", Registry: reg, DiskFloorBytes: -1})
		if err != nil {
			t.Fatal(err)
		}
		total, keys := mustCountAt(t, s, storage.Stale)
		if gone := missing(acked, keys); len(gone) > 0 {
			t.Errorf("%s lacks %d of %d that were acknowledged: %q", p.id, len(gone), len(acked), gone)
		}
		t.Logf("%s: %d acknowledged, %d in all", p.id, len(acked), total)
		mustClose(t, s)
	}
}
