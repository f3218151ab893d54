package client_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/memory"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/meter"
	"github.com/nexixai/agentos/model/policy"
	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
	"github.com/nexixai/agentos/tenancy/quota"
)

// TestNouns: every member that the server's nouns have on the wire, the client's have too, by the same name. Without it a
// member that the server gains would silently be lost on the way to Go programs.
func TestNouns(t *testing.T) {
	for _, pair := range [][2]any{
		{client.Run{}, run.Run{}},
		{client.DryRun{}, run.DryRun{}},
		{client.RunContext{}, run.Context{}},
		{client.Tooling{}, run.Tooling{}},
		{client.RunOptions{}, run.RunOptions{}},
		{client.PolicyContext{}, tenancy.PolicyContext{}},
		{client.Event{}, event.Envelope{}},
		{client.Agent{}, agent.Agent{}},
		{client.Tool{}, agent.Tool{}},
		{client.Memory{}, memory.Item{}},
		{client.MemoryQuery{}, memory.Query{}},
		{client.MemoryResult{}, memory.Result{}},
		{client.Route{}, placement.Route{}},
		{client.TargetSelector{}, run.Selector{}},
		{client.Host{}, placement.Host{}},
		{client.Tenant{}, tenancy.Tenant{}},
		{client.TenantCreate{}, tenancy.TenantCreate{}},
		{client.Quotas{}, tenancy.Quotas{}},
		{client.Key{}, tenancy.IssuedKey{}},
		{client.KeyCreate{}, tenancy.KeyCreate{}},
		{client.AuditRecord{}, audit.Record{}},
		{client.AuditHead{}, audit.Head{}},
		{client.Budget{}, quota.Budget{}},
		{client.Model{}, model.Info{}},
		{client.PolicyOutcome{}, model.PolicyOutcome{}},
		{client.RouteTaken{}, model.RouteTaken{}},
		{client.ModelRequirements{}, model.Requirements{}},
		{client.Explanation{}, model.Explanation{}},
		{client.Ruleset{}, policy.Stored{}},
		{client.Expression{}, policy.Expression{}},
		{client.Prices{}, meter.PriceList{}},
		{client.Price{}, meter.ModelPrice{}},
		{client.Grant{}, registry.Grant{}},
	} {
		ours, theirs := map[string]bool{}, map[string]bool{}
		members(reflect.TypeOf(pair[0]), "", ours)
		members(reflect.TypeOf(pair[1]), "", theirs)
		for name := range theirs {
			if !ours[name] {
				t.Errorf("%T lacks the member %s of %T", pair[0], name, pair[1])
			}
		}
		if len(theirs) == 0 {
			t.Errorf("%T has no members: the comparison is broken", pair[1])
		}
	}
}

// members collects the dotted names under which a type's fields stand on the wire.
func members(t reflect.Type, under string, into map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.PkgPath() == "time" || strings.HasPrefix(t.Name(), "Field[") || strings.HasPrefix(t.Name(), "Opt[") {
		return
	}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || name == "" || len(f.Index) > 1 && !promoted(t, f) {
			continue
		}
		into[under+name] = true
		members(f.Type, under+name+".", into)
	}
}

// promoted reports whether f is reached through embedded fields that have no name of their own on the wire.
func promoted(t reflect.Type, f reflect.StructField) bool {
	for _, i := range f.Index[:len(f.Index)-1] {
		outer := t.Field(i)
		if !outer.Anonymous || outer.Tag.Get("json") != "" {
			return false
		}
		t = outer.Type
	}
	return true
}

// TestTenantUpdate: what is left out, what is null and what has a value are three things, as the server reads them.
func TestTenantUpdate(t *testing.T) {
	u := client.TenantUpdate{Name: client.Some("New")}
	u.Quotas.Runs.MaxConcurrentRuns = client.Some[*int64](nil)
	u.Quotas.Models.MaxTokensPerRequest = client.Some(new(int64))
	u.Entitlements.ToolIDsAllowed = client.Some([]string{})
	raw, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"New","entitlements":{"tool_ids_allowed":[]},"quotas":{"runs":{"max_concurrent_runs":null},"models":{"max_tokens_per_request":0}}}`
	if diff := cmp.Diff(want, string(raw)); diff != "" {
		t.Error(diff)
	}
	var server tenancy.TenantUpdate
	if err := json.Unmarshal(raw, &server); err != nil || !server.Quotas.Runs.MaxConcurrentRuns.Set || server.Quotas.Runs.MaxConcurrentRuns.Value != nil || server.Quotas.Runs.RunCreateQPS.Set {
		t.Errorf("the server reads %+v, %v", server, err)
	}
	var back client.TenantUpdate
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(back); err != nil || string(again) != want {
		t.Errorf("read back it is %s, %v", again, err)
	}
}
