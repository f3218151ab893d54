package registry

import (
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
)

// HeardKeys are the keys of what was last heard of each peer. They belong to no tenant.
const HeardKeys = "peers/heard/"

const (
	// MaxHeard bounds what is kept of one peer, in bytes of JSON.
	MaxHeard = 256 << 10
	// maxHeardNodes bounds the nodes that are kept of one peering.
	maxHeardNodes = 64
)

// Heard is what a node of another organisation last said of itself, and what was made of it. It's kept so that every node
// of the cluster knows it, also one that has just started.
type Heard struct {
	PeeringID    string                `json:"peering_id"`
	StackID      string                `json:"stack_id"`
	Address      string                `json:"address"`
	Info         Info                  `json:"info"`
	Capabilities Capabilities          `json:"capabilities"`
	Agreement    negotiation.Agreement `json:"agreement"`
	HeardAt      time.Time             `json:"heard_at"`
}

// Same reports whether h says what other says, whenever that was.
func (h *Heard) Same(other *Heard) bool {
	a, b := *h, *other
	a.HeardAt, b.HeardAt = time.Time{}, time.Time{}
	return reflect.DeepEqual(a, b)
}

// HeardCommands are the changes of what was heard.
type HeardCommands struct {
	Hear storage.Call[Heard, bool]
}

// DefineHeard adds the commands to reg.
func DefineHeard(reg *storage.Registry) *HeardCommands {
	return &HeardCommands{Hear: storage.Define(reg, "peer.heard", hear)}
}

// hear keeps what a peer said, and takes over from it what the peering says of the other side: what we may do there, and at
// which doors it's to be found. The answer is whether anything changed.
func hear(tx storage.Tx, h Heard) (changed bool, err error) {
	p, err := GetPeering(tx, h.PeeringID)
	if err != nil {
		return false, err
	}
	switch {
	case p.State != PeeringActive:
		return false, fault.New(fault.Conflict, "The peering %s is %s.", p.ID, p.State)
	case h.Info.TrustDomain != p.TrustDomain || h.Info.ClusterID != p.ClusterID:
		return false, fault.Invalid("cluster_id", "%s is not of the cluster that the peering %s is with.", h.StackID, p.ID)
	case !id.Valid(h.StackID) || h.Info.StackID != h.StackID:
		return false, fault.Invalid("stack_id", "A stack id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	}
	raw, err := json.Marshal(h)
	if err != nil || len(raw) > MaxHeard {
		return false, fault.Invalid("capabilities", "What is kept of a peer has at most %d bytes.", MaxHeard)
	}
	of := HeardKeys + p.ID + "/"
	old, err := list[Heard](tx, of)
	if err != nil {
		return false, err
	}
	at := slices.IndexFunc(old, func(o Heard) bool { return o.StackID == h.StackID })
	if at < 0 || !old[at].Same(&h) {
		if at < 0 && len(old) >= maxHeardNodes {
			last := slices.MinFunc(old, func(a, b Heard) int { return a.HeardAt.Compare(b.HeardAt) })
			tx.Delete(of + last.StackID)
		}
		h.HeardAt, changed = tx.Now(), true
		if err := put(tx, of+h.StackID, h); err != nil {
			return false, err
		}
	}
	by := By{Principal: "spiffe://" + p.TrustDomain + "/node/" + h.StackID}
	if imports := Turned(h.Capabilities.Grants); h.Capabilities.Grants != nil && !reflect.DeepEqual(imports, p.Imports) {
		if _, err := setImports(tx, PeeringChange{PeeringID: p.ID, Grants: imports, By: by}); err != nil {
			return false, err
		}
		changed = true
	}
	// Doors that the peer tells are taken over once it was heard at one of them: what an invitation names may be the only way.
	if doors := h.Capabilities.Members; slices.Contains(doors, h.Address) && trust.ValidAddresses(doors) == nil && !slices.Equal(doors, p.Addresses) {
		if _, err := setAddresses(tx, PeeringChange{PeeringID: p.ID, Addresses: doors, By: by}); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

// ListHeard lists what was heard, ordered by peering and node.
func ListHeard(r storage.Reader) ([]Heard, error) {
	all, err := list[Heard](r, HeardKeys)
	slices.SortFunc(all, func(a, b Heard) int {
		return cmp.Or(cmp.Compare(a.PeeringID, b.PeeringID), cmp.Compare(a.StackID, b.StackID))
	})
	return all, err
}
