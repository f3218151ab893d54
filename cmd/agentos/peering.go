package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/node"
)

func (a *app) peeringCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peering",
		Short: "Pair this cluster with another organisation's",
		Long: `Pair this cluster with another organisation's. One side invites, the other accepts; from then on each knows the other's
CA. What the other may do here is nothing, until exports say otherwise.`,
		Example: "  agentos peering invite\n  agentos peering accept --token-file invitation --expect-fingerprint 3f9a…\n  agentos peering exports prg_01J... --tenant tnt_demo",
	}
	cmd.AddCommand(
		a.peeringInviteCommand(), a.peeringAcceptCommand(), a.peeringListCommand(), a.peeringShowCommand(), a.peeringExportsCommand(),
		a.peeringVerbCommand("suspend", "Let nothing through either way, until resumed", (*client.Client).SuspendPeering),
		a.peeringVerbCommand("resume", "Take a suspended peering up again", (*client.Client).ResumePeering),
		a.peeringRevokeCommand(),
	)
	return cmd
}

func (a *app) peeringInviteCommand() *cobra.Command {
	var ttl time.Duration
	var out, peeringID string
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Make an invitation for another organisation",
		Long: `Make an invitation that lets one other cluster pair with this one. It names this cluster's federation doors and pins
its CA, and is shown once: hand it on as you would a password, and tell the fingerprint by another way.`,
		Example: "  agentos peering invite\n  agentos peering invite --ttl 1h --out invitation",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			inv, err := c.InvitePeer(cmd.Context(), peeringID, ttl)
			if err != nil {
				return err
			}
			text := inv.Token
			if out != "" {
				if err := node.WriteFile(out, []byte(inv.Token+"\n"), 0o600); err != nil {
					return fmt.Errorf("the invitation %s was made, but could not be written: %w", inv.Peering.ID, err)
				}
				text = "in " + out
				if c.answer.Body, err = without(c.answer.Body, "token"); err != nil {
					return err
				}
			}
			err = a.told(c, func(t *table) {
				t.row("invitation", text)
				t.row("peering", inv.Peering.ID)
				t.row("expires", inv.ExpiresAt)
				t.row("our fingerprint", inv.Peering.Fingerprints.Ours)
			})
			a.say("the other organisation runs: agentos peering accept --token-file FILE --expect-fingerprint %s", inv.Peering.Fingerprints.Ours)
			a.say("then say what it may do here: agentos peering exports %s --tenant THEIRS=OURS", inv.Peering.ID)
			return err
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it is good for, at most 720h")
	cmd.Flags().StringVar(&peeringID, "id", "", "name of the peering, on both sides; made up when left out")
	cmd.Flags().StringVar(&out, "out", "", "write the invitation to this file (mode 0600) instead of printing it")
	return cmd
}

// without is an answer less one of its members.
func without(raw json.RawMessage, member string) (json.RawMessage, error) {
	var body map[string]json.RawMessage
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, err
	}
	delete(body, member)
	return json.Marshal(body)
}

func (a *app) peeringAcceptCommand() *cobra.Command {
	var file, fingerprint string
	cmd := &cobra.Command{
		Use:   "accept [INVITATION]",
		Short: "Accept another organisation's invitation",
		Long: `Accept another organisation's invitation, given as an argument, by --token-file, or on standard input for "-". The node
that is asked calls at the inviter's federation door and believes it by the fingerprint in the invitation. Both
fingerprints are shown: compare them with the other side by another way, or have --expect-fingerprint do it first.`,
		Example: "  agentos peering accept --token-file invitation\n  agentos peering accept - --expect-fingerprint 3f9a… < invitation",
		Args:    atMost(1, "one invitation"),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := a.invitation(cmd, file, args)
			if err != nil {
				return err
			}
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			p, err := c.AcceptPeer(cmd.Context(), token, fingerprint)
			if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == fault.Forbidden && f.Details["scope"] == nil {
				return &codedError{code: exitForbidden, err: err, hint: "ask who sent the invitation for a new one, and compare the fingerprints by another way"}
			}
			if err != nil {
				return err
			}
			if fingerprint == "" {
				a.say("not compared yet: ask the other side whether %s is its own fingerprint; if not, agentos peering revoke %s --yes-really", p.Fingerprints.Theirs, p.ID)
			}
			a.say("then say what it may do here: agentos peering exports %s --tenant THEIRS=OURS", p.ID)
			return a.told(c, func(t *table) { peeringRows(t, p) })
		},
	}
	cmd.Flags().StringVar(&file, "token-file", "", "file that holds the invitation; - for standard input")
	cmd.Flags().StringVar(&fingerprint, "expect-fingerprint", "", "accept only if this is the fingerprint of the inviter's CA; colons and case do not count")
	return cmd
}

// invitation takes an invitation's text from where it was given.
func (a *app) invitation(cmd *cobra.Command, file string, args []string) (string, error) {
	if (len(args) == 1) == (file != "") {
		return "", usage("%s needs an invitation: as an argument, or by --token-file", cmd.CommandPath())
	}
	var text string
	if len(args) == 1 {
		var err error
		if text, err = a.readText(args[0]); err != nil {
			return "", err
		}
	} else {
		raw, err := a.readBounded(file)
		if err != nil {
			return "", fmt.Errorf("invitation: %w", err)
		}
		text = string(raw)
	}
	if text = strings.TrimSpace(text); text == "" {
		return "", usage("%s: the invitation is empty", cmd.CommandPath())
	}
	return text, nil
}

// peeringRows prints one peering.
func peeringRows(t *table, p *client.Peering) {
	t.row("peering", p.ID)
	t.row("state", p.State)
	t.row("organisation", p.Organization)
	t.row("trust domain", p.TrustDomain)
	t.row("cluster", p.ClusterID)
	t.row("their fingerprint", p.Fingerprints.Theirs)
	t.row("our fingerprint", p.Fingerprints.Ours)
	t.row("their doors", p.Addresses)
	t.row("made", p.CreatedAt)
	if p.InvitationExpiresAt != nil {
		t.row("invitation expires", p.InvitationExpiresAt)
	}
	grantRows(t, "they may", p.Exports)
	grantRows(t, "we may", p.Imports)
}

func grantRows(t *table, who string, grants []client.Grant) {
	if len(grants) == 0 {
		t.row(who, "nothing")
	}
	for i := range grants {
		t.row(who, grantText(&grants[i]))
	}
}

// grantText says a grant in a line.
func grantText(g *client.Grant) string {
	parts := []string{fmt.Sprintf("their %s is our %s:", g.TenantID, g.LocalTenantID), strings.Join(g.Scopes, ",")}
	if len(g.Scopes) == 0 {
		parts[1] = "nothing"
	}
	if g.Agents != nil {
		parts = append(parts, "agents="+strings.Join(g.Agents, ","))
	}
	if g.Quotas != nil && g.Quotas.MaxConcurrentRuns != nil {
		parts = append(parts, fmt.Sprintf("max-runs=%d", *g.Quotas.MaxConcurrentRuns))
	}
	if g.MaxDataClassification != "" {
		parts = append(parts, "max-class="+g.MaxDataClassification)
	}
	return strings.Join(parts, " ")
}

func (a *app) peeringListCommand() *cobra.Command {
	var p page
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List peerings and open invitations",
		Example: "  agentos peering list",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listing[client.Peering]{
				role: rolePlatformAdmin, plural: "peerings", from: (*client.Client).Peerings,
				row: func(t *table, v client.Peering) {
					t.row(v.ID, v.State, v.Organization, v.TrustDomain, len(v.Exports), len(v.Imports), v.CreatedAt)
				},
				heads: []string{"peering", "state", "organisation", "trust domain", "exports", "imports", "made"},
			}.show(cmd.Context(), a, p)
		},
	}
	p.flags(cmd)
	return cmd
}

// askPeering makes one call and prints the peering it answers with.
func (a *app) askPeering(ask func(*client.Client) (*client.Peering, error)) error {
	c, err := a.dial(rolePlatformAdmin)
	if err != nil {
		return err
	}
	defer c.close()
	p, err := ask(c.Client)
	if err != nil {
		return err
	}
	return a.told(c, func(t *table) { peeringRows(t, p) })
}

func (a *app) peeringShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show PEERING",
		Short:   "Show one peering: fingerprints, and what each may do",
		Example: "  agentos peering show prg_01J...",
		Args:    exactly(1, "one peering id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.askPeering(func(c *client.Client) (*client.Peering, error) { return c.GetPeering(cmd.Context(), args[0]) })
		},
	}
}

func (a *app) peeringRevokeCommand() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use:   "revoke PEERING --yes-really",
		Short: "End a peering for good, or withdraw an invitation",
		Long: `End a peering for good: its open connections are cut within 5 s at every node, and nothing goes either way any more.
The record stays. To work with that organisation again, both sides revoke what they have of the old peering and pair anew.`,
		Example: "  agentos peering revoke prg_01J... --yes-really",
		Args:    exactly(1, "one peering id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !sure {
				return usage("revoking %s can't be undone; say --yes-really, or suspend it", args[0])
			}
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			if err := c.RevokePeering(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.done("revoked", args[0])
		},
	}
	cmd.Flags().BoolVar(&sure, "yes-really", false, "do it")
	return cmd
}
