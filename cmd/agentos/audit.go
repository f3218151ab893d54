package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/tenancy/audit"
)

const auditPath = "/v1/admin/audit"

func (a *app) auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Read the audit chain, and verify that nobody has touched it",
		Example: "  agentos audit list --action run.create\n  agentos audit verify",
	}
	cmd.AddCommand(a.auditListCommand(), a.auditVerifyCommand())
	return cmd
}

func (a *app) auditListCommand() *cobra.Command {
	var p page
	var action, from, to string
	var oneALine bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List audit records of a tenant",
		Example: `  agentos audit list --action run.create --from 2026-01-01T00:00:00Z
  agentos audit list --all --lines > audit.jsonl`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			set(q, "tenant_id", a.tenant)
			set(q, "action", action)
			set(q, "from", from)
			set(q, "to", to)
			if oneALine {
				return a.auditLines(cmd, p, q)
			}
			return a.list(cmd.Context(), p, a.auditRole(), auditPath, "records", q, func(t *table, raw json.RawMessage) error {
				var r audit.Record
				if err := json.Unmarshal(raw, &r); err != nil {
					return err
				}
				t.row(r.Sequence, r.Time, r.Principal, r.Action, r.Resource, r.Outcome, r.CorrelationID)
				return nil
			}, "record", "time", "principal", "action", "resource", "outcome", "correlation")
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&action, "action", "", "only this action, such as run.create")
	cmd.Flags().StringVar(&from, "from", "", "only from this time on (RFC 3339)")
	cmd.Flags().StringVar(&to, "to", "", "only before this time (RFC 3339)")
	cmd.Flags().BoolVar(&oneALine, "lines", false, "print each record as JSON on one line, as verify --file reads it")
	return cmd
}

// auditRole is the administrator whose chain is read: the tenant's own, or the platform's for a tenant that is named.
func (a *app) auditRole() string {
	if a.tenant != "" {
		return rolePlatformAdmin
	}
	return roleTenantAdmin
}

func (a *app) auditLines(cmd *cobra.Command, p page, q url.Values) error {
	c, err := a.dial(a.auditRole())
	if err != nil {
		return err
	}
	defer c.close()
	records, _, err := collect(cmd.Context(), c, p, auditPath, "records", q)
	if err != nil {
		return err
	}
	text, err := jsonLines(records)
	if err != nil {
		return err
	}
	_, err = a.out.Write(text)
	return err
}

// jsonLines puts each value on one line, without changing it.
func jsonLines(values []json.RawMessage) ([]byte, error) {
	var b bytes.Buffer
	for _, v := range values {
		if err := json.Compact(&b, v); err != nil {
			return nil, err
		}
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

// verdict is what verify says.
type verdict struct {
	Chain   string `json:"chain"`
	OK      bool   `json:"ok"`
	Records int    `json:"records"`
	Error   string `json:"error,omitempty"`
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Verify that no audit record was edited, removed, added or moved",
		Long: `Verify an audit chain from its first record to its last. With --file the records come from a file that "audit list --all
--lines" (or --output json) wrote, and nothing is asked of a node; records that were cut off at the end can then only be
seen by comparing the number of records. Otherwise the chains of all tenants are read from the node, or that of --tenant.`,
		Example: "  agentos audit verify\n  agentos audit verify --file audit.jsonl",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var found []verdict
			var err error
			if file != "" {
				found, err = a.verifyFile(file)
			} else {
				found, err = a.verifyNode(cmd)
			}
			if err != nil {
				return err
			}
			return a.printVerdicts(found)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "file of records; - reads standard input")
	return cmd
}

func (a *app) printVerdicts(found []verdict) error {
	var broken error
	for _, v := range found {
		if !v.OK {
			broken = errors.Join(broken, errors.New(v.Error))
		}
	}
	var err error
	if a.output == "json" {
		err = a.json(map[string]any{"ok": broken == nil, "chains": found})
	} else {
		t := newTable(a.out, "chain", "result", "records")
		for _, v := range found {
			result := "whole"
			if !v.OK {
				result = "BROKEN"
			}
			t.row(v.Chain, result, v.Records)
		}
		err = t.flush()
	}
	return errors.Join(err, broken)
}

// verifyText verifies records that stand one on each line.
func verifyText(chain string, text []byte, head *audit.Head) verdict {
	n, err := audit.Verify(audit.Lines(bytes.NewReader(text)), head)
	v := verdict{Chain: chain, OK: err == nil, Records: n}
	if err != nil {
		v.Error = err.Error()
	}
	return v
}

func (a *app) verifyFile(name string) ([]verdict, error) {
	raw, err := a.readFile(name)
	if err != nil {
		return nil, err
	}
	var list struct {
		Records []json.RawMessage `json:"records"`
	}
	if json.Unmarshal(raw, &list) == nil && list.Records != nil { // what --output json printed
		if raw, err = jsonLines(list.Records); err != nil {
			return nil, err
		}
	}
	return []verdict{verifyText(name, raw, nil)}, nil
}

func (a *app) verifyNode(cmd *cobra.Command) ([]verdict, error) {
	c, err := a.dial(rolePlatformAdmin)
	if err != nil {
		return nil, err
	}
	defer c.close()
	chains := []string{a.tenant}
	if a.tenant == "" {
		if chains, err = allTenants(cmd, c); err != nil {
			return nil, err
		}
	}
	var found []verdict
	for _, tenant := range chains {
		v, err := a.verifyChain(cmd, c, tenant)
		if err != nil {
			return nil, err
		}
		found = append(found, v)
	}
	return found, nil
}

func allTenants(cmd *cobra.Command, c *conn) ([]string, error) {
	items, _, err := collect(cmd.Context(), c, page{all: true}, tenantsPath, "tenants", url.Values{})
	if err != nil {
		return nil, err
	}
	ids := []string{"platform"} // the platform's own chain stands first
	for _, item := range items {
		var v tenantView
		if err := json.Unmarshal(item, &v); err != nil {
			return nil, err
		}
		ids = append(ids, v.ID)
	}
	return ids, nil
}

// verifyChain reads one chain and verifies it up to the end that the node names beside the last page.
func (a *app) verifyChain(cmd *cobra.Command, c *conn, tenant string) (verdict, error) {
	q := url.Values{"tenant_id": {tenant}, "limit": {"500"}}
	var text bytes.Buffer
	var head *audit.Head
	for {
		raw, err := c.raw(cmd.Context(), http.MethodGet, auditPath+"?"+q.Encode(), nil)
		if err != nil {
			return verdict{}, fmt.Errorf("chain of %s: %w", tenant, err)
		}
		var body struct {
			Records []json.RawMessage `json:"records"`
			Next    *string           `json:"next_cursor"`
			Head    *audit.Head       `json:"head"`
		}
		if err := json.Unmarshal(raw, &body); err != nil {
			return verdict{}, err
		}
		page, err := jsonLines(body.Records)
		if err != nil {
			return verdict{}, err
		}
		text.Write(page)
		head = body.Head
		if body.Next == nil || *body.Next == "" {
			return verifyText(tenant, text.Bytes(), head), nil
		}
		q.Set("cursor", *body.Next)
	}
}
