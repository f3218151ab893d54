package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// two are two organisations of one node each, on this machine's one disk, paired, with a tenant in each: acme's may act as
// globex's, and has a route to globex's agent.
type two struct {
	acme, globex   *harness.Cluster
	tenant, theirs *harness.Tenant
}

func (b *bench) organisations() (*two, error) {
	if b.two != nil {
		return b.two, nil
	}
	t, starter := &two{}, &harness.Starter{}
	for _, o := range []struct {
		name    string
		cluster **harness.Cluster
		tenant  **harness.Tenant
	}{{"acme", &t.acme, &t.tenant}, {"globex", &t.globex, &t.theirs}} {
		c := harness.NewOrganization(b.stage, b.build.Binary(b.stage), starter, o.name)
		c.AddNode(b.stage, "stk_"+o.name)
		*o.cluster = c
		var err error
		if *o.tenant, err = harness.MakeTenant(c.Admin(b.stage, 0), nil); err != nil {
			return nil, err
		}
	}
	if err := t.pair(b); err != nil {
		return nil, err
	}
	b.two = t
	return t, nil
}

// pair pairs the two and waits until a run goes across.
func (t *two) pair(b *bench) error {
	const peerings = "/v1/federation/peerings"
	ours, theirs := t.acme.Admin(b.stage, 0), t.globex.Admin(b.stage, 0)
	invited := ours.Want(b.stage, 201, "POST", peerings, map[string]any{})
	id := invited.Str("peering.peering_id")
	theirs.Want(b.stage, 201, "POST", peerings, map[string]any{"token": invited.Str("token"), "expect_fingerprint": invited.Str("peering.fingerprints.ours")})
	theirs.Want(b.stage, 200, "PUT", peerings+"/"+id+"/exports", map[string]any{"exports": []any{map[string]any{
		"tenant_id": t.tenant.ID, "local_tenant_id": t.theirs.ID,
		"scopes": []string{"runs:create", "runs:read", "runs:cancel", "events:read", "tools:invoke", "models:invoke", "memory:read", "memory:write"},
	}}})
	t.tenant.Want(b.stage, 201, "PUT", "/v1/federation/routes/rte_bench", map[string]any{"route": map[string]any{
		"match": map[string]any{"agent_id": t.theirs.Agent}, "targets": []any{map[string]any{"organization": "globex"}},
	}})
	var last harness.Answer
	if !harness.Poll(30*time.Second, 50*time.Millisecond, func() bool {
		last = t.tenant.Do(b.stage, "POST", t.across(), harness.Body("hello", nil))
		return last.Status == 201
	}) {
		return fmt.Errorf("no run goes across: %d %s", last.Status, last.Body)
	}
	_, err := t.tenant.TryJournal(last.Str("run.run_id"), 30*time.Second)
	return err
}

// across is where acme's tenant asks for a run that globex has to do.
func (t *two) across() string { return "/v1/agents/" + t.theirs.Agent + "/runs" }

// order is a load on acme's own runs, and in turns, or alone, on those that go across.
func (t *two) order(b *bench, do, text string, connections int) order {
	o := runsOrder(t.tenant, do, text, connections, b.seconds)
	o.Other = t.across()
	return o
}

// links are the connections to globex's door that there are, or were a moment ago, by the caller's port.
func (t *two) links() (map[string]bool, error) {
	door := fmt.Sprintf(":%04X", t.globex.Nodes[0].Port+1)
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] == "0A" { // who listens
			continue
		}
		for i, end := range f[1:3] {
			if strings.HasSuffix(end, door) {
				out[f[2-i]] = true
			}
		}
	}
	return out, nil
}

// opened carries an order out and returns also how many connections to globex's door were opened meanwhile. The machine
// remembers each for a minute after its end, so none is missed.
func (t *two) opened(do func() error) (n int, err error) {
	before, err := t.links()
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := t.links()
	for port := range after {
		if !before[port] {
			n++
		}
	}
	return n, err
}

// bareTLS starts an echo over mutual TLS with acme's own certificate on both sides, and returns a load on it of as many bytes
// as a small run is forwarded with.
func (b *bench) bareTLS(t *two) (order, error) {
	dir := filepath.Join(t.acme.Nodes[0].DataDir, "trust")
	p := proof{filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"), filepath.Join(dir, "ca.crt")}
	addr, _, err := b.serve("yardtls", p.Cert, p.Key, p.CA)
	body, _ := json.Marshal(harness.Body(strings.Repeat("x", 2<<10), nil))
	return order{Do: "post", Addr: addr, Path: "/echo", Body: string(body), Connections: 1, Seconds: min(b.seconds, 1), TLS: &p}, err
}

// forward: what it costs to have another organisation do a run, from the 201 to the end, with one caller; local and routed runs
// take turns, one by one.
func (b *bench) forward() error {
	t, err := b.organisations()
	if err != nil {
		return err
	}
	bare, err := b.bareTLS(t)
	if err != nil {
		return err
	}
	var f forwarding
	for range b.rounds {
		sync, err := b.fdatasync(t.acme.Nodes[0].DataDir)
		if err != nil {
			return err
		}
		tripped, err := load(bare, nil)
		if err != nil {
			return err
		}
		var r result
		links, err := t.opened(func() (err error) {
			r, err = load(t.order(b, "turns", "hello", 1), nil)
			return err
		})
		if err != nil {
			return err
		}
		f.add(sync, median(tripped.Took), &r, links)
	}
	f.tell(&b.table)
	return b.forwardMany(t)
}

// forwarding are the rounds of forward, in ms.
type forwarding struct {
	sync, trip, local, routed, added, started, bound, seen, seenHere, ended, endedHere, links []float64
}

func (f *forwarding) add(sync, trip time.Duration, r *result, links int) {
	here, there := &r.Turns[0], &r.Turns[1]
	local, routed := ms(median(here.Created)), ms(median(there.Created))
	f.sync, f.trip = append(f.sync, ms(sync)), append(f.trip, ms(trip))
	f.local, f.routed, f.added = append(f.local, local), append(f.routed, routed), append(f.added, routed-local)
	f.started, f.bound = append(f.started, ms(middling(there.Started))), append(f.bound, 2.5*ms(trip)+2*local)
	f.seen, f.seenHere = append(f.seen, ms(median(there.Seen))), append(f.seenHere, ms(median(here.Seen)))
	f.ended, f.endedHere = append(f.ended, ms(median(there.Ended))), append(f.endedHere, ms(median(here.Ended)))
	f.links = append(f.links, float64(links))
}

func (f *forwarding) tell(t *table) {
	t.add("fdatasync of 1 KiB, p50", "ms", f.sync, nil, "")
	t.add("bare mutual TLS: echo of 2 KiB, p50", "ms", f.trip, nil, "")
	t.add("local create, c=1, else idle, p50", "ms", f.local, nil, "")
	t.add("routed create, c=1, else idle, p50", "ms", f.routed, f.local, "local create")
	t.add("what a route adds to the 201", "ms", f.added, f.sync, "fdatasync")
	t.add("routed: created → started at the peer, middle half", "ms", f.started, f.bound, "(2.5 × bare + 2 × local create)")
	t.add("local: 201 → started seen, p50", "ms", f.seenHere, nil, "")
	t.add("routed: 201 → started seen at the origin, p50", "ms", f.seen, f.seenHere, "local")
	t.add("local run to its final event, c=1, p50", "ms", f.endedHere, nil, "")
	t.add("routed run to its final event, c=1, p50", "ms", f.ended, f.endedHere, "local")
	t.add("connections opened to the peer meanwhile, c=1", "", f.links, nil, "")
}

// middling is the mean of the middle half: the times in events have no more than milliseconds, which a median would keep.
func middling(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	d = d[len(d)/4 : len(d)-len(d)/4]
	var sum time.Duration
	for _, one := range d {
		sum += one
	}
	return sum / time.Duration(max(1, len(d)))
}

// forwardMany: whole runs per second with 64 callers, local and across in turns. The first round of each is not counted: in it
// the links are opened.
func (b *bench) forwardMany(t *two) error {
	const callers = 64
	pids := []int{t.acme.Nodes[0].Pid(), t.globex.Nodes[0].Pid()}
	local, routed := t.order(b, "runs", threeSteps, callers), t.order(b, "runs", threeSteps, callers)
	routed.Path = routed.Other
	var here, there, cpuHere, cpuThere, links []float64
	for i := range b.rounds + 1 {
		o, cost, err := costing(local, pids...)
		if err != nil {
			return err
		}
		var r result
		var costThere float64
		n, err := t.opened(func() (err error) {
			r, costThere, err = costing(routed, pids...)
			return err
		})
		if err != nil {
			return err
		}
		if i == 0 {
			continue
		}
		here, there, links = append(here, rate(o)), append(there, rate(r)), append(links, 1000*float64(n)/float64(r.Count))
		cpuHere, cpuThere = append(cpuHere, cost), append(cpuThere, costThere)
	}
	b.table.add("local: three-step runs, c=64", "1/s", here, nil, "")
	b.table.add("routed: three-step runs, c=64", "1/s", there, here, "local")
	b.table.add("local: processor time per run", "ms", cpuHere, nil, "")
	b.table.add("routed: processor time per run, both nodes", "ms", cpuThere, cpuHere, "local")
	b.table.add("connections opened to the peer per 1,000 runs, c=64", "", links, nil, "")
	if b.profile == "" {
		return nil
	}
	for _, c := range []*harness.Cluster{t.acme, t.globex} {
		text, err := b.profileOf(c.Nodes[0].AdminURL(), routed)
		if err == nil {
			err = os.WriteFile(b.profile+"."+c.Organization, text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// watchTwo: frames of a run that globex does, delivered per second to many watchers, at acme and at globex in turns; and how
// many streams acme opened for them.
func (b *bench) watchTwo() error {
	t, err := b.organisations()
	if err != nil {
		return err
	}
	for _, watchers := range slices.Compact([]int{min(100, b.watchers), b.watchers}) {
		var origin, executor, streams []float64
		for range b.rounds {
			n, err := t.streams(b)
			if err != nil {
				return err
			}
			o, err := t.fan(b, t.tenant, watchers)
			if err != nil {
				return err
			}
			after, err := t.streams(b)
			if err != nil {
				return err
			}
			e, err := t.fan(b, t.theirs, watchers)
			if err != nil {
				return err
			}
			origin, executor, streams = append(origin, rate(o)), append(executor, rate(e)), append(streams, after-n)
		}
		b.table.add(fmt.Sprintf("at the executor: frames to %d watchers", watchers), "1/s", executor, nil, "")
		b.table.add(fmt.Sprintf("at the origin: frames to %d watchers", watchers), "1/s", origin, executor, "executor")
		b.table.add("streams opened at the executor for them", "", streams, nil, "")
	}
	return nil
}

// fan has a run done across that takes a while, and its tenant on one side watch it many times.
func (t *two) fan(b *bench, watching *harness.Tenant, watchers int) (result, error) {
	const calls = 60
	body := harness.Body(fmt.Sprintf("/wait %ds\n", 1+watchers/200)+strings.Repeat("/call tool.echo {}\n", calls)+"/say done", map[string]any{
		"run_options": map[string]any{"max_steps": 4 * calls},
	})
	id := t.tenant.Want(b.stage, 201, "POST", t.across(), body).Str("run.run_id")
	if !harness.Poll(20*time.Second, 5*time.Millisecond, func() bool {
		return watching.Do(b.stage, "GET", "/v1/runs/"+id, nil).Status == 200
	}) {
		return result{}, errors.New("the run did not arrive")
	}
	return load(order{Do: "fan", Addr: watching.Addr(), Path: "/v1/runs/" + id + "/events", Key: watching.Key, Connections: watchers}, nil)
}

// streams is how many streams of events have ended at globex, once all have been counted that were about to.
func (t *two) streams(b *bench) (n float64, err error) {
	for last := -1.0; err == nil && n != last; {
		last = n
		settle := time.NewTimer(100 * time.Millisecond)
		<-settle.C
		n, err = t.streamsNow(b)
	}
	return n, err
}

func (t *two) streamsNow(b *bench) (n float64, err error) {
	text := harness.NewClient(t.globex.Nodes[0].AdminURL(), "").Want(b.stage, 200, "GET", "/metrics", nil).Body
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if strings.HasPrefix(name, "agentos_http_request_count{") && strings.Contains(name, `/events"`) {
			var one float64
			if _, err := fmt.Sscan(value, &one); err != nil {
				return 0, fmt.Errorf("figure %q: %w", line, err)
			}
			n += one
		}
	}
	return n, nil
}
