package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) peersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Look at other organisations' nodes and what was agreed with them",
		Long: `Look at the nodes that are known: those of paired organisations, and those of the cluster itself. All of it is by the word
of the node that is asked, from its memory; ping alone asks the peer.`,
		Example: "  agentos peers list\n  agentos peers show stk_globex_node_01\n  agentos peers compare stk_globex_node_01 stk_initech_node_01",
	}
	cmd.AddCommand(a.peersListCommand(), a.peersShowCommand(), a.peersCompareCommand(), a.peersPingCommand())
	return cmd
}

func (a *app) peersListCommand() *cobra.Command {
	var p page
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List who is known, and who doesn't answer",
		Example: "  agentos peers list\n  agentos peers list --output json",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.limit < 1 || p.limit > client.MaxLimit {
				return usage("--limit is %d, which is not between 1 and %d", p.limit, client.MaxLimit)
			}
			if p.all && p.cursor != "" {
				return usage("--all begins at the beginning, and --cursor does not; give one of them")
			}
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			var peers []client.KnownPeer
			away, raw := []client.AwayPeer{}, []json.RawMessage{}
			next := p.cursor
			for {
				one, err := c.Peers().Page(cmd.Context(), next, p.limit)
				if err != nil {
					return err
				}
				if err := one.Beside("unreachable", &away); err != nil {
					return err
				}
				peers, raw, next = append(peers, one.Items...), append(raw, one.Raw...), one.Next
				if !p.all || next == "" {
					break
				}
			}
			if a.output == "json" {
				body := map[string]any{"peers": raw, "unreachable": away, "next_cursor": nil}
				if next != "" {
					body["next_cursor"] = next
				}
				return a.json(body)
			}
			t := newTable(a.out, "stack", "organisation", "region", "source", "state", "reachable", "usable", "free", "heard", "address")
			for i := range peers {
				k := &peers[i]
				t.row(k.StackID, k.Organization, k.Region, k.Source, k.State, k.Reachable, usable(k), k.FreeSlots, age(k), k.Address)
			}
			if err := t.flush(); err != nil {
				return err
			}
			for _, w := range away {
				a.say("unreachable: %s of %s at TCP %s: %s", cell(w.StackID), plain(w.Organization), plain(w.Address), plain(w.Reason))
			}
			if next != "" {
				a.say("there is more; --all shows it")
			}
			return nil
		},
	}
	p.flags(cmd)
	return cmd
}

func usable(p *client.KnownPeer) string {
	switch {
	case p.Agreement == nil:
		return "unknown"
	case p.Agreement.Usable:
		return "yes"
	}
	return "no"
}

// age is how old what is known of a peer is.
func age(p *client.KnownPeer) string {
	switch {
	case p.Source == "member":
		return "-"
	case p.LastExchangeAt == nil:
		return "never"
	}
	return time.Since(*p.LastExchangeAt).Round(100*time.Millisecond).String() + " ago"
}

func (a *app) peersShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show STACK_ID",
		Short: "Show a peer's capabilities, the agreement, and the reason for each no",
		Long: `Show what a peer says that it can do, what was agreed with it, how old that is, and for each thing that is not to be had,
why. The exit code is 0 whatever it shows.`,
		Example: "  agentos peers show stk_globex_node_01\n  agentos peers show stk_globex_node_01 --output json",
		Args:    exactly(1, "one peer"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			p, err := c.GetPeer(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(c.body())
			}
			t := newTable(a.out)
			for _, f := range facts(p) {
				t.row(f.name, f.value)
			}
			if err := t.flush(); err != nil {
				return err
			}
			return a.showMissing(p)
		},
	}
}

// showMissing prints what is not to be had of a peer.
func (a *app) showMissing(p *client.KnownPeer) error {
	if p.Agreement == nil || len(p.Agreement.Missing) == 0 {
		return nil
	}
	fmt.Fprintln(a.out)
	t := newTable(a.out, "missing", "why")
	for _, m := range p.Agreement.Missing {
		t.row(m.Name, m.Reason)
	}
	return t.flush()
}

// fact is one line about a peer.
type fact struct{ name, value string }

// facts are all that is known of a peer, in one order for all.
func facts(p *client.KnownPeer) []fact {
	list := []fact{
		{"stack", p.StackID},
		{"organisation", p.Organization},
		{"trust domain", p.TrustDomain},
		{"cluster", p.ClusterID},
		{"region", p.Region},
		{"environment", p.Environment},
		{"version", p.Build.Version},
		{"federation door", p.Address},
		{"source", p.Source},
		{"state", p.State},
		{"peering", p.PeeringID},
		{"reachable", yes(p.Reachable, p.Reason)},
		{"ready", yes(p.Ready, "")},
		{"free slots", strconv.Itoa(p.FreeSlots)},
		{"last heard", age(p)},
	}
	if ag := p.Agreement; ag != nil {
		list = append(list, fact{"usable", usable(p)}, fact{"agreed contract", ag.Contract}, fact{"agreed features", set(ag.Features)})
	}
	c := p.Capabilities
	if c == nil {
		return list
	}
	list = append(list, fact{"speaks contract", c.Contract.Min + " to " + c.Contract.Max})
	for _, name := range slices.Sorted(maps.Keys(c.Supports)) {
		list = append(list, fact{"supports " + name, yes(c.Supports[name], "")})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Limits)) {
		list = append(list, fact{"limit " + name, strconv.FormatInt(c.Limits[name], 10)})
	}
	list = append(list, fact{"model tiers", set(c.Models.Tiers)}, fact{"model backends", set(c.Models.Backends)})
	var agents, tools []string
	for _, ag := range c.Agents {
		agents = append(agents, strings.TrimSuffix(ag.ID+" "+ag.Version, " "))
	}
	for _, t := range c.Tools {
		tools = append(tools, t.ID)
	}
	list = append(list, fact{"agents", set(agents)}, fact{"tools", set(tools)})
	for _, g := range c.Grants {
		list = append(list, fact{"grants " + g.TenantID, set(g.Scopes) + " as " + g.LocalTenantID})
	}
	return append(list, fact{"digest", c.Digest})
}

// set is a set of names, which two peers may tell in any order.
func set(names []string) string { return strings.Join(slices.Sorted(slices.Values(names)), ", ") }

func yes(is bool, why string) string {
	switch {
	case is:
		return "yes"
	case why != "":
		return "no: " + why
	}
	return "no"
}

func (a *app) peersCompareCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "compare STACK_ID STACK_ID",
		Short:   "Show two peers side by side, with a mark where they differ",
		Example: "  agentos peers compare stk_globex_node_01 stk_initech_node_01",
		Args:    exactly(2, "two peers"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			var both [2]*client.KnownPeer
			for i, stackID := range args {
				if both[i], err = c.GetPeer(cmd.Context(), stackID); err != nil {
					return err
				}
			}
			rows := sideBySide(both)
			if a.output == "json" {
				differ := []string{}
				for _, r := range rows {
					if r.left != r.right {
						differ = append(differ, r.name)
					}
				}
				return a.json(map[string]any{"peers": both, "differences": differ})
			}
			t := newTable(a.out, "", "", "first", "second")
			for _, r := range rows {
				r.print(t)
			}
			return t.flush()
		},
	}
}

// pairOf is one line about two peers.
type pairOf struct{ name, left, right string }

// print prints the line as one row, or as several when a value is long.
func (p pairOf) print(t *table) {
	const most = 36 // so that two of them fit on a screen
	left, right := folded(p.left, most), folded(p.right, most)
	mark := "same"
	if p.left != p.right {
		mark = "differs"
	}
	for i := range max(len(left), len(right)) {
		cells := []any{" ", " ", " ", " "} // of a row that goes on with the one before
		if i == 0 {
			cells[0], cells[1] = p.name, mark
		}
		for at, parts := range [][]string{left, right} {
			if i < len(parts) {
				cells[at+2] = parts[i]
			}
		}
		t.row(cells...)
	}
}

// folded breaks a value at its spaces, and where it has none, into parts that are at most so long.
func folded(s string, most int) []string {
	parts := []string{""}
	for word := range strings.FieldsSeq(s) {
		last := &parts[len(parts)-1]
		if *last != "" && len([]rune(*last))+1+len([]rune(word)) <= most {
			*last += " " + word
			continue
		}
		for runes := []rune(word); len(runes) > 0; {
			part := string(runes[:min(len(runes), most)])
			runes = runes[min(len(runes), most):]
			if last := &parts[len(parts)-1]; *last == "" {
				*last = part
			} else {
				parts = append(parts, part)
			}
		}
	}
	return parts
}

// sideBySide joins the facts of two peers, and what each lacks.
func sideBySide(both [2]*client.KnownPeer) []pairOf {
	var order []string
	values := [2]map[string]string{{}, {}}
	for i, p := range both {
		list := facts(p)
		if p.Agreement != nil {
			for _, m := range p.Agreement.Missing {
				list = append(list, fact{"missing " + m.Name, m.Reason})
			}
		}
		for _, f := range list {
			if !slices.Contains(order, f.name) {
				order = append(order, f.name)
			}
			values[i][f.name] = f.value
		}
	}
	rows := make([]pairOf, len(order))
	for i, name := range order {
		rows[i] = pairOf{name, values[0][name], values[1][name]}
	}
	return rows
}

func (a *app) peersPingCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ping STACK_ID",
		Short: "Have the node ask a peer now, and say how long it took",
		Long: `Have the node ask a peer who it is, over the connection that runs would take, and say how long that took. When the peer
doesn't answer, the error names address and reason.`,
		Example: "  agentos peers ping stk_globex_node_01",
		Args:    exactly(1, "one peer"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			pong, err := c.PingPeer(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(c.body())
			}
			fmt.Fprintf(a.out, "%s of %s answered at TCP %s in %.2f ms (ready: %s, free slots: %d)\n",
				plain(pong.StackID), plain(pong.Organization), plain(pong.Address), pong.TookMS, yes(pong.Ready, ""), pong.FreeSlots)
			return nil
		},
	}
}
