package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

// page are the flags of a command that lists.
type page struct {
	limit  int
	all    bool
	cursor string
}

func (p *page) flags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&p.limit, "limit", client.DefaultLimit, "how many to show, 1 to 500")
	cmd.Flags().BoolVar(&p.all, "all", false, "show all, page by page")
	cmd.Flags().StringVar(&p.cursor, "cursor", "", "go on where an earlier list of the same kind ended, as its next_cursor says")
}

// listing is a command that lists.
type listing[T any] struct {
	role   string
	plural string // as the contract calls them
	from   func(*client.Client) *client.List[T]
	row    func(*table, T)
	heads  []string
}

// show asks for a list and prints it: as one table, or as one JSON object with all that was asked for.
func (l listing[T]) show(ctx context.Context, a *app, p page) error {
	items, next, err := l.ask(ctx, a, p)
	if err != nil {
		return err
	}
	if a.output == "json" {
		raw := make([]json.RawMessage, len(items))
		for i, item := range items {
			raw[i] = item.raw
		}
		body := map[string]any{l.plural: raw, "next_cursor": nil}
		if next != "" {
			body["next_cursor"] = next
		}
		return a.json(body)
	}
	t := newTable(a.out, l.heads...)
	for _, item := range items {
		l.row(t, item.value)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if next != "" {
		a.say("there is more; --all shows it")
	}
	return nil
}

// ask collects what is to be shown. next is where to go on, "" at the end.
func (l listing[T]) ask(ctx context.Context, a *app, p page) (items []item[T], next string, err error) {
	if p.limit < 1 || p.limit > client.MaxLimit {
		return nil, "", usage("--limit is %d, which is not between 1 and %d", p.limit, client.MaxLimit)
	}
	if p.all && p.cursor != "" {
		return nil, "", usage("--all begins at the beginning, and --cursor does not; give one of them")
	}
	c, err := a.dial(l.role)
	if err != nil {
		return nil, "", err
	}
	defer c.close()
	return collect(ctx, l.from(c.Client), p)
}

// item is one thing of a list, and how it came.
type item[T any] struct {
	value T
	raw   json.RawMessage
}

func collect[T any](ctx context.Context, l *client.List[T], p page) (items []item[T], next string, err error) {
	add := func(page *client.Page[T]) {
		for i := range page.Items {
			items = append(items, item[T]{page.Items[i], page.Raw[i]})
		}
	}
	if p.all {
		for page, err := range l.Pages(ctx) {
			if err != nil {
				return nil, "", err
			}
			add(page)
		}
		return items, "", nil
	}
	page, err := l.Page(ctx, p.cursor, p.limit)
	if err != nil {
		return nil, "", err
	}
	add(page)
	return items, page.Next, nil
}
