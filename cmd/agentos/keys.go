package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node"
)

func (a *app) keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "keys",
		Short:   "Issue, list, rotate and revoke API keys",
		Long:    `Issue, list, rotate and revoke the API keys of a tenant (--tenant). A key's secret is shown once, when it is made.`,
		Example: "  agentos keys issue --principal svc_ci --out ci.key\n  agentos keys list --tenant tnt_demo",
	}
	cmd.AddCommand(a.keysIssueCommand(), a.keysListCommand(), a.keysRotateCommand(), a.keysRevokeCommand())
	return cmd
}

// keysTenant is the tenant whose keys are meant.
func (a *app) keysTenant() string {
	if a.tenant == "" {
		return node.DefaultTenantID
	}
	return a.tenant
}

func (a *app) keysIssueCommand() *cobra.Command {
	var k client.KeyCreate
	var out string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "issue --principal PRINCIPAL",
		Short: "Issue a key",
		Example: `  agentos keys issue --principal svc_ci --role tenant_service --expires 720h --out ci.key
  agentos keys issue --principal usr_ann --type user --role tenant_user --tenant tnt_mine`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if k.PrincipalID == "" {
				return usage("%s needs --principal", cmd.CommandPath())
			}
			if _, err := os.Lstat(out); out != "" && err == nil {
				return &codedError{code: exitConflict, err: fmt.Errorf("%s is there already, and may hold a key", out), hint: "name a file that is not there yet with --out"}
			}
			if expires != 0 {
				at := time.Now().Add(expires).UTC().Truncate(time.Second)
				k.ExpiresAt = &at
			}
			return a.newSecret(out, func(c *conn) (*client.Key, error) { return c.IssueKey(cmd.Context(), a.keysTenant(), k) })
		},
	}
	cmd.Flags().StringVar(&k.PrincipalID, "principal", "", "whose key it is, such as svc_ci or usr_ann")
	cmd.Flags().StringVar(&k.PrincipalType, "type", "", "user or service; service when left out")
	cmd.Flags().StringArrayVar(&k.Roles, "role", nil, "tenant_user, tenant_service, tenant_admin or platform_admin; may be repeated")
	cmd.Flags().StringArrayVar(&k.Scopes, "scope", nil, "narrow the role to these scopes; may be repeated")
	cmd.Flags().DurationVar(&expires, "expires", 0, "how long it is good for; for ever when left out")
	cmd.Flags().StringVar(&out, "out", "", "write the secret to this new file (mode 0600) instead of printing it")
	return cmd
}

// newSecret makes a call that answers with a key, and hands out its secret, if there is one, once.
func (a *app) newSecret(out string, make func(*conn) (*client.Key, error)) error {
	c, err := a.dial(rolePlatformAdmin)
	if err != nil {
		return err
	}
	defer c.close()
	k, err := make(c)
	if err != nil {
		return err
	}
	if out != "" && k.Secret != "" {
		if err := node.WriteFile(out, []byte(k.Secret+"\n"), 0o600); err != nil {
			return fmt.Errorf("the key %s was made, but its secret could not be written: %w", k.ID, err)
		}
		k.Secret = ""
		if c.answer.Body, err = withoutSecret(c.answer.Body); err != nil {
			return err
		}
	}
	return a.told(c, func(t *table) {
		t.row("key", k.ID)
		t.row("tenant", k.TenantID)
		t.row("principal", k.PrincipalID)
		t.row("scopes", k.Scopes)
		t.row("expires", k.ExpiresAt)
		switch {
		case k.Secret != "":
			t.row("secret", k.Secret)
		case out != "":
			t.row("secret", "in "+out)
		}
	})
}

func withoutSecret(raw json.RawMessage) (json.RawMessage, error) {
	var body map[string]any
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, err
	}
	if k, ok := body["key"].(map[string]any); ok {
		delete(k, "secret")
	}
	return json.Marshal(body)
}

func (a *app) keysListCommand() *cobra.Command {
	var p page
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the keys of a tenant",
		Example: "  agentos keys list --tenant tnt_demo",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listing[client.Key]{
				role: rolePlatformAdmin, plural: "keys", from: func(c *client.Client) *client.List[client.Key] { return c.Keys(a.keysTenant()) },
				row: func(t *table, k client.Key) {
					t.row(k.ID, k.PrincipalID, k.Roles, len(k.Scopes), k.CreatedAt, k.ExpiresAt)
				},
				heads: []string{"key", "principal", "roles", "scopes", "created", "expires"},
			}.show(cmd.Context(), a, p)
		},
	}
	p.flags(cmd)
	return cmd
}

func (a *app) keysRotateCommand() *cobra.Command {
	var out string
	var overlap time.Duration
	cmd := &cobra.Command{
		Use:     "rotate KEY",
		Short:   "Make a new secret for a key; the old one stays good for the overlap",
		Example: "  agentos keys rotate key_01J... --overlap 1h --out new.key",
		Args:    exactly(1, "one key id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.newSecret(out, func(c *conn) (*client.Key, error) {
				return c.RotateKey(cmd.Context(), a.keysTenant(), args[0], overlap)
			})
		},
	}
	cmd.Flags().DurationVar(&overlap, "overlap", 0, "how long the old secret stays good")
	cmd.Flags().StringVar(&out, "out", "", "write the secret to this file (mode 0600) instead of printing it")
	return cmd
}

func (a *app) keysRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke KEY",
		Short:   "Make a key worthless at once",
		Example: "  agentos keys revoke key_01J...",
		Args:    exactly(1, "one key id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			if err := c.RevokeKey(cmd.Context(), a.keysTenant(), args[0]); err != nil {
				return err
			}
			return a.done("revoked", args[0])
		},
	}
}
