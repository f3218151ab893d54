package client_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/api/client"
)

// listed answers with three pages of runs, the second of which is empty.
func listed(asked *[]string) wire {
	return func(r *http.Request) (*http.Response, error) {
		*asked = append(*asked, r.URL.RawQuery)
		body, ok := map[string]string{
			"":   `{"runs":[{"run_id":"run_1","brand_new":1},{"run_id":"run_2"}],"next_cursor":"c1"}`,
			"c1": `{"runs":[],"next_cursor":"c2"}`,
			"c2": `{"runs":[{"run_id":"run_3"}],"next_cursor":null,"head":{"sequence":3}}`,
		}[r.URL.Query().Get("cursor")]
		if !ok {
			return reply(400, refusal("invalid_request")), nil
		}
		return reply(200, body), nil
	}
}

func TestList_All(t *testing.T) {
	var asked []string
	c := mustClient(t, client.Options{}, listed(&asked))
	var ids []string
	for run, err := range c.Runs(client.RunFilter{AgentID: "agt_x", Status: "running", Labels: map[string]string{"b": "2", "a": "1"}}).All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, run.ID)
	}
	if diff := cmp.Diff([]string{"run_1", "run_2", "run_3"}, ids); diff != "" {
		t.Error(diff)
	}
	filter := "agent_id=agt_x&label=a%3A1&label=b%3A2&limit=200&status=running"
	if diff := cmp.Diff([]string{filter, "agent_id=agt_x&cursor=c1&" + filter[len("agent_id=agt_x&"):], "agent_id=agt_x&cursor=c2&" + filter[len("agent_id=agt_x&"):]}, asked); diff != "" {
		t.Error(diff)
	}
	// Whoever has seen enough asks for no more.
	asked = nil
	for range c.Runs(client.RunFilter{}).All(t.Context()) {
		break
	}
	if len(asked) != 1 {
		t.Errorf("asked %q", asked)
	}
}

func TestList_Page(t *testing.T) {
	var asked []string
	c := mustClient(t, client.Options{}, listed(&asked))
	runs := c.Runs(client.RunFilter{})
	p, err := runs.Page(t.Context(), "", 2)
	if err != nil || p.Next != "c1" || len(p.Items) != 2 || string(p.Raw[0]) != `{"run_id":"run_1","brand_new":1}` {
		t.Fatalf("%+v, %v", p, err)
	}
	p, err = runs.Page(t.Context(), "c2", 0)
	var head struct{ Sequence int }
	if err != nil || p.Next != "" || p.Beside("head", &head) != nil || head.Sequence != 3 || p.Beside("tail", &head) == nil {
		t.Errorf("%+v, %v", p, err)
	}
	if diff := cmp.Diff([]string{"limit=2", "cursor=c2"}, asked); diff != "" {
		t.Error(diff)
	}
	if _, err := runs.Page(t.Context(), "", 501); err == nil {
		t.Error("a limit of 501 was sent")
	}
	if _, err := runs.Page(t.Context(), "wrong", 1); err == nil || !strings.Contains(err.Error(), "invalid_request") {
		t.Errorf("a wrong cursor: %v", err)
	}
}

// TestList_faults: a list ends with the error that ended it, and one that leads in a circle is no list.
func TestList_faults(t *testing.T) {
	for name, body := range map[string]string{
		"circle": `{"agents":[{"agent_id":"a"}],"next_cursor":"again"}`, "no list": `{"runs":[],"next_cursor":null}`, "no items": `{"agents":[7],"next_cursor":null}`,
		"no cursor": `{"agents":[],"next_cursor":7}`,
	} {
		tries := 0
		c := mustClient(t, client.Options{}, func(*http.Request) (*http.Response, error) {
			if tries++; tries > 10 {
				return nil, fmt.Errorf("asked without end")
			}
			return reply(200, body), nil
		})
		var last error
		for _, err := range c.Agents().All(t.Context()) {
			last = err
		}
		if last == nil || tries > 2 {
			t.Errorf("%s: %v after %d requests", name, last, tries)
		}
	}
}
