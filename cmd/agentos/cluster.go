package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node"
)

func (a *app) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cluster",
		Short:   "Look at a cluster and change who belongs to it",
		Long:    `Look at a cluster and change who belongs to it. Any node of the cluster may be asked.`,
		Example: "  agentos cluster status\n  agentos cluster token create\n  agentos cluster remove stk_old --yes-really",
	}
	token := &cobra.Command{
		Use:     "token",
		Short:   "Make tokens that let nodes join",
		Example: "  agentos cluster token create --uses 2",
	}
	token.AddCommand(a.clusterTokenCreateCommand())
	cmd.AddCommand(a.clusterStatusCommand(), a.clusterMembersCommand(), token, a.clusterTransferCommand(), a.clusterDrainCommand(), a.clusterRemoveCommand(), a.clusterRotateCommand(), a.clusterRecoverCommand())
	return cmd
}

func (a *app) clusterStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say who leads, who votes, and how far everybody is",
		Long: `Say who leads, who votes, and how far everybody is, by the word of the node that is asked. It works without a
leader. The exit code is 7 while there is none.`,
		Example: "  agentos cluster status\n  agentos cluster status --api-url http://127.0.0.1:8430 --output json",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.showCluster(cmd.Context(), func(c *client.Cluster) {
				leader := "none"
				if c.Leader != nil {
					leader = *c.Leader
				}
				t := newTable(a.out)
				t.row("cluster", c.ID)
				t.row("store version", c.StoreVersion)
				t.row("leader", leader)
				t.row("term", c.Term)
				t.row("applied", c.AppliedIndex)
				t.row("can sign certificates", c.CanSign)
				_ = t.flush()
				fmt.Fprintln(a.out)
				a.members(c)
			})
		},
	}
}

func (a *app) clusterMembersCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "members",
		Short:   "List the members",
		Example: "  agentos cluster members",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.showCluster(cmd.Context(), a.members)
		},
	}
}

// members prints one line a member.
func (a *app) members(c *client.Cluster) {
	t := newTable(a.out, "stack", "role", "status", "state", "region", "applied", "lag", "last contact", "version", "store", "cluster", "api")
	for _, m := range c.Members {
		contact := "never"
		if m.LastContactMS != nil {
			contact = (time.Duration(*m.LastContactMS) * time.Millisecond).String()
		}
		name := m.StackID
		if c.Leader != nil && *c.Leader == m.StackID {
			name += " (leader)"
		}
		var applied, lag any // not known of who does not answer
		if m.Status == "alive" {
			applied, lag = m.AppliedIndex, m.Lag
		}
		t.row(name, m.Role, m.Status, m.State, m.Region, applied, lag, contact, m.Version, m.StoreVersion, m.ClusterAddr, m.APIURL)
	}
	_ = t.flush()
}

func (a *app) showCluster(ctx context.Context, table func(*client.Cluster)) error {
	c, err := a.dial(rolePlatformAdmin)
	if err != nil {
		return err
	}
	defer c.close()
	cluster, err := c.Cluster(ctx)
	if err != nil {
		return err
	}
	if a.output == "json" {
		err = a.json(c.body())
	} else {
		table(cluster)
	}
	for _, w := range cluster.Warnings {
		a.say("warning: %s", w)
	}
	if err == nil && cluster.Leader == nil {
		err = &codedError{code: exitUnreachable, err: errNoLeader, hint: "reads go on; writes wait until more than half of the voters are back"}
	}
	return err
}

func (a *app) clusterTokenCreateCommand() *cobra.Command {
	var ttl time.Duration
	var uses int
	var out string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a join token",
		Long: `Make a token that lets a node join this cluster. It pins the fingerprint of the cluster's CA, so that the new node
can't be led astray, and is shown once: hand it on as you would a password.`,
		Example: "  agentos cluster token create\n  agentos cluster token create --ttl 24h --uses 5 --out join.token",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if uses < 1 {
				return usage("--uses is %d, which is not 1 or more", uses)
			}
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			tok, err := c.CreateJoinToken(cmd.Context(), ttl, uses)
			if err != nil {
				return err
			}
			shown := tok.Token
			if out != "" {
				if err := node.WriteFile(out, []byte(tok.Token+"\n"), 0o600); err != nil {
					return fmt.Errorf("the token %s was made, but could not be written: %w", tok.ID, err)
				}
				shown = "in " + out
			}
			if a.output == "json" {
				tok.Token = shown
				return a.json(tok)
			}
			t := newTable(a.out)
			t.row("token", shown)
			t.row("token id", tok.ID)
			t.row("expires", tok.ExpiresAt)
			t.row("uses", tok.Uses)
			t.row("CA fingerprint", tok.CAFingerprint)
			for _, addr := range tok.Addresses {
				t.row("join through", addr)
			}
			return t.flush()
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is good for, at most 720h")
	cmd.Flags().IntVar(&uses, "uses", 1, "how many nodes it lets in")
	cmd.Flags().StringVar(&out, "out", "", "write the token to this file (mode 0600) instead of printing it")
	return cmd
}

// changePatience is how long a command waits to see its change of the members done.
const changePatience = 60 * time.Second

// await looks at the cluster until done says yes.
func await(ctx context.Context, c *conn, what string, done func(*client.Cluster) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, changePatience, fmt.Errorf("%s is asked for, and was not seen within %v", what, changePatience))
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := c.Cluster(ctx)
		if err == nil && done(now) {
			return nil
		}
		if _, away := errors.AsType[*url.Error](err); away && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// awaitState waits until the node that is asked knows of a member's new state.
func awaitState(ctx context.Context, c *conn, stackID, state string) error {
	return await(ctx, c, stackID+" being "+state, func(now *client.Cluster) bool {
		m := find(now, stackID)
		return m != nil && m.State == state
	})
}

func find(c *client.Cluster, stackID string) *client.Member {
	i := slices.IndexFunc(c.Members, func(m client.Member) bool { return m.StackID == stackID })
	if i < 0 {
		return nil
	}
	return &c.Members[i]
}

func (a *app) clusterTransferCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "transfer [STACK_ID]",
		Short:   "Hand the leader's office to another voter",
		Long:    `Hand the leader's office to the voter STACK_ID, or to the one that is furthest along, and wait until it leads.`,
		Example: "  agentos cluster transfer\n  agentos cluster transfer stk_acme_node_02",
		Args:    atMost(1, "one node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			before, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			to := ""
			if len(args) == 1 {
				to = args[0]
			}
			if to != "" && before.Leader != nil && *before.Leader == to {
				return a.done("leads already", to)
			}
			if _, err := c.TransferLeader(cmd.Context(), to); err != nil {
				return err
			}
			leader := ""
			err = await(cmd.Context(), c, "another leader", func(now *client.Cluster) bool {
				if now.Leader == nil || now.Term <= before.Term {
					return false
				}
				leader = *now.Leader
				return to == "" || leader == to
			})
			if err != nil {
				return err
			}
			return a.done("leads now", leader)
		},
	}
}

func (a *app) clusterRotateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-gossip-key",
		Short: "Give the members' gossip a new key, without a pause",
		Long: `Give the members' gossip a new key: all learn it, then all use it, then all forget the old one. Who is away learns it
when it is back. A rotation that broke off is taken up where it stands.`,
		Example: "  agentos cluster rotate-gossip-key",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			now, err := c.RotateGossipKey(cmd.Context())
			if err != nil {
				return err
			}
			return a.done("rotated the gossip key of", now.ID)
		},
	}
}

func (a *app) clusterDrainCommand() *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:   "drain STACK_ID",
		Short: "Take no new runs to a node, or take it back",
		Long: `Take no new runs to a node: its readiness turns off, the runs it works on go on, and it gives up its vote and the
leader's office when others can take them. --undo takes the node back.`,
		Example: "  agentos cluster drain stk_acme_node_03\n  agentos cluster drain stk_acme_node_03 --undo",
		Args:    exactly(1, "one node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			if undo {
				if err := c.UndrainMember(cmd.Context(), args[0]); err != nil {
					return err
				}
				if err := awaitState(cmd.Context(), c, args[0], "active"); err != nil {
					return err
				}
				return a.done("takes runs again", args[0])
			}
			if err := c.DrainMember(cmd.Context(), args[0]); err != nil {
				return err
			}
			if err := awaitState(cmd.Context(), c, args[0], "draining"); err != nil {
				return err
			}
			if now, err := c.Cluster(cmd.Context()); err == nil && !slices.ContainsFunc(now.Members, takesRuns) {
				a.say("warning: no node of the cluster takes new runs now; %s --undo %s takes this one back", cmd.CommandPath(), args[0])
			}
			return a.done("draining", args[0])
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "take the node back")
	return cmd
}

func takesRuns(m client.Member) bool { return m.State == "active" && m.Status == "alive" }

func (a *app) clusterRemoveCommand() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use:   "remove STACK_ID --yes-really",
		Short: "Take a node out of the cluster for good",
		Long: `Take a node out of the cluster for good, whether it answers or not, and wait until it has left the log. Its
certificate opens no door any more, its runs go on elsewhere, and its process, if it lives, ends. The machine can join
anew, with an empty data directory and a token.`,
		Example: "  agentos cluster remove stk_acme_node_03 --yes-really",
		Args:    exactly(1, "one node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !sure {
				return usage("removing %s can't be undone; say --yes-really", args[0])
			}
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			if err := c.RemoveMember(cmd.Context(), args[0]); err != nil {
				return err
			}
			err = await(cmd.Context(), c, "the removal of "+args[0], func(now *client.Cluster) bool {
				return now.Leader != nil && find(now, args[0]) == nil && *now.Leader != args[0]
			})
			if err != nil {
				if _, away := errors.AsType[*url.Error](err); !away {
					return err
				}
				a.say("the node that was asked does not answer any more; another says how the cluster is")
			}
			return a.done("removed", args[0])
		},
	}
	cmd.Flags().BoolVar(&sure, "yes-really", false, "do it")
	return cmd
}
