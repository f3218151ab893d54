package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/nexixai/agentos/peer/gossip"
	"github.com/nexixai/agentos/peer/registry"
)

// Description is the cluster as one node sees it; contract, "Admin", Cluster.
type Description struct {
	ClusterID  string `json:"cluster_id"`
	StoreEpoch string `json:"store_epoch"`
	// StoreVersion is the version of the store's layouts and commands that is in use.
	StoreVersion int `json:"store_version"`
	// Leader is a stack id, or nil while there is none.
	Leader       *string             `json:"leader"`
	Term         uint64              `json:"term"`
	AppliedIndex uint64              `json:"applied_index"`
	Version      string              `json:"version"`
	CanSign      bool                `json:"can_sign"`
	Members      []MemberDescription `json:"members"`
	Warnings     []string            `json:"warnings"`
}

// MemberDescription is one member of it.
type MemberDescription struct {
	StackID string `json:"stack_id"`
	// Role is voter or nonvoter; "joining" until the leader has let the member into the log.
	Role   string `json:"role"`
	Status string `json:"status"` // alive, suspect, dead or left
	State  string `json:"state"`  // active or draining
	Region string `json:"region"`
	APIURL string `json:"api_url"`
	// ClusterAddr is where the others dial it.
	ClusterAddr string `json:"cluster_addr"`
	Version     string `json:"version"`
	// StoreVersion is the highest version of the store that its binary can do, as it has announced.
	StoreVersion int `json:"store_version"`
	// LastContactMS is how long ago this node last heard of it, in milliseconds; nil for never.
	LastContactMS *int64 `json:"last_contact_ms"`
	AppliedIndex  uint64 `json:"applied_index"`
	// Lag is how many entries it is behind this node.
	Lag  uint64 `json:"lag"`
	Hash uint64 `json:"hash,string"`
}

// askAll bounds how long Describe waits for members that don't answer.
const askAll = time.Second

// Describe asks everybody how they are, for at most a second: who does not answer in time is told by what is known. It
// works without a leader.
func (m *Membership) Describe(ctx context.Context) *Description {
	ctx, cancel := context.WithTimeout(ctx, askAll)
	defer cancel()
	own, c := m.o.Standing(), m.o.Roster.Cluster()
	d := &Description{
		ClusterID: c.ID, StoreEpoch: c.StoreEpoch, StoreVersion: m.o.Roster.StoreVersion(), Term: own.Term, AppliedIndex: own.Applied, Version: own.Version,
		CanSign: m.o.Seal != nil, Members: []MemberDescription{}, Warnings: []string{},
	}
	if own.Leader != "" {
		leader := StackOf(own.Leader)
		d.Leader = &leader
	}
	roles := make(map[string]string)
	voters := 0
	for _, s := range m.o.Log.Configuration() {
		if roles[s.ID] = "nonvoter"; s.Voter {
			roles[s.ID] = "voter"
			voters++
		}
	}
	rumours := make(map[string]gossip.Member)
	for _, r := range m.o.Rumours() {
		rumours[r.Name] = r
	}
	var wg sync.WaitGroup
	var members []*MemberDescription
	for _, row := range m.o.Roster.Members() {
		if row.State == registry.Removed {
			continue
		}
		out := &MemberDescription{
			StackID: row.StackID, Role: roles[row.ServerID], State: string(row.State), Region: row.Region, APIURL: row.APIURL,
			ClusterAddr: row.ClusterAddr, Version: row.Version, StoreVersion: max(row.StoreVersion, 1),
		}
		if out.Role == "" {
			out.Role = "joining"
		}
		members = append(members, out)
		wg.Go(func() { m.look(ctx, out, row, rumours[row.StackID], own) })
	}
	wg.Wait()
	for _, out := range members {
		d.Members = append(d.Members, *out)
	}
	d.warn(voters)
	return d
}

// look fills in how one member is.
func (m *Membership) look(ctx context.Context, out *MemberDescription, row registry.Member, rumour gossip.Member, own Standing) {
	st := &own
	if row.StackID != own.StackID {
		var err error
		if st, err = m.Probe(ctx, row); err != nil {
			st = nil
		}
	}
	now := time.Now()
	if st != nil {
		zero := int64(0)
		out.Status, out.Version, out.AppliedIndex, out.Hash, out.LastContactMS = "alive", st.Version, st.Applied, st.Hash, &zero
		if own.Applied > st.Applied {
			out.Lag = own.Applied - st.Applied
		}
		return
	}
	switch rumour.State {
	case gossip.Left:
		out.Status = "left"
	case gossip.Alive:
		out.Status = "suspect"
	default:
		out.Status = "dead"
	}
	m.mu.Lock()
	at, ok := m.heard[row.StackID]
	m.mu.Unlock()
	if ok {
		ms := now.Sub(at).Milliseconds()
		out.LastContactMS = &ms
	}
}

// warn says what an operator should know.
func (d *Description) warn(voters int) {
	alive := 0
	for _, m := range d.Members {
		if m.Role == "voter" && m.Status == "alive" {
			alive++
		}
	}
	switch {
	case d.Leader == nil:
		d.Warnings = append(d.Warnings, "There is no leader: nothing can be written until more than half of the voters are back. If they are lost for good, one that is left can go on: agentos cluster recover.")
	case voters > 1 && alive <= voters/2+1 && alive < voters:
		d.Warnings = append(d.Warnings, "One more voter lost, and nothing can be written: bring the dead ones back, or remove them and let others join.")
	case voters == 2:
		d.Warnings = append(d.Warnings, "Two voters survive no failure: "+d.third())
	}
	if !d.CanSign {
		d.Warnings = append(d.Warnings, "This node has no seal key: it can't sign certificates for nodes that join or renew.")
	}
}

// third says where the third voter may come from.
func (d *Description) third() string {
	var drained string
	for _, m := range d.Members {
		switch {
		case m.State == string(registry.Draining):
			drained = m.StackID
		case m.Role != "voter" && m.Status == "alive":
			return m.StackID + " becomes the third by itself, once it has caught up."
		case m.Role != "voter":
			return m.StackID + " becomes the third by itself, once it answers and has caught up."
		}
	}
	if drained != "" {
		return drained + " is drained, and gets its vote back with: agentos cluster drain " + drained + " --undo"
	}
	return "let a third node join."
}
