package fleet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nexixai/agentos/api/client"
)

// markdown is the report for people.
func (r *Report) markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# agentos %s: %s\n\n", r.Action, r.Result)
	p("%s, took %s, on %s (%s/%s, %d CPUs, %s free), agentos %s (%s).\n", r.StartedAt.Format(time.RFC3339),
		time.Duration(r.DurationMS)*time.Millisecond, r.Host.Hostname, r.Host.OS, r.Host.Arch, r.Host.CPUs, rounded(r.Host.DiskFree), r.Build.Version, r.Build.GitSHA)
	p("Mode %s, state directory `%s`.\n", cmp.Or(r.Mode, "none (no deployment)"), r.StateDir)
	if r.Error != "" {
		p("\n## What failed\n\n%s\n", r.Error)
		if len(r.LastLog) > 0 {
			p("\n```\n%s\n```\n", strings.Join(r.LastLog, "\n"))
		}
	}
	if len(r.Remedies) > 0 {
		p("\n## What to do\n\n")
		for _, remedy := range r.Remedies {
			p("- `%s`\n", remedy)
		}
	}
	p("\n## Phases\n\n| phase | result | steps | ms |\n|---|---|---|---|\n")
	for _, ph := range r.Phases {
		p("| %s | %s | %d/%d | %d |\n", ph.Name, ph.Result, ph.Done, ph.Total, ph.DurationMS)
	}
	table := func(title string, checks []Check) {
		if len(checks) == 0 {
			return
		}
		p("\n## %s\n\n| check | result | ms | detail |\n|---|---|---|---|\n", title)
		for _, c := range checks {
			p("| %s | %s | %d | %s |\n", c.Name, okWord(c.OK), c.DurationMS, strings.ReplaceAll(c.Detail, "|", "\\|"))
		}
	}
	table("Health", r.Checks)
	table("Smoke tests", r.Smoke)
	r.markdownPlaces(p)
	return b.String()
}

func (r *Report) markdownPlaces(p func(string, ...any)) {
	if len(r.Nodes) > 0 {
		p("\n## Nodes\n\n| node | state | pid | API | admin | version | log |\n|---|---|---|---|---|---|---|\n")
		for _, n := range r.Nodes {
			p("| %s | %s | %d | %s | %s | %s | `%s` |\n", n.StackID, n.State, n.PID, n.APIURL, n.AdminURL, n.Version, n.LogFile)
		}
	}
	if len(r.Ports) > 0 {
		p("\n## Ports\n\n| node | listener | address | state |\n|---|---|---|---|\n")
		for _, port := range r.Ports {
			p("| %s | %s | %s %s | %s |\n", port.StackID, port.Listener, port.Protocol, port.Address, port.State)
		}
	}
	if r.Access != nil {
		p("\n## Credentials\n\nEach file holds one API key and can be read by its owner alone.\n\n| organisation | tenant | principal | role | key file |\n|---|---|---|---|---|\n")
		for _, o := range r.Access.Organizations {
			for _, t := range o.Tenants {
				for _, pr := range t.Principals {
					p("| %s | %s | %s | %s | `%s` |\n", o.Name, t.ID, pr.ID, pr.Role, pr.KeyFile)
				}
			}
		}
		p("\nMetrics: %s\n", strings.Join(r.Access.Observability.MetricsURLs, ", "))
	}
	if r.Seeded != nil {
		p("\n## Seeded\n\nTenant `%s`; agents `%s`; tools `%s`.\n", r.Seeded.DefaultTenantID, strings.Join(r.Seeded.SampleAgentIDs, "`, `"), strings.Join(r.Seeded.SampleToolIDs, "`, `"))
	}
	r.markdownSeeded(p)
	p("\n## Alerts\n\n%s. How to test: %s.\n", r.Alerts.Detail, r.Alerts.HowToTest)
	if len(r.Removed) > 0 {
		p("\n## Removed\n\n")
		for _, what := range r.Removed {
			p("- %s\n", what)
		}
	}
	if len(r.Advice) > 0 {
		p("\n## Next\n\n")
		for _, a := range r.Advice {
			p("- %s: `%s`\n", a.What, a.Command)
		}
	}
}

// markdownSeeded tells what the organisations keep.
func (r *Report) markdownSeeded(p func(string, ...any)) {
	for _, t := range r.Tenants {
		raw, _ := json.Marshal(t.Quotas)
		p("\n%s, tenant `%s` (%s, %s), quotas: `%s`\n", t.Organization, t.TenantID, t.Name, t.Status, raw)
	}
	if len(r.Agents) > 0 {
		p("\n| organisation | tenant | agent | model |\n|---|---|---|---|\n")
		for _, a := range r.Agents {
			p("| %s | %s | `%s` | %s |\n", a.Organization, a.TenantID, a.AgentID, a.ModelRef)
		}
	}
	if len(r.Peerings) > 0 {
		p("\n## Peerings\n\n| at | peering | with | state | our fingerprint | their fingerprint | they may act as |\n|---|---|---|---|---|---|---|\n")
		for _, at := range r.Peerings {
			v := at.Peering
			p("| %s | %s | %s | %s | `%s` | `%s` | %s |\n", at.At, v.ID, v.Organization, v.State, v.Fingerprints.Ours, v.Fingerprints.Theirs, actingAs(v.Exports))
		}
	}
	if len(r.Routes) > 0 {
		p("\n## Routes\n\n| organisation | route | agent | to |\n|---|---|---|---|\n")
		for _, v := range r.Routes {
			p("| %s | %s | %s | %s |\n", v.Organization, v.ID, cmp.Or(v.AgentID, "any"), strings.Join(v.To, ", "))
		}
	}
}

// actingAs names the tenants that a peering's exports let the other side act as.
func actingAs(exports []client.Grant) string {
	names := []string{}
	for _, g := range exports {
		names = append(names, g.LocalTenantID)
	}
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

func okWord(ok bool) string {
	if ok {
		return "ok"
	}
	return "FAILED"
}
