package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/node"
)

// keyView is what the tables show of a key.
type keyView struct {
	ID          string     `json:"key_id"`
	TenantID    string     `json:"tenant_id"`
	PrincipalID string     `json:"principal_id"`
	Scopes      []string   `json:"scopes"`
	Roles       []string   `json:"roles"`
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   *time.Time `json:"expires_at"`
	Secret      string     `json:"secret"`
}

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

// keysPath is the collection of the tenant that is meant.
func (a *app) keysPath() string {
	tenant := a.tenant
	if tenant == "" {
		tenant = node.DefaultTenantID
	}
	return tenantsPath + "/" + url.PathEscape(tenant) + "/keys"
}

func (a *app) keysIssueCommand() *cobra.Command {
	var principal, kind, out string
	var roles, scopes []string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "issue --principal PRINCIPAL",
		Short: "Issue a key",
		Example: `  agentos keys issue --principal svc_ci --role tenant_service --expires 720h --out ci.key
  agentos keys issue --principal usr_ann --type user --role tenant_user --tenant tnt_mine`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if principal == "" {
				return usage("%s needs --principal", cmd.CommandPath())
			}
			body := map[string]any{"principal_id": principal}
			if kind != "" {
				body["principal_type"] = kind
			}
			if roles != nil {
				body["roles"] = roles
			}
			if scopes != nil {
				body["scopes"] = scopes
			}
			if expires != 0 {
				body["expires_at"] = time.Now().Add(expires).UTC().Format(time.RFC3339)
			}
			return a.askKey(cmd, http.MethodPost, a.keysPath(), body, out)
		},
	}
	cmd.Flags().StringVar(&principal, "principal", "", "whose key it is, such as svc_ci or usr_ann")
	cmd.Flags().StringVar(&kind, "type", "", "user or service; service when left out")
	cmd.Flags().StringArrayVar(&roles, "role", nil, "tenant_user, tenant_service, tenant_admin or platform_admin; may be repeated")
	cmd.Flags().StringArrayVar(&scopes, "scope", nil, "narrow the role to these scopes; may be repeated")
	cmd.Flags().DurationVar(&expires, "expires", 0, "how long it is good for; for ever when left out")
	cmd.Flags().StringVar(&out, "out", "", "write the secret to this file (mode 0600) instead of printing it")
	return cmd
}

// askKey makes a call that answers with a key, and hands out its secret, if there is one, once.
func (a *app) askKey(cmd *cobra.Command, method, path string, body any, out string) error {
	c, err := a.dial(rolePlatformAdmin)
	if err != nil {
		return err
	}
	defer c.close()
	raw, err := c.raw(cmd.Context(), method, path, body)
	if err != nil {
		return err
	}
	var answer struct {
		Key keyView `json:"key"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return err
	}
	k := answer.Key
	if out != "" && k.Secret != "" {
		if err := node.WriteFile(out, []byte(k.Secret+"\n"), 0o600); err != nil {
			return fmt.Errorf("the key %s was issued, but its secret could not be written: %w", k.ID, err)
		}
		k.Secret = ""
		if raw, err = withoutSecret(raw); err != nil {
			return err
		}
	}
	if a.output == "json" {
		return a.json(raw)
	}
	t := newTable(a.out)
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
	return t.flush()
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
			return a.list(cmd.Context(), p, rolePlatformAdmin, a.keysPath(), "keys", url.Values{}, func(t *table, raw json.RawMessage) error {
				var k keyView
				if err := json.Unmarshal(raw, &k); err != nil {
					return err
				}
				t.row(k.ID, k.PrincipalID, k.Roles, len(k.Scopes), k.CreatedAt, k.ExpiresAt)
				return nil
			}, "key", "principal", "roles", "scopes", "created", "expires")
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
			var body any
			if cmd.Flags().Changed("overlap") {
				body = map[string]any{"overlap_seconds": int64(overlap.Seconds())}
			}
			return a.askKey(cmd, http.MethodPost, a.keysPath()+"/"+url.PathEscape(args[0])+":rotate", body, out)
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
			if _, err := c.raw(cmd.Context(), http.MethodDelete, a.keysPath()+"/"+url.PathEscape(args[0]), nil); err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(map[string]any{"revoked": args[0]})
			}
			a.say("revoked %s", args[0])
			return nil
		},
	}
}
