package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// three is a cluster of three nodes, each a process of its own on this machine's one disk, with a tenant in it.
type three struct {
	*harness.Cluster
	tenant *harness.Tenant
}

func (b *bench) cluster() (*three, error) {
	if b.three != nil {
		return b.three, nil
	}
	c := &three{Cluster: harness.NewCluster(b.stage, b.build.Binary(b.stage), &harness.Starter{}, 3)}
	var err error
	if c.tenant, err = harness.MakeTenant(c.Admin(b.stage, 0), nil); err != nil {
		return nil, err
	}
	// Every node knows the tenant before anything is measured.
	for _, client := range c.Clients(c.tenant.Client.Key) {
		if !harness.Poll(20*time.Second, 20*time.Millisecond, func() bool {
			return client.Do(b.stage, "GET", "/v1/agents/"+c.tenant.Agent, nil).Status == 200
		}) {
			return nil, errors.New("a node does not know the tenant")
		}
	}
	b.three = c
	return c, nil
}

// order is a load on the runs of these nodes.
func (c *three) order(b *bench, do, text string, connections int, nodes ...*harness.Node) order {
	o := runsOrder(c.tenant, do, text, connections, b.seconds)
	for i, n := range nodes {
		if at, _ := url.Parse(n.URL()); i == 0 {
			o.Addr = at.Host
		} else {
			o.Also = append(o.Also, at.Host)
		}
	}
	return o
}

// createThree: how long one caller waits for the 201 of a create that two nodes have on disk, asking the leader, and
// asking another node, beside a caller of a lone node.
func (b *bench) createThree() error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	var one, leader, follower []float64
	for range b.rounds {
		l := c.Leader(b.stage)
		f := c.Follower(b.stage)
		for _, m := range []struct {
			into *[]float64
			order
		}{
			{&one, b.runsOrder("alone", "hello", 1)},
			{&leader, c.order(b, "alone", "hello", 1, l)},
			{&follower, c.order(b, "alone", "hello", 1, f)},
		} {
			r, err := load(m.order, nil)
			if err != nil {
				return err
			}
			*m.into = append(*m.into, ms(median(r.Took)))
		}
	}
	b.table.add("one node: create, c=1, else idle, p50", "ms", one, nil, "")
	b.table.add("three nodes: the same at the leader, p50", "ms", leader, one, "one node")
	b.table.add("three nodes: the same at a follower, p50", "ms", follower, one, "one node")
	return nil
}

// completeThree: whole runs per second with 64 callers spread over three nodes, beside as many at a lone node.
func (b *bench) completeThree() error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	pids := []int{}
	for _, n := range c.Nodes {
		pids = append(pids, n.Pid())
	}
	var one, spread, p50, p99, cpu1, cpu3 []float64
	for range b.rounds {
		o, cost, err := costing(b.runsOrder("runs", threeSteps, 64), b.node.Pid())
		if err != nil {
			return err
		}
		cpu1 = append(cpu1, cost)
		r, cost, err := costing(c.order(b, "runs", threeSteps, 64, c.Nodes...), pids...)
		if err != nil {
			return err
		}
		cpu3 = append(cpu3, cost)
		one, spread = append(one, rate(o)), append(spread, rate(r))
		p50, p99 = append(p50, ms(median(r.Took))), append(p99, ms(quantile(r.Took, 0.99)))
	}
	b.table.add("one node: three-step runs, c=64", "1/s", one, nil, "")
	b.table.add("three nodes: three-step runs, c=64 over all", "1/s", spread, one, "one node")
	b.table.add("one node: processor time per run", "ms", cpu1, nil, "")
	b.table.add("three nodes: processor time per run, all three", "ms", cpu3, cpu1, "one node")
	b.table.add("three nodes: three-step run, c=64, p50", "ms", p50, nil, "")
	b.table.add("three nodes: three-step run, c=64, p99", "ms", p99, nil, "")
	if b.profile == "" {
		return nil
	}
	for i, n := range c.Nodes {
		text, err := b.profileOf(n.AdminURL(), c.order(b, "runs", threeSteps, 64, c.Nodes...))
		if err == nil {
			err = os.WriteFile(fmt.Sprintf("%s.%s%d", b.profile, map[bool]string{true: "leader", false: "follower"}[n == c.Leader(b.stage)], i+1), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// costing carries o out and returns also the processor time, in ms, that pids have used for each of what it counts.
func costing(o order, pids ...int) (r result, each float64, err error) {
	used := func() (sum time.Duration) {
		for _, pid := range pids {
			d, failed := harness.CPU(pid)
			err = errors.Join(err, failed)
			sum += d
		}
		return sum
	}
	before := used()
	r, failed := load(o, nil)
	return r, ms(used()-before) / float64(r.Count), errors.Join(failed, err)
}
