package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"

	"github.com/nexixai/agentos/internal/fault"
)

// Bounds of a page.
const (
	DefaultLimit = 50
	MaxLimit     = 500
	// stride is how many All asks for at a time: few enough that a page of large things fits into an answer.
	stride = 200
)

// List is a list that a node keeps. Asking for it asks nothing yet.
type List[T any] struct {
	c            *Client
	path, plural string
	query        url.Values
	err          error // the list can't be asked for
}

// Page is one page of a list.
type Page[T any] struct {
	Items []T
	// Raw holds the same items as they came.
	Raw []json.RawMessage
	// Next is the cursor of the page that follows, "" at the end.
	Next string

	answer *Answer
}

// Beside decodes a member that stands beside the items.
func (p *Page[T]) Beside(name string, v any) error { return p.answer.member(name, v) }

// Page asks for one page: the first for the cursor "". limit is 1 to MaxLimit; 0 means DefaultLimit. A page may be shorter
// although there are more.
func (l *List[T]) Page(ctx context.Context, cursor string, limit int) (*Page[T], error) {
	if l.err != nil {
		return nil, l.err
	}
	if limit < 0 || limit > MaxLimit {
		return nil, fault.Invalid("limit", "limit is a whole number from 1 to %d.", MaxLimit)
	}
	query := maps.Clone(l.query)
	if query == nil {
		query = url.Values{}
	}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	a, err := l.c.Do(ctx, Request{Method: http.MethodGet, Path: l.path, Query: query})
	if err != nil {
		return nil, err
	}
	p := &Page[T]{answer: a}
	if err := p.decode(l.plural); err != nil {
		return nil, fmt.Errorf("GET %s: %w", l.path, err)
	}
	return p, nil
}

func (p *Page[T]) decode(plural string) error {
	if err := p.answer.member(plural, &p.Raw); err != nil {
		return err
	}
	p.Items = make([]T, len(p.Raw))
	for i, raw := range p.Raw {
		if err := json.Unmarshal(raw, &p.Items[i]); err != nil {
			return fmt.Errorf("item %d of the %s can't be read: %w", i+1, plural, err)
		}
	}
	var beside struct {
		Next *string `json:"next_cursor"`
	}
	if err := json.Unmarshal(p.answer.Body, &beside); err != nil {
		return fmt.Errorf("the cursor can't be read: %w", err)
	}
	if beside.Next != nil {
		p.Next = *beside.Next
	}
	return nil
}

// Pages goes through the list page by page. It ends with an error, if there is one.
func (l *List[T]) Pages(ctx context.Context) iter.Seq2[*Page[T], error] {
	return func(yield func(*Page[T], error) bool) {
		for cursor := ""; ; {
			p, err := l.Page(ctx, cursor, stride)
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(p, nil) || p.Next == "" {
				return
			}
			if p.Next == cursor {
				yield(nil, fmt.Errorf("GET %s: the list leads back to where it was", l.path))
				return
			}
			cursor = p.Next
		}
	}
}

// All goes through the whole list. It ends with an error, if there is one.
func (l *List[T]) All(ctx context.Context) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for p, err := range l.Pages(ctx) {
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range p.Items {
				if !yield(item, nil) {
					return
				}
			}
		}
	}
}
