package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/tenancy"
)

// NameKeys names a list of secret keys without telling them: equal lists have equal names.
func NameKeys(keys [][]byte) string {
	h := sha256.New()
	for _, k := range keys {
		sum := sha256.Sum256(k)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// OpenGossipKeys opens the pool's keys in the cluster's record.
func OpenGossipKeys(seal *trust.SealKey, c registry.Cluster) ([][]byte, error) {
	var keys [][]byte
	for _, sealed := range c.GossipKeys {
		key, err := seal.Open(SealedGossip, sealed)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// RotateGossip gives the pool a new key without a word lost: all members first learn the new key beside the old one, then
// all encrypt with it, and then the old one is dropped. Between the steps it waits until every member that answers has
// taken the last; who is away learns the keys from the log when it's back. A rotation that broke off is taken up where it
// stands. It returns when no member that answers has the old key.
func (m *Membership) RotateGossip(ctx context.Context, by tenancy.Actor) error {
	if m.o.Seal == nil {
		return fault.New(fault.Unavailable, "This node has no seal key, so it can't seal a new gossip key: ask another node.").With("service", "ca")
	}
	record := m.o.Roster.Cluster()
	keys, err := OpenGossipKeys(m.o.Seal, record)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fault.New(fault.Unavailable, "This node does not hold the cluster's record yet; ask again in a moment.").With("service", "cluster").After(time.Second)
	}
	steps := [][][]byte{}
	if len(keys) == 1 {
		fresh := make([]byte, 32)
		_, _ = rand.Read(fresh) // crypto/rand never fails
		steps = append(steps, [][]byte{keys[0], fresh})
		keys = [][]byte{keys[0], fresh}
	}
	steps = append(steps, [][]byte{keys[1], keys[0]}, [][]byte{keys[1]})
	for _, step := range steps {
		if record, err = m.setGossip(ctx, by, record, step); err != nil {
			return err
		}
		if err := m.awaitKeys(ctx, NameKeys(step)); err != nil {
			return err
		}
	}
	return nil
}

// setGossip writes the next keys, sealed; what was sealed before is kept as it is.
func (m *Membership) setGossip(ctx context.Context, by tenancy.Actor, record registry.Cluster, keys [][]byte) (registry.Cluster, error) {
	before, err := OpenGossipKeys(m.o.Seal, record)
	if err != nil {
		return record, err
	}
	var sealed [][]byte
	for _, k := range keys {
		if i := slices.IndexFunc(before, func(b []byte) bool { return bytes.Equal(b, k) }); i >= 0 {
			sealed = append(sealed, record.GossipKeys[i])
			continue
		}
		s, err := m.o.Seal.Seal(SealedGossip, k)
		if err != nil {
			return record, err
		}
		sealed = append(sealed, s)
	}
	next, _, err := m.o.Commands.SetGossip.Do(ctx, m.o.Store, "", registry.GossipKeys{Keys: sealed, Instead: record.GossipKeys, By: registry.ByActor(by)})
	return next, err
}

// awaitKeys waits until every member that answers has the keys of that name.
func (m *Membership) awaitKeys(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		all := m.o.Standing().GossipKeys == name
		for _, other := range m.o.Roster.Members() {
			if other.State == registry.Removed || other.StackID == m.o.Self().StackID {
				continue
			}
			if st, err := m.Probe(ctx, other); err == nil && st.GossipKeys != name {
				all = false
			}
		}
		if all {
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "Not every member has taken the new gossip keys; ask again to go on from there.").With("service", "gossip").Because(ctx.Err())
		case <-tick.C:
		}
	}
}
