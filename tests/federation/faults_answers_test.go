package federation_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// The answer to a forward is lost after globex has taken the run, again and again, from changing nodes of acme's of which
// some are killed at that moment: as many runs as keys, each whole at both organisations and ended once.
//
// Requirements: P5, Q3.
func TestFaults_LostAnswers(t *testing.T) {
	t.Parallel()
	chance := seeded(t)
	c := pairUp(t, 3)
	const large = 8 << 10 // no other request is as large as these
	count := rounds(20, 200)
	text := "/say " + strings.Repeat("x", large)
	runs := make(map[string]string) // by key
	create := func(i int, key string) (id string) {
		t.Helper()
		var err error
		if !harness.Poll(bound, 50*time.Millisecond, func() bool {
			id, err = c.tryCreate(i, text, "Idempotency-Key", key)
			return err == nil
		}) {
			t.Fatalf("%s at %s: %v", key, c.acme.Nodes[i].Name, err)
		}
		return id
	}
	kills := 0
	for i := range count {
		key, node := fmt.Sprintf("key-%d", i), i%3
		lost := c.proxy.Swallowed()
		c.proxy.Swallow(1+chance.IntN(2), large)
		runs[key] = create(node, key)
		if !harness.Poll(bound, 2*time.Millisecond, func() bool { return c.proxy.Swallowed() > lost }) {
			t.Fatalf("%s: %s was never asked", key, runs[key])
		}
		var killed *harness.Node
		if i%10 == 5 {
			killed = c.acme.Nodes[chance.IntN(3)]
			killed.Kill(t)
			kills++
		}
		other := (node + 1) % 3
		if c.acme.Nodes[other] == killed {
			other = (node + 2) % 3
		}
		if again := create(other, key); again != runs[key] {
			t.Errorf("%s made %s, and then %s", key, runs[key], again)
		}
		if killed != nil {
			killed.Launch(t)
			killed.AwaitReady(t)
		}
	}
	c.proxy.Swallow(0, 0)
	i := 0
	for key, id := range runs {
		here, there := tell(t, c.at(i%3), id), tell(t, c.there.Client, id)
		if diff := same(here, there); diff != "" {
			t.Errorf("%s, %s: %s", key, id, diff)
		}
		if last := here[len(here)-1]; last.Type != "agentos.run.completed" {
			t.Errorf("%s, %s ended with %s", key, id, last.Raw)
		}
		i++
	}
	for name, found := range map[string]map[string]int{"acme": runsOf(t, c.at(0)), "globex": runsOf(t, c.there.Client)} {
		if len(found) != len(runs) || len(runs) != count {
			t.Errorf("%d keys, %d runs at %s", count, len(found), name)
		}
		for key, id := range runs {
			if found[id] != 1 {
				t.Errorf("%s: %s is there %d times at %s", key, id, found[id], name)
			}
		}
	}
	t.Logf("%d keys, %d answers lost, %d nodes killed", count, c.proxy.Swallowed(), kills)
}
