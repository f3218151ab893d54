package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

// page are the flags of a command that lists.
type page struct {
	limit int
	all   bool
}

func (p *page) flags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&p.limit, "limit", 50, "how many to show, 1 to 500")
	cmd.Flags().BoolVar(&p.all, "all", false, "show all, page by page")
}

// set adds a query parameter that is not empty.
func set(q url.Values, name, v string) {
	if v != "" {
		q.Set(name, v)
	}
}

// list asks for a list and prints it: as one table, or as one JSON object with all that was asked for.
func (a *app) list(ctx context.Context, p page, role, path, plural string, q url.Values, row func(*table, json.RawMessage) error, heads ...string) error {
	if p.limit < 1 || p.limit > 500 {
		return usage("--limit is %d, which is not between 1 and 500", p.limit)
	}
	c, err := a.dial(role)
	if err != nil {
		return err
	}
	defer c.close()
	items, next, err := collect(ctx, c, p, path, plural, q)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.json(map[string]any{plural: items, "next_cursor": next})
	}
	t := newTable(a.out, heads...)
	for _, item := range items {
		if err := row(t, item); err != nil {
			return fmt.Errorf("the node's answer can't be read: %w", err)
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	if next != nil {
		a.say("there is more; --all shows it")
	}
	return nil
}

// collect asks for one page, or for all of them.
func collect(ctx context.Context, c *conn, p page, path, plural string, q url.Values) (items []json.RawMessage, next *string, err error) {
	items = []json.RawMessage{}
	q.Set("limit", strconv.Itoa(p.limit))
	if p.all {
		q.Set("limit", "500")
	}
	for {
		raw, err := c.raw(ctx, http.MethodGet, path+"?"+q.Encode(), nil)
		if err != nil {
			return nil, nil, err
		}
		var body map[string]json.RawMessage
		if err := json.Unmarshal(raw, &body); err != nil {
			return nil, nil, err
		}
		var some []json.RawMessage
		if err := json.Unmarshal(body[plural], &some); err != nil {
			return nil, nil, fmt.Errorf("the node's answer holds no list of %s: %w", plural, err)
		}
		items, next = append(items, some...), nil
		if cursor := body["next_cursor"]; len(cursor) > 0 {
			if err := json.Unmarshal(cursor, &next); err != nil {
				return nil, nil, err
			}
		}
		if next == nil || !p.all {
			return items, next, nil
		}
		q.Set("cursor", *next)
	}
}
