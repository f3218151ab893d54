package policy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/policy"
)

func MustCompile(tb testing.TB, r policy.Ruleset) *policy.Rules {
	tb.Helper()
	rules, err := policy.Compile(r)
	if err != nil {
		tb.Fatal(err)
	}
	return rules
}

func whole(tb testing.TB, rules *policy.Rules, text string) (string, model.PolicyOutcome) {
	tb.Helper()
	got, o, err := rules.Texts([]string{text}, "t")
	if err != nil {
		tb.Fatal(err)
	}
	return got[0], o
}

const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"

const pemKey = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1c7+9z5Pad7OejecsQ0bu3aozN3tihPmUHg\n-----END RSA PRIVATE KEY-----"

// What each type is found in, and what is left alone. Each line is one decision somebody relies on.
//
// Requirements: B4.
func TestRules_Texts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"nothing to see here", "nothing to see here"},
		{"", ""},
		// email
		{"mail bob@example.com now", "mail [REDACTED:email] now"},
		{"<first.last+tag@sub.example.co.uk>.", "<[REDACTED:email]>."},
		{"mailto:a@b.io", "mailto:[REDACTED:email]"},
		{"jösé@exämple.com", "[REDACTED:email]"},
		{"a@b.com,c@d.org", "[REDACTED:email],[REDACTED:email]"},
		{"a@b.com_c@d.org", "[REDACTED:email][REDACTED:email]"},
		{"user@localhost and @handle and a @ b", "user@localhost and @handle and a @ b"},
		{"x@y.1 is none", "x@y.1 is none"},
		{"end bob@example.com.", "end [REDACTED:email]."},
		// phone
		{"call +1 415 555 0100 or (415) 555-0101", "call [REDACTED:phone] or [REDACTED:phone]"},
		{"415-555-0102, 415.555.0103, 1-800-555-0104", "[REDACTED:phone], [REDACTED:phone], [REDACTED:phone]"},
		{"+4915112345678 ok", "[REDACTED:phone] ok"},
		{"+14155550100 2 items", "[REDACTED:phone] 2 items"},
		{"0049 30 1234567", "[REDACTED:phone]"},
		{"030 1234567 and 0171/1234567", "[REDACTED:phone] and [REDACTED:phone]"},
		{"01 23 45 67 89", "[REDACTED:phone]"},
		{"at 2024-01-02 10:11:12 and 01.02.2024", "at 2024-01-02 10:11:12 and 01.02.2024"},
		{"1700000000 and 4155550100", "1700000000 and 4155550100"},
		{"123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"},
		{"3 + 4 = 7, 1+1", "3 + 4 = 7, 1+1"},
		// card
		{"4111 1111 1111 1111", "[REDACTED:card]"},
		{"card 4111-1111-1111-1111, exp 12/25", "card [REDACTED:card], exp 12/25"},
		{"4111111111111111 12", "[REDACTED:card] 12"},
		{"378282246310005", "[REDACTED:card]"},
		{"4111111111111112", "4111111111111112"},
		{"id 41111111111111110000 too long", "id 41111111111111110000 too long"},
		{"card:4111111111111111.", "card:[REDACTED:card]."},
		// iban
		{"DE89 3704 0044 0532 0130 00", "[REDACTED:iban]"},
		{"pay gb82west12345698765432!", "pay [REDACTED:iban]!"},
		{"DE89370400440532013001", "DE89370400440532013001"},
		// ssn
		{"ssn 078-05-1120.", "ssn [REDACTED:ssn]."},
		{"078 05 1120", "[REDACTED:ssn]"},
		{"000-12-3456 666-12-3456 123-00-4567", "000-12-3456 666-12-3456 123-00-4567"},
		// ip
		{"from 192.168.1.20:8080", "from [REDACTED:ip]:8080"},
		{"2001:db8::1 and fe80::1.", "[REDACTED:ip] and [REDACTED:ip]."},
		{"::ffff:10.0.0.1", "[REDACTED:ip]"},
		{"2001:0db8:85a3:0000:0000:8a2e:0370:7334", "[REDACTED:ip]"},
		{"std::vector a:b 12:30 1.2.3 256.1.1.1 1.2.3.4.5", "std::vector a:b 12:30 1.2.3 256.1.1.1 1.2.3.4.5"},
		// secret
		{"key aos_0123456789abcdefghij here", "key [REDACTED:secret] here"},
		{"sk-proj-abcdefghij0123456789", "[REDACTED:secret]"},
		{"AKIAIOSFODNN7EXAMPLE", "[REDACTED:secret]"},
		{"AKIAIOSFODNN7EXAMPLEX", "AKIAIOSFODNN7EXAMPLEX"},
		{"ghp_0123456789abcdefghijABCDEFGHIJ012345", "[REDACTED:secret]"},
		{"Bearer " + jwt + ".", "Bearer [REDACTED:secret]."},
		{"a\n" + pemKey + "\nb", "a\n[REDACTED:secret]\nb"},
		{"cut off: -----BEGIN PRIVATE KEY-----\nMIIE", "cut off: [REDACTED:secret]"},
		{"-----BEGIN CERTIFICATE-----\nMIIE", "-----BEGIN CERTIFICATE-----\nMIIE"},
		{"task-0123456789012345678 and sk-short", "task-0123456789012345678 and sk-short"},
	} {
		rules := MustCompile(t, policy.Default())
		got, o := whole(t, rules, c.in)
		if got != c.want {
			t.Errorf("%q\n became %q\n    want %q", c.in, got, c.want)
		}
		if (o.Decision == model.Redacted) != (got != c.in) || o.Reasons == nil || o.Redactions == nil {
			t.Errorf("%q: outcome %+v", c.in, o)
		}
		if back := undo(t, c.in, o.Redactions); back != got {
			t.Errorf("%q: the offsets rebuild %q, not %q", c.in, back, got)
		}
		for _, size := range []int{1, 2, 3, 7} {
			if streamed := stream(t, rules, chunks(c.in, size)); streamed != got {
				t.Errorf("%q in pieces of %d became %q, whole %q", c.in, size, streamed, got)
			}
		}
	}
}

// undo applies redactions by their offsets, as a reader of the outcome would.
func undo(tb testing.TB, text string, redactions []model.Redaction) string {
	tb.Helper()
	var b strings.Builder
	at := 0
	for _, r := range redactions {
		if r.Start < at || r.End <= r.Start || r.End > len(text) {
			tb.Fatalf("redaction %+v of a text of %d bytes after %d", r, len(text), at)
		}
		b.WriteString(text[at:r.Start])
		b.WriteString(r.Replacement)
		at = r.End
	}
	return b.String() + text[at:]
}

func chunks(s string, size int) (list []string) {
	for len(s) > size {
		list, s = append(list, s[:size]), s[size:]
	}
	return append(list, s)
}

func stream(tb testing.TB, rules *policy.Rules, pieces []string) string {
	tb.Helper()
	var b strings.Builder
	emit := func(d model.Delta) error { b.WriteString(d.Text); return nil }
	f := rules.Stream()
	for _, piece := range pieces {
		if err := f.Push(model.Delta{Text: piece}, emit); err != nil {
			tb.Fatal(err)
		}
	}
	if err := f.Close(true, emit); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

// Plain words must not wait for the end of the answer.
func TestFilter_Flows(t *testing.T) {
	t.Parallel()
	f := MustCompile(t, policy.Default()).Stream()
	var got []string
	emit := func(d model.Delta) error { got = append(got, d.Text); return nil }
	for _, piece := range []string{"w1", " w2", " w3", " w4"} {
		if err := f.Push(model.Delta{Text: piece}, emit); err != nil {
			t.Fatal(err)
		}
	}
	if text := strings.Join(got, "|"); text != "w1| w2| w3" && text != "w1 |w2 |w3 " {
		t.Errorf("before the end came %q", text)
	}
}

// A secret's beginning is enough: a long one is swallowed as it comes, and doesn't gather in memory.
func TestFilter_LongSecret(t *testing.T) {
	t.Parallel()
	rules := MustCompile(t, policy.Default())
	text := "x -----BEGIN PRIVATE KEY-----\n" + strings.Repeat("MIIEpAIBAAKCAQEA\n", 5000) + "-----END PRIVATE KEY----- y " + jwt + strings.Repeat("Ab9_", 5000) + " z"
	want := "x [REDACTED:secret] y [REDACTED:secret] z"
	if got, _ := whole(t, rules, text); got != want {
		t.Errorf("whole: %.80q", got)
	}
	if got := stream(t, rules, chunks(text, 11)); got != want {
		t.Errorf("streamed: %.80q", got)
	}
}

func TestRules_Request(t *testing.T) {
	t.Parallel()
	rules := MustCompile(t, policy.Default())
	req := &model.ChatRequest{
		Messages: []model.Message{
			{Role: "system", Content: "be kind"},
			{Role: "user", Content: "I am bob@example.com"},
			{Role: "assistant", ToolCalls: []model.ToolCall{{Name: "echo", Arguments: json.RawMessage(`{"to":"bob\u0040example.com","n":[4111111111111111,1.5],"a@b.com":null}`)}}},
			{Role: "tool", Content: `{"ip":"10.0.0\u002e1"}`},
		},
		Tools: []model.Tool{{ID: "t", Name: "t", Description: "ask bob@example.com", InputSchema: json.RawMessage(`{"type":"object"}`)}},
		Stop:  []string{"bob@example.com"},
	}
	before, _ := json.Marshal(req)
	got, o, err := rules.Request(req)
	if err != nil {
		t.Fatal(err)
	}
	after, _ := json.Marshal(req)
	if string(before) != string(after) {
		t.Error("the caller's request was changed")
	}
	want := []string{"be kind", "I am [REDACTED:email]", "", `{"ip":"[REDACTED:ip]"}`}
	for i, m := range got.Messages {
		if m.Content != want[i] {
			t.Errorf("message %d: %q, want %q", i, m.Content, want[i])
		}
	}
	if args := string(got.Messages[2].ToolCalls[0].Arguments); args != `{"to":"[REDACTED:email]","n":["[REDACTED:card]",1.5],"[REDACTED:email]":null}` {
		t.Errorf("arguments %s", args)
	}
	if got.Tools[0].Description != "ask [REDACTED:email]" || got.Stop[0] != "[REDACTED:email]" {
		t.Errorf("tools %v, stop %v", got.Tools, got.Stop)
	}
	var paths []string
	for _, r := range o.Redactions {
		paths = append(paths, r.Path)
	}
	if diff := cmp.Diff([]string{
		"input.messages[1].content", "input.messages[2].tool_calls[0].arguments.to", "input.messages[2].tool_calls[0].arguments.n[0]",
		"input.messages[2].tool_calls[0].arguments", "input.messages[3].content.ip", "input.tools[0].description", "generation.stop[0]",
	}, paths); diff != "" {
		t.Error(diff)
	}
	plain := &model.ChatRequest{Messages: []model.Message{{Role: "user", Content: "hello"}}}
	if same, o, err := rules.Request(plain); same != plain || err != nil || o.Decision != model.Allowed {
		t.Errorf("a plain request: %p %+v %v", same, o, err)
	}
}

// Streamed and whole answers of tool calls are the same, and escapes hide nothing.
func TestFilter_ToolCalls(t *testing.T) {
	t.Parallel()
	rules := MustCompile(t, policy.Default())
	args := `{"to":"bob\u0040example.com"}`
	m, _, err := rules.Answer(model.Message{Role: "assistant", ToolCalls: []model.ToolCall{{ID: "1", Name: "mail", Arguments: json.RawMessage(args)}}})
	if err != nil || string(m.ToolCalls[0].Arguments) != `{"to":"[REDACTED:email]"}` {
		t.Fatalf("%s %v", m.ToolCalls[0].Arguments, err)
	}
	f, got := rules.Stream(), ""
	emit := func(d model.Delta) error { got += d.ToolCall.Arguments; return nil }
	for i, piece := range chunks(args, 3) {
		d := &model.ToolCallDelta{Arguments: piece}
		if i == 0 {
			d.ID, d.Name = "1", "mail"
		}
		if err := f.Push(model.Delta{ToolCall: d}, emit); err != nil || got != "" {
			t.Fatalf("half of a call got out: %q %v", got, err)
		}
	}
	if err := f.Close(true, emit); err != nil || got != `{"to":"[REDACTED:email]"}` {
		t.Errorf("streamed %q %v", got, err)
	}
}

func TestCompile_Custom(t *testing.T) {
	t.Parallel()
	rules := MustCompile(t, policy.Ruleset{
		ID: "pol_x", Redact: []string{policy.Email},
		Custom: []policy.Expression{{Name: "staff", Pattern: `\bEMP-\d{4,6}\b`}},
		Deny:   []policy.Expression{{Name: "launch", Pattern: `(?i)launch code`, Direction: policy.In}},
	})
	for in, want := range map[string]string{
		"EMP-12345 wrote a@b.com": "[REDACTED:custom:staff] wrote [REDACTED:email]",
		"xEMP-12345":              "xEMP-12345",
		"EMP-1234567":             "EMP-1234567",
		"10.0.0.1 stays":          "10.0.0.1 stays",
	} {
		got, _ := whole(t, rules, in)
		if got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
		if streamed := stream(t, rules, chunks(in, 1)); streamed != want {
			t.Errorf("%q streamed became %q, want %q", in, streamed, want)
		}
	}
	_, o, err := rules.Texts([]string{"the LAUNCH code"}, "t")
	if !fault.Is(err, fault.PolicyBlocked) || o.Decision != model.Blocked || len(o.Reasons) != 1 || o.Reasons[0] != "deny:launch" {
		t.Errorf("a denied text: %+v %v", o, err)
	}
	if _, _, err := rules.Answer(model.Message{Content: "the launch code"}); err != nil {
		t.Errorf("a rule for the way in was applied on the way out: %v", err)
	}
}

// A denied answer stops before the denied words, also when they come in pieces.
//
// Requirements: B4.
func TestFilter_Deny(t *testing.T) {
	t.Parallel()
	rules := MustCompile(t, policy.Ruleset{ID: "p", Deny: []policy.Expression{{Name: "d", Pattern: `secret plan`}}})
	f, got := rules.Stream(), ""
	var err error
	for _, piece := range chunks("this is the secret plan of all", 2) {
		if err = f.Push(model.Delta{Text: piece}, func(d model.Delta) error { got += d.Text; return nil }); err != nil {
			break
		}
	}
	if err == nil {
		err = f.Close(true, func(d model.Delta) error { got += d.Text; return nil })
	}
	if !fault.Is(err, fault.PolicyBlocked) || strings.Contains(got, "secret") {
		t.Errorf("got %q and %v", got, err)
	}
}

func TestCompile_Refuses(t *testing.T) {
	t.Parallel()
	many := make([]policy.Expression, policy.MaxExpressions+1)
	for i := range many {
		many[i] = policy.Expression{Name: fmt.Sprint("n", i), Pattern: "x"}
	}
	for field, r := range map[string]policy.Ruleset{
		"policy_id":           {ID: "a b"},
		"redact[0]":           {ID: "p", Redact: []string{"shoe size"}},
		"custom":              {ID: "p", Custom: many},
		"custom[0].name":      {ID: "p", Custom: []policy.Expression{{Pattern: "x"}}},
		"custom[0].pattern":   {ID: "p", Custom: []policy.Expression{{Name: "n", Pattern: "("}}},
		"custom[0].direction": {ID: "p", Custom: []policy.Expression{{Name: "n", Pattern: "x", Direction: "up"}}},
		"deny[0].pattern":     {ID: "p", Deny: []policy.Expression{{Name: "n", Pattern: `\d+`}}},
		"limits":              {ID: "p", Limits: policy.Limits{MaxInputTokens: -1}},
	} {
		if _, err := policy.Compile(r); !fault.Is(err, fault.InvalidRequest) || fault.Of(err).Details["field"] != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, pattern := range []string{`a*`, `x{0,3}`, `(a|b*)c`, strings.Repeat("a", 2000), `(a{1000}){1000}`, `[\x{10000}-\x{10ffff}]{200}`} {
		if _, err := policy.Compile(policy.Ruleset{ID: "p", Custom: []policy.Expression{{Name: "n", Pattern: pattern}}}); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%.40q was taken: %v", pattern, err)
		}
	}
}

// Without its rules nothing may pass.
func TestEngine_Rules(t *testing.T) {
	t.Parallel()
	e := policy.New(policy.Options{})
	if _, err := e.Rules(context.Background(), "tnt_a", ""); err != nil {
		t.Error(err)
	}
	if _, err := e.Rules(context.Background(), "tnt_a", "pol_gone"); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown policy: %v", err)
	}
}
