package node

import (
	"context"
	"net/http"

	"github.com/nexixai/agentos/peer/forward"
	"github.com/nexixai/agentos/peer/link"
)

// wire carries calls to other organisations over the kept links.
type wire struct{ links *link.Links }

var _ forward.Wire = wire{}

// Do implements forward.Wire.
func (w wire) Do(ctx context.Context, c forward.Call) (*http.Response, error) {
	r := link.Request{Method: c.Method, Path: c.Path, Header: c.Header, Body: c.Body, For: &c.Claims}
	if c.Header.Get("Accept") == "text/event-stream" {
		r.MaxAnswer = -1
	}
	return w.links.Do(ctx, link.Target{PeeringID: c.PeeringID, Address: c.Address, StackID: c.StackID}, r)
}

// Unsent implements forward.Wire.
func (wire) Unsent(err error) bool { return link.Unsent(err) }
