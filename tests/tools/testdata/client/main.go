// Command client uses a node by what a generator made of its contracts, and by nothing else: it creates a run, streams its
// events, cancels it in the middle, and prints what it has read.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"generated/common"
	"generated/federation"
	"generated/stacka"
	"generated/stackb"
)

// seen is what the client has read.
type seen struct {
	RunID    string   `json:"run_id"`
	TenantID string   `json:"tenant_id"`
	Events   []string `json:"events"` // types, in order
	Status   string   `json:"status"`
	By       string   `json:"by"` // who canceled, as the final event says
	Stack    string   `json:"stack"`
	Models   []string `json:"models"`
	Refused  string   `json:"refused"` // the code of an error
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := work(ctx, os.Getenv("AGENTOS_URL"), os.Getenv("AGENTOS_KEY"), os.Getenv("AGENTOS_AGENT"))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func work(ctx context.Context, url, key, agentID string) (*seen, error) {
	credential := func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+key)
		return nil
	}
	runs, err := stacka.NewClientWithResponses(url, stacka.WithRequestEditorFn(credential))
	if err != nil {
		return nil, err
	}
	models, err := stackb.NewClientWithResponses(url, stackb.WithRequestEditorFn(credential))
	if err != nil {
		return nil, err
	}
	others, err := federation.NewClientWithResponses(url, federation.WithRequestEditorFn(credential))
	if err != nil {
		return nil, err
	}
	s := &seen{}
	if err := s.run(ctx, runs, agentID); err != nil {
		return nil, err
	}
	return s, s.look(ctx, runs, models, others)
}

// run creates a run that waits, follows it, and cancels it as soon as it has begun.
func (s *seen) run(ctx context.Context, runs *stacka.ClientWithResponses, agentID string) error {
	body := stacka.RunsCreateJSONRequestBody{}
	body.Input.Text = "/wait 60s"
	made, err := runs.RunsCreateWithResponse(ctx, agentID, nil, body)
	if err != nil {
		return err
	}
	if made.JSON201 == nil {
		return fmt.Errorf("create: %s %s", made.Status(), made.Body)
	}
	s.RunID, s.TenantID = made.JSON201.Run.RunId, made.JSON201.Run.TenantId
	stream, err := runs.RunsEvents(ctx, s.RunID, nil)
	if err != nil {
		return err
	}
	defer stream.Body.Close()
	if kind := stream.Header.Get("Content-Type"); stream.StatusCode != http.StatusOK || kind != "text/event-stream" {
		return fmt.Errorf("events: %s %s", stream.Status, kind)
	}
	lines := bufio.NewScanner(stream.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var frame stacka.EventEnvelope
		if err := json.Unmarshal([]byte(data), &frame); err != nil {
			return err
		}
		if err := s.event(ctx, runs, &frame); err != nil {
			return err
		}
	}
	return lines.Err()
}

// event reads one event as the type that it is.
func (s *seen) event(ctx context.Context, runs *stacka.ClientWithResponses, frame *stacka.EventEnvelope) error {
	kind, err := frame.Event.Discriminator()
	if err != nil {
		return err
	}
	s.Events = append(s.Events, kind)
	v, err := frame.Event.ValueByDiscriminator()
	if err != nil {
		return err
	}
	switch e := v.(type) {
	case stacka.RunStartedEvent:
		if e.RunId != s.RunID || e.Payload.StackId == "" {
			return fmt.Errorf("started: %+v", e)
		}
		done, err := runs.RunsCancelWithResponse(ctx, s.RunID, nil)
		if err != nil {
			return err
		}
		if done.JSON200 == nil {
			return fmt.Errorf("cancel: %s %s", done.Status(), done.Body)
		}
	case stacka.RunCanceledEvent:
		if e.Payload.By != nil {
			s.By = *e.Payload.By
		}
	}
	return nil
}

// look reads the run again at either of its names, who the node is, which models there are, and an error.
func (s *seen) look(ctx context.Context, runs *stacka.ClientWithResponses, models *stackb.ClientWithResponses, others *federation.ClientWithResponses) error {
	end, err := others.FederationRunsGetWithResponse(ctx, s.RunID, nil)
	if err != nil {
		return err
	}
	info, err := others.PeerInfoWithResponse(ctx, nil)
	if err != nil {
		return err
	}
	list, err := models.ModelsWithResponse(ctx, nil)
	if err != nil {
		return err
	}
	none, err := runs.RunsGetWithResponse(ctx, "run_none", nil)
	if err != nil {
		return err
	}
	if end.JSON200 == nil || info.JSON200 == nil || list.JSON200 == nil || none.JSON404 == nil {
		return fmt.Errorf("%s, %s, %s, %s", end.Status(), info.Status(), list.Status(), none.Status())
	}
	s.Status, s.Stack = string(end.JSON200.Run.Status), info.JSON200.Peer.StackId
	for _, m := range list.JSON200.Models {
		s.Models = append(s.Models, m.ModelId)
	}
	if none.JSON404.Error.Code == common.NotFound {
		s.Refused = string(none.JSON404.Error.Code)
	}
	return nil
}
