package cluster

import (
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage/replica"
)

// Plan decides the next change for a view given in plain terms: kind, server and address; kind "" means none.
func Plan(self string, members []registry.Member, servers []replica.Server, stable, dead map[string]bool) (kind, server, address string) {
	v := &view{self: self, members: members, servers: servers, health: make(map[string]health)}
	for _, s := range servers {
		h := health{well: stable[s.ID] || s.ID == self, stable: stable[s.ID] || s.ID == self, dead: dead[s.ID]}
		v.health[s.ID] = h
	}
	c := v.plan()
	return string(c.kind), c.server, c.address
}

// Kinds of changes, for tests.
const (
	ChangeAdd      = string(changeAdd)
	ChangeVote     = string(changeVote)
	ChangeDemote   = string(changeDemote)
	ChangeRemove   = string(changeRemove)
	ChangeStepDown = string(changeStepDown)
)

// Warn adds the warnings of a cluster with so many voters.
func (d *Description) Warn(voters int) { d.warn(voters) }
