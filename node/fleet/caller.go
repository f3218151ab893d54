package fleet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/tenancy"
)

// caller speaks to one node with one key.
type caller struct {
	base, key string
	http      *http.Client
}

func (f *Fleet) caller(n planNode, keyFile string) (*caller, error) {
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	return &caller{base: n.apiURL(), key: key, http: &http.Client{Transport: &http.Transport{}}}, nil
}

func (c *caller) close() { c.http.CloseIdleConnections() }

// raw asks and returns status and body.
func (c *caller) raw(ctx context.Context, method, path string, in any) (int, []byte, error) {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 32<<20))
	return resp.StatusCode, raw, err
}

// call asks, decodes the answer into out (which may be nil), and turns an error object back into the error it was.
func (c *caller) call(ctx context.Context, method, path string, in, out any) error {
	status, raw, err := c.raw(ctx, method, path, in)
	if err != nil {
		return err
	}
	if status >= 400 {
		var e struct {
			Error struct {
				Code    fault.Code     `json:"code"`
				Message string         `json:"message"`
				Details map[string]any `json:"details"`
			} `json:"error"`
		}
		if json.Unmarshal(raw, &e) != nil || e.Error.Code == "" {
			return fmt.Errorf("%s %s: %d %s", method, path, status, raw)
		}
		return &fault.Error{Code: e.Error.Code, Message: e.Error.Message, Details: e.Error.Details}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

func (c *caller) leader(ctx context.Context) (string, error) {
	var out struct {
		Cluster struct {
			Leader *string `json:"leader"`
		} `json:"cluster"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/admin/cluster", nil, &out); err != nil {
		return "", err
	}
	if out.Cluster.Leader == nil {
		return "none", nil
	}
	return *out.Cluster.Leader, nil
}

// whoami asks something that any valid key may.
func (c *caller) whoami(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/v1/runs?limit=1", nil, nil)
}

func (c *caller) ensureTenant(ctx context.Context, t tenancy.TenantCreate) (made bool, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/admin/tenants/"+t.ID, nil, nil)
	if !fault.Is(err, fault.NotFound) {
		return false, err
	}
	return true, c.call(ctx, http.MethodPost, "/v1/admin/tenants", map[string]any{"tenant_create": t}, nil)
}

func (c *caller) ensureAgent(ctx context.Context, a agent.Agent) (made bool, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/agents/"+a.ID, nil, nil)
	if !fault.Is(err, fault.NotFound) {
		return false, err
	}
	body := map[string]any{"agent": map[string]any{
		"name": a.Name, "description": a.Description, "version": a.Version, "status": a.Status, "model_ref": a.ModelRef,
		"instructions": a.Instructions, "tool_ids": a.ToolIDs,
	}}
	return true, c.call(ctx, http.MethodPut, "/v1/agents/"+a.ID, body, nil)
}

func (c *caller) issueKey(ctx context.Context, tenantID, principal, role string) (secret string, err error) {
	var out struct {
		Key struct {
			Secret string `json:"secret"`
		} `json:"key"`
	}
	body := map[string]any{"principal_id": principal, "principal_type": "user", "roles": []string{role}}
	if err := c.call(ctx, http.MethodPost, "/v1/admin/tenants/"+tenantID+"/keys", body, &out); err != nil {
		return "", err
	}
	if out.Key.Secret == "" {
		return "", errors.New("the node issued a key without its secret")
	}
	return out.Key.Secret, nil
}

// event is what the checks read of an event.
type event struct {
	Sequence uint64          `json:"sequence"`
	Type     string          `json:"type"`
	RunID    string          `json:"run_id"`
	Payload  json.RawMessage `json:"payload"`
}

// follow reads a run's stored events until the final one.
func (c *caller) follow(ctx context.Context, runID string) ([]event, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/runs/"+runID+"/events", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the event stream answered %d", resp.StatusCode)
	}
	var events []event
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e struct {
			Event *event `json:"event"`
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Event == nil || e.Event.Sequence == 0 {
			continue
		}
		events = append(events, *e.Event)
		switch e.Event.Type {
		case "agentos.run.completed", "agentos.run.failed", "agentos.run.canceled":
			return events, nil
		}
	}
	return events, errors.Join(errors.New("the event stream ended before the run's final event"), lines.Err())
}

// run is what the checks read of a run.
type run struct {
	ID     string `json:"run_id"`
	Status string `json:"status"`
	Output *struct {
		Text string `json:"text"`
	} `json:"output"`
}

func (c *caller) createRun(ctx context.Context, agentID, text string) (*run, error) {
	var out struct {
		Run run `json:"run"`
	}
	body := map[string]any{
		"input":       map[string]any{"type": "text", "text": text},
		"context":     map[string]any{"labels": map[string]string{"agentos.validate": time.Now().UTC().Format("20060102T150405Z")}},
		"run_options": map[string]any{"timeout_ms": 30_000},
	}
	if err := c.call(ctx, http.MethodPost, "/v1/agents/"+agentID+"/runs", body, &out); err != nil {
		return nil, err
	}
	return &out.Run, nil
}

// open lists the runs that have not ended.
func (c *caller) open(ctx context.Context) ([]string, error) {
	var ids []string
	for _, status := range []string{"queued", "running"} {
		cursor := ""
		for {
			var out struct {
				Runs []run   `json:"runs"`
				Next *string `json:"next_cursor"`
			}
			if err := c.call(ctx, http.MethodGet, "/v1/runs?limit=500&status="+status+cursor, nil, &out); err != nil {
				return nil, err
			}
			for _, r := range out.Runs {
				ids = append(ids, r.ID)
			}
			if out.Next == nil {
				break
			}
			cursor = "&cursor=" + *out.Next
		}
	}
	return ids, nil
}
