package onenode_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// mistake is a request that must be refused, with the answer it must get.
type mistake struct {
	name, method, path, body string
	status                   int    // 0: any of 400, 404, 405, for what is either a bad id or no path at all
	code, field              string // field "" = none demanded
}

func mistakes(agent string) []mistake {
	runs := "/v1/agents/" + agent + "/runs"
	const chat = "/v1/chat/completions"
	post := func(name, body, field string) mistake {
		return mistake{name, "POST", runs, body, 400, "invalid_request", field}
	}
	deep := strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000)
	return []mistake{
		post("no body", "", ""),
		post("broken", `{"input":{"type":"text","text":"x"`, ""),
		post("trailing", `{"input":{"type":"text","text":"x"}} {}`, ""),
		post("not an object", `[1]`, ""),
		post("null", `null`, ""),
		post("bad UTF-8", "{\"input\":{\"type\":\"text\",\"text\":\"\xff\xfe\"}}", ""),
		post("no input", `{}`, "input"),
		post("input null", `{"input":null}`, "input"),
		post("input type", `{"input":{"type":"image","text":"x"}}`, "input.type"),
		post("text number", `{"input":{"type":"text","text":7}}`, "input.text"),
		post("text missing", `{"input":{"type":"text"}}`, "input.text"),
		post("input string", `{"input":"x"}`, "input"),
		post("duplicate", `{"input":{"type":"text","text":"a"},"input":{"type":"text","text":"b"}}`, "input"),
		post("duplicate inside", `{"input":{"type":"text","text":"a","text":"b"}}`, "input.text"),
		post("duplicate by escape", `{"input":{"type":"text","text":"a","te\u0078t":"b"}}`, "input.text"),
		post("duplicate unknown", `{"input":{"type":"text","text":"a"},"zz":1,"zz":2}`, "zz"),
		post("duplicate in metadata", `{"input":{"type":"text","text":"a"},"context":{"metadata":{"k":1,"k":2}}}`, "context.metadata.k"),
		post("steps negative", `{"input":{"type":"text","text":"a"},"run_options":{"max_steps":-1}}`, "run_options.max_steps"),
		post("steps NaN", `{"input":{"type":"text","text":"a"},"run_options":{"max_steps":NaN}}`, ""),
		post("steps fraction", `{"input":{"type":"text","text":"a"},"run_options":{"max_steps":1.5}}`, "run_options.max_steps"),
		post("steps huge", `{"input":{"type":"text","text":"a"},"run_options":{"max_steps":1e400}}`, "run_options.max_steps"),
		post("timeout negative", `{"input":{"type":"text","text":"a"},"run_options":{"timeout_ms":-5}}`, "run_options.timeout_ms"),
		post("timeout overflow", `{"input":{"type":"text","text":"a"},"run_options":{"timeout_ms":9223372036854775807}}`, "run_options.timeout_ms"),
		post("timeout text", `{"input":{"type":"text","text":"a"},"run_options":{"timeout_ms":"1"}}`, "run_options.timeout_ms"),
		post("priority", `{"input":{"type":"text","text":"a"},"run_options":{"priority":"urgent"}}`, "run_options.priority"),
		post("labels list", `{"input":{"type":"text","text":"a"},"context":{"labels":[]}}`, "context.labels"),
		post("label number", `{"input":{"type":"text","text":"a"},"context":{"labels":{"a":1}}}`, ""),
		post("allowlist", `{"input":{"type":"text","text":"a"},"tooling":{"tool_allowlist":"tool.echo"}}`, "tooling.tool_allowlist"),
		post("classification", `{"input":{"type":"text","text":"a"},"policy_context":{"data_classification":"cosmic"}}`, "policy_context.data_classification"),
		post("deep", deep, ""),
		post("deep list", `{"input":{"type":"text","text":"a"},"x":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+`}`, ""),
		post("depth 65", `{"input":{"type":"text","text":"a"},"x":`+strings.Repeat("[", 65)+strings.Repeat("]", 65)+`}`, ""),
		{"query of broken escapes", "GET", "/v1/runs?status=%zz", "", 400, "invalid_request", "query"},
		{"query with a semicolon", "GET", "/v1/runs?status=failed;limit=1", "", 400, "invalid_request", "query"},
		{"unknown agent", "POST", "/v1/agents/agt_nobodys/runs", `{"input":{"type":"text","text":"a"}}`, 404, "not_found", ""},
		{"input over 256 KiB", "POST", runs, `{"input":{"type":"text","text":"` + strings.Repeat("a", 300<<10) + `"}}`, 413, "payload_too_large", ""},
		{"body over 1 MiB", "POST", runs, `{"input":{"type":"text","text":"a"},"x":"` + strings.Repeat("a", 1<<20) + `"}`, 413, "payload_too_large", ""},
		{"agent id with a space", "POST", "/v1/agents/a%20b/runs", `{"input":{"type":"text","text":"a"}}`, 400, "invalid_request", "agent_id"},
		{"agent id with a slash", "GET", "/v1/agents/a%2Fb", "", 0, "", ""},
		{"agent id dots", "GET", "/v1/agents/%2e%2e", "", 400, "invalid_request", "agent_id"},
		{"agent id NUL", "GET", "/v1/agents/a%00b", "", 400, "invalid_request", "agent_id"},
		{"agent id CRLF", "GET", "/v1/agents/a%0d%0aX-Evil:%201", "", 400, "invalid_request", "agent_id"},
		{"agent id Unicode twin", "GET", "/v1/agents/%D0%B0gt_sample_echo_v1", "", 400, "invalid_request", "agent_id"},
		{"agent id too long", "GET", "/v1/agents/" + strings.Repeat("a", 129), "", 400, "invalid_request", "agent_id"},
		{"run id with a slash", "GET", "/v1/runs/run_x%2F..%2F..", "", 0, "", ""},
		{"run id CRLF", "GET", "/v1/runs/run_x%0d%0a/events", "", 400, "invalid_request", "run_id"},
		{"agent body unwrapped", "PUT", "/v1/agents/agt_n", `{"name":"n"}`, 400, "invalid_request", "agent"},
		{"agent status", "PUT", "/v1/agents/agt_n", `{"agent":{"name":"n","model_ref":"tier:fast","status":"tired"}}`, 400, "invalid_request", "agent.status"},
		{"agent tool", "PUT", "/v1/agents/agt_n", `{"agent":{"name":"n","model_ref":"tier:fast","tool_ids":["rm -rf"]}}`, 400, "invalid_request", ""},
		{"chat without messages", "POST", chat, `{"model":"builtin/echo-1"}`, 400, "invalid_request", "messages"},
		{"chat role", "POST", chat, `{"model":"builtin/echo-1","messages":[{"role":"king","content":"x"}]}`, 400, "invalid_request", ""},
		{"chat n", "POST", chat, `{"model":"builtin/echo-1","n":2,"messages":[{"role":"user","content":"x"}]}`, 400, "invalid_request", "n"},
		{"chat max_tokens", "POST", chat, `{"model":"builtin/echo-1","max_tokens":-1,"messages":[{"role":"user","content":"x"}]}`, 400, "invalid_request", "max_tokens"},
		{"chat duplicate", "POST", chat, `{"model":"builtin/echo-1","model":"x","messages":[{"role":"user","content":"x"}]}`, 400, "invalid_request", "model"},
		{"chat model", "POST", chat, `{"model":"gpt-9","messages":[{"role":"user","content":"x"}]}`, 404, "not_found", ""},
		{"memory key", "PUT", "/v1/memory/ns/a%20b", `{"value":1}`, 400, "invalid_request", "key"},
		{"no such path", "GET", "/v1/wishes", "", 404, "not_found", ""},
		{"method", "DELETE", "/v1/runs", "", 405, "method_not_allowed", ""},
		{"method on an action", "GET", "/v1/runs/run_x:cancel", "", 405, "method_not_allowed", ""},
		{"unknown action", "POST", "/v1/runs/run_x:explode", "", 0, "", ""},
	}
}

// A twin by case is another name, which is unknown and so ignored; it never stands in for the field.
func TestBadInput_CaseFoldedTwins(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	path := "/v1/agents/" + tn.Agent + "/runs"
	refused(t, tn.Do(t, "POST", path, `{"Input":{"type":"text","text":"a"}}`), 400, "invalid_request")
	for _, body := range []string{
		`{"input":{"type":"text","text":"right"},"INPUT":{"type":"text","text":"wrong"}}`,
		`{"input":{"type":"text","text":"right","Text":"wrong"}}`,
	} {
		a := tn.Do(t, "POST", path, body)
		if a.Status == 400 { // refusing the pair is as safe
			refused(t, a, 400, "invalid_request")
			continue
		}
		events := tn.Journal(t, a.Str("run.run_id"))
		if got := events[len(events)-1].Str("output.text"); got != "echo: right" {
			t.Errorf("%s: output %q", body, got)
		}
	}
}

// endless is a body of n spaces, made as it is read.
type endless struct{ n int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	k := min(int64(len(p)), e.n)
	for i := range p[:k] {
		p[i] = ' '
	}
	e.n -= k
	return int(k), nil
}

// chunks writes r in chunks of a chunked body.
func chunks(r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				if _, err := fmt.Fprintf(pw, "%x\r\n%s\r\n", n, buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				_, _ = io.WriteString(pw, "0\r\n\r\n")
				_ = pw.Close()
				return
			}
		}
	}()
	return pr
}

// Each mistake gets the error object, changes nothing, and costs no memory to speak of. It has a node for itself, since
// it measures it.
//
// Requirements: Q3.
func TestBadInput(t *testing.T) {
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), nil)
	tn.Complete(t, "/call tool.echo {}\n/say warm", nil)
	before := state(t, tn)
	rss, err := harness.RSS(d.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := harness.ResetPeak(d.Pid()); err != nil {
		t.Fatal(err)
	}
	for _, m := range mistakes(tn.Agent) {
		t.Run(m.name, func(t *testing.T) {
			var body any = m.body
			if m.body == "" {
				body = nil
			}
			a := tn.Do(t, m.method, m.path, body)
			if m.status == 0 {
				m.status, m.code = a.Status, map[int]string{400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}[a.Status]
			}
			refused(t, a, m.status, m.code)
			if got := a.Str("error.details.field"); m.field != "" && got != m.field {
				t.Errorf("field %q, want %q: %s", got, m.field, a.Body)
			}
		})
	}
	t.Run("media type", func(t *testing.T) {
		refused(t, tn.Do(t, "POST", "/v1/agents/"+tn.Agent+"/runs", `input=x`, "Content-Type", "-", "Content-Type", "text/xml"), 415, "unsupported_media_type")
	})
	t.Run("80 MB with a length", func(t *testing.T) { huge(t, tn, false) })
	t.Run("80 MB in chunks", func(t *testing.T) { huge(t, tn, true) })
	t.Run("raw", func(t *testing.T) { raws(t, tn) })
	t.Run("limits of a tenant", func(t *testing.T) { limits(t, tn) })
	if after := state(t, tn); after != before {
		t.Errorf("something changed:\n%s\n%s", before, after)
	}
	peak, err := harness.PeakRSS(d.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := peak - rss; grown > 50<<20 {
		t.Errorf("the node grew by %d MB at its peak", grown>>20)
	}
	if !harness.Alive(d.Pid()) {
		t.Error("the node died")
	}
}

// state returns what the tenant has, as far as refused requests could have changed it.
func state(t *testing.T, tn *harness.Tenant) string {
	t.Helper()
	var all strings.Builder
	for _, path := range []string{"/v1/runs", "/v1/agents"} {
		all.WriteString(anonymous(tn.Want(t, 200, "GET", path, nil)))
	}
	all.WriteString(anonymous(tn.Root.Want(t, 200, "GET", "/v1/admin/tenants/"+tn.ID, nil)))
	return all.String()
}

func huge(t *testing.T, tn *harness.Tenant, chunked bool) {
	t.Helper()
	for _, path := range []string{"/v1/agents/" + tn.Agent + "/runs", "/v1/chat/completions", "/v1/agents/agt_n", "/v1/nothing"} {
		method := "POST"
		if path == "/v1/agents/agt_n" {
			method = "PUT"
		}
		head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n", method, path, tn.Key)
		var request io.Reader
		if chunked {
			request = io.MultiReader(strings.NewReader(head+"Transfer-Encoding: chunked\r\n\r\n"), chunks(&endless{80 << 20}))
		} else {
			request = io.MultiReader(strings.NewReader(head+"Content-Length: 83886080\r\n\r\n"), &endless{80 << 20})
		}
		a, err := harness.Raw(tn.Addr(), time.Minute, request)
		if err != nil {
			t.Errorf("%s: no answer: %v", path, err)
			continue
		}
		if path == "/v1/nothing" {
			refused(t, a, 404, "not_found")
		} else {
			refused(t, a, 413, "payload_too_large")
		}
	}
}

// raws are requests that no decent client library would send.
func raws(t *testing.T, tn *harness.Tenant) {
	t.Helper()
	auth := "Authorization: Bearer " + tn.Key + "\r\n"
	for name, text := range map[string]string{
		"space in the path":   "GET /v1/runs/a b HTTP/1.1\r\nHost: x\r\n" + auth + "\r\n",
		"NUL in a header":     "GET /v1/runs HTTP/1.1\r\nHost: x\r\nX-Correlation-Id: a\x00b\r\n" + auth + "\r\n",
		"two lengths":         "POST /v1/agents/a/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n" + auth + "\r\n{}x",
		"headers of 4 MB":     "GET /v1/runs HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("a", 4<<20) + "\r\n" + auth + "\r\n",
		"negative length":     "POST /v1/agents/a/runs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n" + auth + "\r\n",
		"path climbs":         "GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n" + auth + "\r\n",
		"percent broken":      "GET /v1/runs/%zz HTTP/1.1\r\nHost: x\r\n" + auth + "\r\n",
		"absolute form":       "GET http://evil.example/v1/wishes HTTP/1.1\r\nHost: x\r\n" + auth + "\r\n",
		"query with a secret": "GET /v1/wishes?k=%00%0d%0a HTTP/1.1\r\nHost: x\r\n" + auth + "\r\n",
	} {
		a, err := harness.Raw(tn.Addr(), 20*time.Second, strings.NewReader(text))
		if err != nil {
			t.Logf("%s: connection closed: %v", name, err)
			continue
		}
		if a.Status < 400 || a.Status >= 500 {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
}

// limits are quotas that nobody may set.
func limits(t *testing.T, tn *harness.Tenant) {
	t.Helper()
	path := "/v1/admin/tenants/" + tn.ID + "/quotas"
	for body, field := range map[string]string{
		`{"quota_config":{"runs":{"max_concurrent_runs":-1}}}`:                            "quota_config.runs.max_concurrent_runs",
		`{"quota_config":{"runs":{"run_create_qps":-0.5}}}`:                               "quota_config.runs.run_create_qps",
		`{"quota_config":{"runs":{"run_create_qps":NaN}}}`:                                "",
		`{"quota_config":{"runs":{"run_create_qps":Infinity}}}`:                           "",
		`{"quota_config":{"runs":{"run_create_qps":1e999}}}`:                              "quota_config.runs.run_create_qps",
		`{"quota_config":{"runs":{"run_create_qps":"NaN"}}}`:                              "quota_config.runs.run_create_qps",
		`{"quota_config":{"models":{"token_budget":{"window":"day","max_tokens":-1}}}}`:   "quota_config.models.token_budget.max_tokens",
		`{"quota_config":{"models":{"token_budget":{"window":"eon","max_tokens":1}}}}`:    "quota_config.models.token_budget.window",
		`{"quota_config":{"models":{"token_budget":{"window":"day","max_cost_usd":-1}}}}`: "quota_config.models.token_budget.max_cost_usd",
		`{"quota_config":{"storage":{"max_memory_bytes":-1}}}`:                            "quota_config.storage.max_memory_bytes",
	} {
		a := tn.Root.Do(t, "PUT", path, body)
		refused(t, a, 400, "invalid_request")
		if got := a.Str("error.details.field"); field != "" && got != field {
			t.Errorf("%s: field %q", body, got)
		}
	}
}
