package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// bench runs all measures.
type bench struct {
	rounds   int
	seconds  float64
	watchers int
	idle     int
	json     string
	profile  string
	only     string

	stage  *harness.Stage
	build  harness.Build
	node   *harness.Deployment
	tenant *harness.Tenant
	three  *three // made when first asked for
	two    *two   // likewise
	yard   string // address of the yardstick server
	yardID int    // its pid
	table  table
}

// measure is one part of the bench.
type measure struct {
	name string
	take func() error
	node bool // wants the one node and the yardstick server
}

func (b *bench) measures() []measure {
	return []measure{
		{"create", b.create, true},
		{"creates", b.createMany, true},
		{"run", b.complete, true},
		{"runs", b.completeMany, true},
		{"fan", b.fanOut, true},
		{"idle", b.idleStreams, true},
		{"restart", b.restart, true},
		{"create3", b.createThree, true},
		{"runs3", b.completeThree, true},
		{"forward", b.forward, false},
		{"watch2", b.watchTwo, false},
		{"raft", b.raft, false},
		{"gossip", b.gossip, false},
	}
}

// chosen are the measures to take.
func (b *bench) chosen() ([]measure, error) {
	all := b.measures()
	if b.only == "" {
		return all, nil
	}
	var out []measure
	for name := range strings.SplitSeq(b.only, ",") {
		i := slices.IndexFunc(all, func(m measure) bool { return m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no such measure: %q", name)
		}
		out = append(out, all[i])
	}
	return out, nil
}

func (b *bench) all() error {
	chosen, err := b.chosen()
	if err != nil {
		return err
	}
	b.stage.Cleanup(b.build.Close)
	if b.profile != "" || slices.ContainsFunc(chosen, func(m measure) bool { return m.node }) {
		if err := b.startNode(); err != nil {
			return err
		}
	}
	b.table.begin(b.rounds, b.seconds)
	for _, m := range chosen {
		if err := m.take(); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		b.table.flush(os.Stdout)
	}
	if b.profile != "" {
		if err := b.takeProfile(); err != nil {
			return err
		}
	}
	if b.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(&b.table, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.json, append(text, '\n'), 0o644)
}

// startNode starts the one node, with a tenant in it, and the yardstick server.
func (b *bench) startNode() error {
	b.node = harness.Up(b.stage, b.build.Binary(b.stage))
	var err error
	if b.tenant, err = harness.MakeTenant(b.node.Admin(b.stage), nil); err != nil {
		return err
	}
	return b.startYard()
}

// child starts this program in another role.
func child(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), envRole+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (b *bench) startYard() (err error) {
	b.yard, b.yardID, err = b.serve("yard")
	return err
}

// serve starts a yardstick that is a server, and returns its address and its pid.
func (b *bench) serve(role string, args ...string) (addr string, pid int, err error) {
	cmd := child(role, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", 0, err
	}
	if err := cmd.Start(); err != nil {
		return "", 0, err
	}
	b.stage.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	_, err = fmt.Fscanln(out, &addr)
	return addr, cmd.Process.Pid, err
}

// load runs one order in a process of its own. underway, unless nil, is called when the process says that all watch.
func load(o order, underway func() error) (result, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return result{}, err
	}
	cmd := child("load")
	cmd.Stdin = bytes.NewReader(text)
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.Stderr = nil
	said, err := cmd.StderrPipe()
	if err != nil {
		return result{}, err
	}
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	var late error
	first := make([]byte, 1<<12)
	n, _ := said.Read(first)
	if n > 0 && underway != nil && strings.HasPrefix(string(first[:n]), "watching") {
		late = underway()
	}
	rest, _ := io.ReadAll(said)
	if err := errors.Join(cmd.Wait(), late); err != nil {
		return result{}, fmt.Errorf("load %s: %w\n%s%s", o.Do, err, first[:n], rest)
	}
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, err
	}
	if r.Errors > 0 {
		return r, fmt.Errorf("load %s: %d errors, the first: %s", o.Do, r.Errors, r.First)
	}
	return r, nil
}

// runsOrder is a load on the node's runs.
func (b *bench) runsOrder(do, text string, connections int) order {
	return runsOrder(b.tenant, do, text, connections, b.seconds)
}

func runsOrder(t *harness.Tenant, do, text string, connections int, seconds float64) order {
	body, _ := json.Marshal(harness.Body(text, nil))
	return order{
		Do: do, Addr: t.Addr(), Path: "/v1/agents/" + t.Agent + "/runs", Watch: "/v1/runs/", Key: t.Key,
		Body: string(body), Connections: connections, Seconds: seconds,
	}
}

func (b *bench) echoOrder(connections int) order {
	body, _ := json.Marshal(harness.Body("hello", nil))
	return order{Do: "post", Addr: b.yard, Path: "/echo", Body: string(body), Connections: connections, Seconds: b.seconds}
}

// drained waits until the node has nothing left to do.
func (b *bench) drained() error {
	for _, status := range []string{"queued", "running"} {
		if !harness.Poll(5*time.Minute, 20*time.Millisecond, func() bool {
			runs, _ := b.tenant.Do(b.stage, "GET", "/v1/runs?limit=1&status="+status, nil).At("runs").([]any)
			return len(runs) == 0
		}) {
			return fmt.Errorf("runs stay %s", status)
		}
	}
	return nil
}

func (b *bench) fdatasync(dir string) (time.Duration, error) {
	cmd := child("fdatasync", dir)
	text, err := cmd.Output()
	if err != nil {
		return 0, err
	}
	var r result
	err = json.Unmarshal(text, &r)
	return median(r.Took), err
}

// create: how long one caller waits for the 201 of a durable create.
func (b *bench) create() error {
	var sync, echo, alone, ours []float64
	for range b.rounds {
		d, err := b.fdatasync(b.node.Node().DataDir)
		if err != nil {
			return err
		}
		e, err := load(b.echoOrder(1), nil)
		if err != nil {
			return err
		}
		a, err := load(b.runsOrder("alone", "hello", 1), nil)
		if err != nil {
			return err
		}
		o, err := load(b.runsOrder("post", "hello", 1), nil)
		if err != nil {
			return err
		}
		if err := b.drained(); err != nil {
			return err
		}
		sync, echo = append(sync, ms(d)), append(echo, ms(median(e.Took)))
		alone, ours = append(alone, ms(median(a.Took))), append(ours, ms(median(o.Took)))
	}
	b.table.add("fdatasync of 1 KiB, p50", "ms", sync, nil, "")
	b.table.add("echo POST, c=1, p50", "ms", echo, nil, "")
	both := make([]float64, len(sync))
	for i := range both {
		both[i] = sync[i] + echo[i]
	}
	b.table.add("create, c=1, node else idle, p50", "ms", alone, both, "fdatasync + echo")
	b.table.add("create, c=1, back to back, p50", "ms", ours, both, "fdatasync + echo")
	return nil
}

// createMany: creates answered per second with 64 callers, their runs being run meanwhile.
func (b *bench) createMany() error {
	var echo, ours []float64
	for range b.rounds {
		e, err := load(b.echoOrder(64), nil)
		if err != nil {
			return err
		}
		o, err := load(b.runsOrder("post", "hello", 64), nil)
		if err != nil {
			return err
		}
		if err := b.drained(); err != nil {
			return err
		}
		echo, ours = append(echo, rate(e)), append(ours, rate(o))
	}
	b.table.add("echo POST, c=64", "1/s", echo, nil, "")
	b.table.add("creates, c=64", "1/s", ours, echo, "echo")
	return nil
}

const threeSteps = "/call tool.echo {}" // model, tool, model

func (b *bench) complete() error {
	var rates, p50 []float64
	for range b.rounds {
		o, err := load(b.runsOrder("runs", threeSteps, 1), nil)
		if err != nil {
			return err
		}
		rates, p50 = append(rates, rate(o)), append(p50, ms(median(o.Took)))
	}
	b.table.add("three-step runs to their final event, c=1", "1/s", rates, nil, "")
	b.table.add("three-step run, c=1, p50", "ms", p50, nil, "")
	return nil
}

func (b *bench) completeMany() error {
	var echo, rates, p50, p99 []float64
	for range b.rounds {
		e, err := load(b.echoOrder(64), nil)
		if err != nil {
			return err
		}
		o, err := load(b.runsOrder("runs", threeSteps, 64), nil)
		if err != nil {
			return err
		}
		echo, rates = append(echo, rate(e)), append(rates, rate(o))
		p50, p99 = append(p50, ms(median(o.Took))), append(p99, ms(quantile(o.Took, 0.99)))
	}
	b.table.add("three-step runs to their final event, c=64", "1/s", rates, echo, "echo")
	b.table.add("three-step run, c=64, p50", "ms", p50, nil, "")
	b.table.add("three-step run, c=64, p99", "ms", p99, nil, "")
	return nil
}

// fanOut: frames of one log delivered per second to many watchers, from the first new one to the last.
func (b *bench) fanOut() error {
	const calls = 60
	var yard, ours []float64
	for range b.rounds {
		body, _ := json.Marshal(harness.Body("/wait 6s\n"+strings.Repeat("/call tool.echo {}\n", calls)+"/say done", map[string]any{
			"run_options": map[string]any{"max_steps": 4 * calls},
		}))
		a := b.tenant.Want(b.stage, 201, "POST", "/v1/agents/"+b.tenant.Agent+"/runs", body)
		id := a.Str("run.run_id")
		o, err := load(order{Do: "fan", Addr: b.tenant.Addr(), Path: "/v1/runs/" + id + "/events", Key: b.tenant.Key, Connections: b.watchers}, nil)
		if err != nil {
			return err
		}
		frames := o.Count / b.watchers
		yardClient := harness.NewClient("http://"+b.yard, "")
		yardClient.Want(b.stage, 204, "POST", "/hub?reset=1", []byte("{}"))
		y, err := load(order{
			Do: "fan", Addr: b.yard, Path: "/hub", Body: strings.Repeat("x", 600), Connections: b.watchers, Publish: frames, Frames: frames,
		}, nil)
		if err != nil {
			return err
		}
		ours, yard = append(ours, rate(o)), append(yard, rate(y))
	}
	b.table.add(fmt.Sprintf("bare hub: frames to %d watchers", b.watchers), "1/s", yard, nil, "")
	b.table.add(fmt.Sprintf("a live run: frames to %d watchers", b.watchers), "1/s", ours, yard, "bare hub")
	return nil
}

// idleStreams: what one watcher of a quiet run costs in the node's memory.
func (b *bench) idleStreams() error {
	id := b.tenant.Create(b.stage, "/wait 30m", nil)
	yardClient := harness.NewClient("http://"+b.yard, "")
	yardClient.Want(b.stage, 204, "POST", "/hub?reset=1", []byte("{}"))
	var yard, ours []float64
	for range min(b.rounds, 3) {
		y, err := b.hold(b.yardID, order{Do: "idle", Addr: b.yard, Path: "/hub", Connections: b.idle})
		if err != nil {
			return err
		}
		o, err := b.hold(b.node.Pid(), order{Do: "idle", Addr: b.tenant.Addr(), Path: "/v1/runs/" + id + "/events", Key: b.tenant.Key, Connections: b.idle})
		if err != nil {
			return err
		}
		yard, ours = append(yard, y), append(ours, o)
	}
	b.tenant.Want(b.stage, 200, "POST", "/v1/runs/"+id+":cancel", nil)
	b.table.add("bare hub: memory of an idle stream", "KiB", yard, nil, "")
	b.table.add("memory of an idle stream", "KiB", ours, yard, "bare hub")
	return nil
}

// hold opens the order's streams and returns what each adds to the resident memory of pid, in KiB.
func (b *bench) hold(pid int, o order) (float64, error) {
	before, err := harness.RSS(pid)
	if err != nil {
		return 0, err
	}
	text, _ := json.Marshal(o)
	cmd := child("load")
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, err = in.Write(text)
	said := ""
	if err == nil {
		_, err = fmt.Fscanln(out, &said)
	}
	after, rssErr := harness.RSS(pid)
	_ = in.Close()
	err = errors.Join(err, rssErr, cmd.Wait())
	return float64(after-before) / 1024 / float64(o.Connections), err
}

// restart: from the start of the process, over what it has, to ready; and the memory it rests at.
func (b *bench) restart() error {
	argv, env := b.node.CommandLine(b.stage)
	b.node.Kill(b.stage)
	var starter harness.Starter
	var took, rest []float64
	for range b.rounds {
		begun := time.Now()
		p := starter.Launch(b.stage, b.node.Dir, env, argv)
		if err := harness.AwaitReady(b.node.Node().APIURL, time.Minute); err != nil {
			return fmt.Errorf("%w\n%s", err, p.Output())
		}
		took = append(took, ms(time.Since(begun)))
		settle := time.NewTimer(5 * time.Second)
		<-settle.C
		rss, err := harness.RSS(p.Pid())
		if err != nil {
			return err
		}
		rest = append(rest, float64(rss)/(1<<20))
		p.Signal(b.stage, syscall.SIGKILL)
		p.Wait(b.stage, time.Minute)
	}
	b.table.add("restart after kill -9, to ready", "ms", took, nil, "")
	b.table.add("resident memory 5 s after the restart", "MiB", rest, nil, "")
	b.node.Up(b.stage)
	b.tenant.Client = b.node.Client(b.tenant.Key)
	return nil
}

// takeProfile writes a CPU profile of the node under load.
func (b *bench) takeProfile() error {
	text, err := b.profileOf(b.node.Node().AdminURL, b.runsOrder("runs", threeSteps, 64))
	if err != nil {
		return err
	}
	return os.WriteFile(b.profile, text, 0o644)
}

// profileOf takes a CPU profile of the node with this admin listener while o is carried out.
func (b *bench) profileOf(adminURL string, o order) ([]byte, error) {
	admin := harness.NewClient(adminURL, "")
	got := make(chan harness.Answer, 1)
	go func() {
		got <- admin.Do(b.stage, "GET", fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(b.seconds)-1)), nil)
	}()
	o.Seconds++
	if _, err := load(o, nil); err != nil {
		return nil, err
	}
	return (<-got).Body, nil
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

func rate(r result) float64 { return float64(r.Count) / r.Elapsed.Seconds() }

func median(d []time.Duration) time.Duration { return quantile(d, 0.5) }

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[min(len(d)-1, int(q*float64(len(d))))]
}
