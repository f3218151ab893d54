package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/node/fleet"
)

// Roles whose keys a deployment keeps.
const (
	roleUser          = "tenant_user"
	roleTenantAdmin   = "tenant_admin"
	rolePlatformAdmin = "platform_admin"
)

// errCut says that a stream ended before the run did.
var errCut = errors.New("the event stream ended before the run's final event was seen")

// conn speaks to one node with one key.
type conn struct {
	base, key string
	http      *http.Client
}

// dial finds the node and a key of this role, unless flags name others.
func (a *app) dial(role string) (*conn, error) {
	base, keyFile := a.apiURL, a.keyFile
	if a.as != "" {
		role = a.as
	}
	if base == "" || keyFile == "" {
		access, err := fleet.ReadAccess(a.stateDir)
		if err != nil {
			return nil, err
		}
		org, err := access.Organization(a.org)
		if err != nil {
			return nil, usage("%w", err)
		}
		if base == "" {
			if len(org.Nodes) == 0 {
				return nil, fmt.Errorf("organisation %s has no node", org.Name)
			}
			base = org.Nodes[0].APIURL
		}
		if keyFile == "" {
			tenant := a.tenant
			if role == rolePlatformAdmin {
				tenant = ""
			}
			if keyFile, err = org.Key(tenant, role); err != nil {
				return nil, &codedError{code: exitNotFound, err: err, hint: "--key-file names a key; agentos keys issue makes one"}
			}
		}
	}
	raw, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("API key: %w", err)
	}
	return &conn{base: strings.TrimRight(base, "/"), key: strings.TrimSpace(string(raw)), http: &http.Client{}}, nil
}

func (c *conn) close() { c.http.CloseIdleConnections() }

// raw asks and returns the answer's body, or the error that the node told.
func (c *conn) raw(ctx context.Context, method, path string, in any) (json.RawMessage, error) {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return answer(resp)
}

// answer reads a whole answer, and turns an error object back into the error it was.
func answer(resp *http.Response) (json.RawMessage, error) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 400 {
		var e struct {
			Error struct {
				Code    fault.Code     `json:"code"`
				Message string         `json:"message"`
				Details map[string]any `json:"details"`
			} `json:"error"`
		}
		if json.Unmarshal(raw, &e) != nil || e.Error.Code == "" {
			return nil, fmt.Errorf("the node answered %s: %s", resp.Status, cut(plain(string(raw)), 200))
		}
		f := &fault.Error{Code: e.Error.Code, Message: e.Error.Message, Details: e.Error.Details}
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			f.RetryAfter = time.Duration(seconds) * time.Second
		}
		return nil, f
	}
	return raw, nil
}

// frame is one server-sent event.
type frame struct {
	id    uint64 // 0: a delta, or a gap
	event string
	data  json.RawMessage
}

// follow calls each with every frame of a run's journal until the final event. A connection that breaks is made again,
// and the journal goes on after the last event seen; errCut says that it could not be made for a while.
func (c *conn) follow(ctx context.Context, runID string, each func(frame) (final bool, err error)) error {
	var after uint64
	var broken error
	for since := time.Now(); ; {
		last, final, err := c.listen(ctx, runID, after, each)
		if final || err != nil && !errors.Is(err, errCut) {
			return err
		}
		if last > after {
			after, since = last, time.Now()
		}
		if broken = err; time.Since(since) > followPatience {
			return broken
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second): // as the stream itself advises
		}
	}
}

// followPatience is how long a watched run may stay out of reach.
const followPatience = 30 * time.Second

// listen reads one connection's frames. Anything that a new connection may cure is errCut.
func (c *conn) listen(ctx context.Context, runID string, after uint64, each func(frame) (bool, error)) (last uint64, final bool, err error) {
	last = after
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/runs/"+url.PathEscape(runID)+"/events", nil)
	if err != nil {
		return last, false, err
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	if after > 0 {
		req.Header.Set("Last-Event-ID", strconv.FormatUint(after, 10))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return last, false, fmt.Errorf("%w: %w", errCut, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNoContent: // what was seen last was the end
		return last, true, nil
	case resp.StatusCode != http.StatusOK:
		if _, err = answer(resp); fault.CodeOf(err).Retryable() {
			err = fmt.Errorf("%w: %w", errCut, err)
		}
		return last, false, err
	}
	frames := bufio.NewScanner(resp.Body)
	frames.Buffer(nil, 4<<20)
	var f frame
	for frames.Scan() {
		name, value, _ := strings.Cut(frames.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			f.id, _ = strconv.ParseUint(value, 10, 64)
		case "event":
			f.event = value
		case "data":
			f.data = json.RawMessage(value)
		}
		if frames.Text() != "" || f.data == nil {
			continue
		}
		final, err = each(f)
		last = max(last, f.id)
		if f = (frame{}); final || err != nil {
			return last, final, err
		}
	}
	return last, false, errors.Join(errCut, frames.Err())
}
