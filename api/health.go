package api

import (
	"context"
	"net/http"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

// readyTimeout bounds how long one dependency may take to answer.
const readyTimeout = 3 * time.Second

// healthz says that the process serves.
func (c *call) healthz() error {
	return c.reply(http.StatusOK, member{"status", "ok"}, member{"version", c.s.o.About.Version})
}

// readyz says whether this node can take work, naming each dependency.
func (c *call) readyz() error {
	ctx, cancel := context.WithTimeout(c.ctx(), readyTimeout)
	defer cancel()
	deps := map[string]string{}
	status, word := http.StatusOK, "ready"
	if c.s.o.Dependencies != nil {
		for name, err := range c.s.o.Dependencies(ctx) {
			if deps[name] = "ok"; err == nil {
				continue
			}
			why := fault.Of(err)
			deps[name], status = why.Message, http.StatusServiceUnavailable
			if drained, _ := why.Details["drained"].(bool); drained && word == "ready" {
				word = "drained" // and nothing else is wrong
			} else {
				word = "not_ready"
			}
		}
	}
	if c.s.draining.Load() {
		deps["node"] = "This node is stopping."
		status, word = http.StatusServiceUnavailable, "draining"
	}
	return c.reply(status, member{"status", word}, member{"dependencies", deps})
}

func health(service string) func(*call) error {
	return func(c *call) error {
		return c.reply(http.StatusOK, member{"status", "ok"}, member{"service", service}, member{"version", c.s.o.About.Version})
	}
}
