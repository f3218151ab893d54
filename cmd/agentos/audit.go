package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/tenancy/audit"
)

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
	var f client.AuditFilter
	var from, to string
	var oneALine bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List audit records of a tenant",
		Example: `  agentos audit list --action run.create --from 2026-01-01T00:00:00Z
  agentos audit list --all --lines > audit.jsonl`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.TenantID = a.tenant
			if err := errors.Join(timeFlag("--from", from, &f.From), timeFlag("--to", to, &f.To)); err != nil {
				return err
			}
			records := listing[client.AuditRecord]{
				role: a.auditRole(), plural: "records", from: func(c *client.Client) *client.List[client.AuditRecord] { return c.Audit(f) },
				row: func(t *table, r client.AuditRecord) {
					t.row(r.Sequence, r.Time, r.Principal, r.Action, r.Resource, r.Outcome, r.CorrelationID)
				},
				heads: []string{"record", "time", "principal", "action", "resource", "outcome", "correlation"},
			}
			if oneALine {
				return a.auditLines(cmd.Context(), records, p)
			}
			return records.show(cmd.Context(), a, p)
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&f.Action, "action", "", "only this action, such as run.create")
	cmd.Flags().StringVar(&from, "from", "", "only from this time on (RFC 3339)")
	cmd.Flags().StringVar(&to, "to", "", "only before this time (RFC 3339)")
	cmd.Flags().BoolVar(&f.Newest, "newest", false, "newest first")
	cmd.Flags().BoolVar(&oneALine, "lines", false, "print each record as JSON on one line, as verify --file reads it")
	return cmd
}

func timeFlag(name, value string, into *time.Time) error {
	if value == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return usage("%s is %q, which is no time such as 2026-01-31T12:00:00Z", name, value)
	}
	*into = t
	return nil
}

// auditRole is the administrator whose chain is read: the tenant's own, or the platform's for a tenant that is named.
func (a *app) auditRole() string {
	if a.tenant != "" {
		return rolePlatformAdmin
	}
	return roleTenantAdmin
}

func (a *app) auditLines(ctx context.Context, records listing[client.AuditRecord], p page) error {
	items, _, err := records.ask(ctx, a, p)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, i := range items {
		if err := line(&b, i.raw); err != nil {
			return err
		}
	}
	_, err = a.out.Write(b.Bytes())
	return err
}

// line puts a value on one line, without changing it.
func line(b *bytes.Buffer, v json.RawMessage) error {
	if err := json.Compact(b, v); err != nil {
		return err
	}
	return b.WriteByte('\n')
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
				found, err = a.verifyNode(cmd.Context())
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
		var b bytes.Buffer
		for _, r := range list.Records {
			if err := line(&b, r); err != nil {
				return nil, err
			}
		}
		raw = b.Bytes()
	}
	v := verifyText(name, raw, nil)
	if v.OK && v.Records == 0 { // every chain begins with a record: one of its tenant's making, or its node's
		v.OK, v.Error = false, fmt.Sprintf("%s holds no audit record", name)
	}
	return []verdict{v}, nil
}

func (a *app) verifyNode(ctx context.Context) ([]verdict, error) {
	c, err := a.dial(rolePlatformAdmin)
	if err != nil {
		return nil, err
	}
	defer c.close()
	chains := []string{a.tenant}
	if a.tenant == "" {
		chains = []string{client.PlatformChain} // which stands first
		for t, err := range c.Tenants().All(ctx) {
			if err != nil {
				return nil, err
			}
			chains = append(chains, t.ID)
		}
	}
	var found []verdict
	for _, chain := range chains {
		v, err := verifyChain(ctx, c, chain)
		if err != nil {
			return nil, fmt.Errorf("chain of %s: %w", chain, err)
		}
		found = append(found, v)
	}
	return found, nil
}

// verifyChain reads one chain and verifies it up to the end that the node names beside the last page.
func verifyChain(ctx context.Context, c *conn, chain string) (verdict, error) {
	var text bytes.Buffer
	var head *audit.Head
	for page, err := range c.Audit(client.AuditFilter{TenantID: chain}).Pages(ctx) {
		if err != nil {
			return verdict{}, err
		}
		for _, r := range page.Raw {
			if err := line(&text, r); err != nil {
				return verdict{}, err
			}
		}
		if err := page.Beside("head", &head); err != nil {
			return verdict{}, err
		}
	}
	return verifyText(chain, text.Bytes(), head), nil
}
