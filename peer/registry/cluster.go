package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
)

// Keys of the cluster's own tables. They belong to no tenant.
const (
	allKeys    = "cluster/"
	clusterKey = "cluster/record"
	memberKeys = "cluster/members/"
	tokenKeys  = "cluster/join-tokens/"
	officeKey  = "cluster/office"
	versionKey = "cluster/version"
)

// Cluster is what all nodes of a cluster share beside its data.
type Cluster struct {
	ID           string `json:"cluster_id"`
	Organization string `json:"organization"`
	TrustDomain  string `json:"trust_domain"`
	// StoreEpoch changes when a cluster is restored from a backup, so that others see that history was rewound.
	StoreEpoch string    `json:"store_epoch"`
	CreatedAt  time.Time `json:"created_at"`
	// CA is the organisation's CA certificate in PEM; CAKey its key, sealed with the key that lies outside the store.
	CA    []byte `json:"ca"`
	CAKey []byte `json:"ca_key_sealed"`
	// GossipKeys are the pool's keys, sealed alike; the first encrypts.
	GossipKeys [][]byte `json:"gossip_keys_sealed"`
}

// MemberState is where a node stands in its cluster.
type MemberState string

const (
	// Active members take part.
	Active MemberState = "active"
	// Draining members take no new runs and are about to leave.
	Draining MemberState = "draining"
	// Removed members are out for good: their certificates open no door.
	Removed MemberState = "removed"
)

// Member is one node of the cluster.
type Member struct {
	StackID string `json:"stack_id"`
	// ServerID is the node's name in the log's configuration: the stack id and the incarnation of its data directory. A
	// node that lost its directory comes back as another server, never as a voter who forgot its vote.
	ServerID string `json:"server_id"`
	// PublicKey is the SHA-256 of the node's own public key, in hex. Only a certificate for this key stands for the member,
	// so that the machine it replaced is shut out.
	PublicKey string      `json:"public_key"`
	State     MemberState `json:"state"`
	Region    string      `json:"region"`
	Version   string      `json:"version"`
	// StoreVersion is the highest version of the store that the node's binary can do; see StoreVersion, the constant. A
	// binary from before there was one says nothing, and is held for one that can do the first.
	StoreVersion  int       `json:"store_version,omitempty"`
	ClusterAddr   string    `json:"cluster_addr"`
	GossipAddr    string    `json:"gossip_addr"`
	APIURL        string    `json:"api_url"`
	FederationURL string    `json:"federation_url"`
	JoinedAt      time.Time `json:"joined_at"`
	UpdatedAt     time.Time `json:"updated_at"`
}

// JoinToken is what is kept of a token that lets nodes in. The token itself is never kept.
type JoinToken struct {
	ID        string    `json:"token_id"`
	Hash      string    `json:"hash"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// UsesLeft counts down; 0 means used up.
	UsesLeft int `json:"uses_left"`
	// UsedBy holds the public keys (SHA-256, hex) of the nodes that used it: the same node may ask again when the answer
	// was lost.
	UsedBy []string `json:"used_by,omitempty"`
	By     By       `json:"by"`
}

// Join is a new node's wish, proven by a token.
type Join struct {
	TokenID string `json:"token_id"`
	// TokenHash is the hash of the secret that was shown.
	TokenHash string `json:"token_hash"`
	// PublicKey is the SHA-256 of the node's own public key, in hex.
	PublicKey string `json:"public_key"`
	// Replaces is the server id that the new node takes the place of, under the same stack id: who admits has seen that
	// it is gone. Without it a token can't push a member out.
	Replaces string `json:"replaces,omitempty"`
	Member   Member `json:"member"`
	By       By     `json:"by"`
}

// Commands are this room's changes of the store.
type Commands struct {
	Init        storage.Call[Cluster, Cluster]
	Found       storage.Call[Member, Member]
	Reset       storage.Call[Reset, Cluster]
	Note        storage.Call[Act, bool]
	SetGossip   storage.Call[GossipKeys, Cluster]
	Join        storage.Call[Join, Cluster]
	Update      storage.Call[Member, Member]
	SetState    storage.Call[StateChange, Changed]
	PutToken    storage.Call[NewToken, JoinToken]
	DeleteToken storage.Call[string, bool]
	Wish        storage.Call[Wish, Wish]
	Raise       storage.Call[By, int]
}

// Wish asks whoever leads to hand the office on. The leader takes the wish away before it acts.
type Wish struct {
	ID string `json:"id"`
	// To is the stack id of the wished-for leader; "" leaves the choice to the log.
	To    string `json:"to"`
	By    By     `json:"by"`
	Asked Asked  `json:"asked"`
}

// NewToken is a token to be kept.
type NewToken struct {
	JoinToken
	Asked Asked `json:"asked"`
}

// StateChange drains or removes a member.
type StateChange struct {
	ID      string      `json:"id"`
	StackID string      `json:"stack_id"`
	State   MemberState `json:"state"`
	By      By          `json:"by"`
	Asked   Asked       `json:"asked"`
}

// Changed is the answer to a StateChange: the member as it is now, and the change that was done, which is another one than
// was asked for when the same request had been done before.
type Changed struct {
	ID     string `json:"id"`
	Member Member `json:"member"`
}

// Define adds the room's commands to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{
		Init:        storage.Define(reg, "cluster.init", initCluster),
		Found:       storage.Define(reg, "cluster.found", found),
		Reset:       storage.Define(reg, "cluster.reset", reset),
		Note:        storage.Define(reg, "cluster.note", note),
		SetGossip:   storage.Define(reg, "cluster.gossip", setGossip),
		Join:        storage.Define(reg, "cluster.join", join),
		Update:      storage.Define(reg, "cluster.member.update", update),
		SetState:    storage.Define(reg, "cluster.member.state", setState),
		PutToken:    storage.Define(reg, "cluster.token.put", putToken),
		DeleteToken: storage.Define(reg, "cluster.token.delete", deleteToken),
		Wish:        storage.Define(reg, "cluster.wish", wish),
		Raise:       storage.Define(reg, "cluster.version.raise", raise),
	}
}

// initCluster writes the cluster's record once; asked again, it answers with what is there.
func initCluster(tx storage.Tx, c Cluster) (Cluster, error) {
	if old, err := GetCluster(tx); err == nil || !fault.Is(err, fault.NotFound) {
		return old, err
	}
	c.CreatedAt = tx.Now()
	return c, put(tx, clusterKey, c)
}

// found is the first member of a new cluster: it needs no token, and is there once.
func found(tx storage.Tx, m Member) (Member, error) {
	if old, err := GetMember(tx, m.StackID); err == nil || !fault.Is(err, fault.NotFound) {
		return old, err
	}
	if err := m.validate(); err != nil {
		return Member{}, err
	}
	m.State, m.JoinedAt, m.UpdatedAt = Active, tx.Now(), tx.Now()
	return m, put(tx, memberKeys+m.StackID, m)
}

// Reset is what a node knows of its cluster after it was made anew around it: out of a backup, or out of what was left of
// it when more than half of its voters were lost.
type Reset struct {
	ClusterID  string `json:"cluster_id"`
	StoreEpoch string `json:"store_epoch"`
	// Self is the one member that is left.
	Self Member `json:"self"`
	By   By     `json:"by"`
	// Why stands in the audit: "restore" or "recover".
	Why string `json:"why"`
}

// reset writes the cluster's new identity, and removes every member but one: they hold another history, and must not come
// back with it.
func reset(tx storage.Tx, r Reset) (Cluster, error) {
	c, err := GetCluster(tx)
	if err != nil {
		return Cluster{}, err
	}
	if c.StoreEpoch == r.StoreEpoch { // asked again
		return c, nil
	}
	members, err := Members(tx)
	if err != nil {
		return Cluster{}, err
	}
	for _, m := range members {
		if m.StackID == r.Self.StackID || m.State == Removed {
			continue
		}
		m.State, m.UpdatedAt = Removed, tx.Now()
		if err := put(tx, memberKeys+m.StackID, m); err != nil {
			return Cluster{}, err
		}
	}
	self := r.Self
	if err := self.validate(); err != nil {
		return Cluster{}, err
	}
	if err := admits(tx, &self); err != nil {
		return Cluster{}, err
	}
	self.State, self.JoinedAt, self.UpdatedAt = Active, tx.Now(), tx.Now()
	if err := put(tx, memberKeys+self.StackID, self); err != nil {
		return Cluster{}, err
	}
	c.ID, c.StoreEpoch = r.ClusterID, r.StoreEpoch
	if err := put(tx, clusterKey, c); err != nil {
		return Cluster{}, err
	}
	return c, r.By.audit(tx, "cluster."+r.Why, "cluster/"+c.ID, map[string]any{"store_epoch": c.StoreEpoch, "stack_id": self.StackID})
}

// GossipKeys are the pool's next keys, sealed; the first encrypts.
type GossipKeys struct {
	Keys [][]byte `json:"keys"`
	// Instead are those that they take the place of: two rotations at once don't mix.
	Instead [][]byte `json:"instead"`
	By      By       `json:"by"`
}

func setGossip(tx storage.Tx, g GossipKeys) (Cluster, error) {
	c, err := GetCluster(tx)
	if err != nil {
		return Cluster{}, err
	}
	same := func(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }
	switch {
	case same(c.GossipKeys, g.Keys): // asked again
		return c, nil
	case !same(c.GossipKeys, g.Instead):
		return Cluster{}, fault.New(fault.Conflict, "The gossip keys are being rotated by somebody else; try again when that is done.")
	}
	c.GossipKeys = g.Keys
	if err := put(tx, clusterKey, c); err != nil {
		return Cluster{}, err
	}
	return c, g.By.audit(tx, "cluster.gossip_keys", "cluster/"+c.ID, map[string]any{"keys": len(g.Keys)})
}

// Act is something that was done to the cluster and leaves no other trace in it.
type Act struct {
	Action string `json:"action"`
	By     By     `json:"by"`
}

func note(tx storage.Tx, a Act) (bool, error) {
	return true, a.By.audit(tx, a.Action, "cluster", nil)
}

func join(tx storage.Tx, j Join) (Cluster, error) {
	refused := fault.New(fault.Unauthorized, "The join token is unknown, expired or used up: make a new one with 'agentos cluster token create'.")
	var tok JoinToken
	if ok, err := get(tx, tokenKeys+j.TokenID, &tok); err != nil {
		return Cluster{}, err
	} else if !ok || tok.Hash != j.TokenHash || !tx.Now().Before(tok.ExpiresAt) {
		return Cluster{}, refused
	}
	again := false
	for _, k := range tok.UsedBy {
		again = again || k == j.PublicKey
	}
	if !again {
		if tok.UsesLeft <= 0 {
			return Cluster{}, refused
		}
		tok.UsesLeft--
		tok.UsedBy = append(tok.UsedBy, j.PublicKey)
		if err := put(tx, tokenKeys+tok.ID, tok); err != nil {
			return Cluster{}, err
		}
	}
	m := j.Member
	if err := m.validate(); err != nil {
		return Cluster{}, err
	}
	if err := admits(tx, &m); err != nil {
		return Cluster{}, err
	}
	m.PublicKey, m.State, m.JoinedAt, m.UpdatedAt = j.PublicKey, Active, tx.Now(), tx.Now()
	old, err := GetMember(tx, m.StackID)
	switch {
	case fault.Is(err, fault.NotFound):
	case err != nil:
		return Cluster{}, err
	case again && old.ServerID == m.ServerID:
		m.JoinedAt = old.JoinedAt
	case old.State != Removed && old.ServerID != j.Replaces:
		return Cluster{}, fault.New(fault.Conflict, "Node %s is a member already: join under another stack id, or remove it first with 'agentos cluster remove %s'.", m.StackID, m.StackID)
	}
	if m == old {
		return GetCluster(tx)
	}
	if err := put(tx, memberKeys+m.StackID, m); err != nil {
		return Cluster{}, err
	}
	if err := j.By.audit(tx, "cluster.join", "member/"+m.StackID, map[string]any{"server_id": m.ServerID, "token_id": j.TokenID, "replaces": j.Replaces}); err != nil {
		return Cluster{}, err
	}
	return GetCluster(tx)
}

func (m *Member) validate() error {
	switch {
	case !id.Valid(m.StackID):
		return fault.Invalid("stack_id", "A stack id is 1 to 128 of [A-Za-z0-9._-].")
	case !id.Valid(m.ServerID):
		return fault.Invalid("server_id", "A server id is 1 to 128 of [A-Za-z0-9._-].")
	case m.ClusterAddr == "" || len(m.ClusterAddr) > 512:
		return fault.Invalid("cluster_addr", "A member says at which host:port its cluster door is.")
	}
	return nil
}

// update takes what a member says of itself: addresses, region, versions. Its state stays, and so does its server id: a
// new one needs a token.
func update(tx storage.Tx, m Member) (Member, error) {
	old, err := GetMember(tx, m.StackID)
	if err != nil {
		return Member{}, err
	}
	if err := m.validate(); err != nil {
		return Member{}, err
	}
	if old.ServerID != m.ServerID || old.State == Removed {
		return Member{}, fault.New(fault.Forbidden, "Node %s is no longer a member under this identity; join again with a token.", m.StackID)
	}
	if err := admits(tx, &m); err != nil {
		return Member{}, err
	}
	m.State, m.JoinedAt, m.PublicKey = old.State, old.JoinedAt, old.PublicKey
	if m.UpdatedAt = old.UpdatedAt; m == old {
		return old, nil
	}
	m.UpdatedAt = tx.Now()
	return m, put(tx, memberKeys+m.StackID, m)
}

func setState(tx storage.Tx, c StateChange) (done Changed, err error) {
	done.ID, err = c.Asked.once(tx, c.ID, func() error { return c.do(tx) })
	if err == nil {
		done.Member, err = GetMember(tx, c.StackID)
	}
	return done, err
}

func (c *StateChange) do(tx storage.Tx) error {
	m, err := GetMember(tx, c.StackID)
	if err != nil {
		return err
	}
	switch c.State {
	case Active, Draining:
		if m.State == Removed {
			return fault.New(fault.Conflict, "Node %s was removed; it can only join anew, with a token.", c.StackID)
		}
	case Removed:
	default:
		return fault.Invalid("state", "A member is active, draining or removed.")
	}
	if m.State == c.State {
		return nil
	}
	m.State, m.UpdatedAt = c.State, tx.Now()
	if err := put(tx, memberKeys+m.StackID, m); err != nil {
		return err
	}
	return c.By.audit(tx, "cluster.member."+string(c.State), "member/"+m.StackID, nil)
}

func putToken(tx storage.Tx, n NewToken) (done JoinToken, err error) {
	done.ID, err = n.Asked.once(tx, n.ID, func() error { return n.JoinToken.put(tx) })
	if err == nil {
		_, err = get(tx, tokenKeys+done.ID, &done)
	}
	return done, err
}

func (t JoinToken) put(tx storage.Tx) error {
	if t.UsesLeft < 1 || t.UsesLeft > 1000 {
		return fault.Invalid("uses", "A join token serves 1 to 1000 nodes.")
	}
	if !t.ExpiresAt.After(tx.Now()) {
		return fault.Invalid("expires_at", "The join token would already have expired.")
	}
	t.CreatedAt = tx.Now()
	if err := put(tx, tokenKeys+t.ID, t); err != nil {
		return err
	}
	return t.By.audit(tx, "cluster.token.create", "join-token/"+t.ID, map[string]any{"uses": t.UsesLeft, "expires_at": t.ExpiresAt.UTC().Format(time.RFC3339)})
}

func deleteToken(tx storage.Tx, tokenID string) (bool, error) {
	old, err := tx.Get(tokenKeys + tokenID)
	if err != nil || old == nil {
		return false, err
	}
	tx.Delete(tokenKeys + tokenID)
	return true, nil
}

// wish leaves w for the leader; an empty one takes away what was left.
func wish(tx storage.Tx, w Wish) (_ Wish, err error) {
	if w == (Wish{}) {
		tx.Delete(officeKey)
		return w, nil
	}
	done := w
	done.ID, err = w.Asked.once(tx, w.ID, func() error { return w.leave(tx) })
	return done, err
}

func (w Wish) leave(tx storage.Tx) error {
	if w.To != "" {
		if m, err := GetMember(tx, w.To); err != nil {
			return err
		} else if m.State != Active {
			return fault.New(fault.Conflict, "Node %s is %s and can't lead.", w.To, m.State)
		}
	}
	w.Asked = Asked{}
	if err := put(tx, officeKey, w); err != nil {
		return err
	}
	return w.By.audit(tx, "cluster.transfer", "cluster", map[string]any{"to": w.To})
}

// GetWish reads the wish that waits for the leader; ok is false when there is none.
func GetWish(r storage.Reader) (w Wish, ok bool, err error) {
	ok, err = get(r, officeKey, &w)
	return w, ok, err
}

// GetCluster reads the cluster's record.
func GetCluster(r storage.Reader) (Cluster, error) {
	var c Cluster
	ok, err := get(r, clusterKey, &c)
	if err == nil && !ok {
		err = fault.New(fault.NotFound, "This store holds no cluster yet.")
	}
	return c, err
}

// GetMember reads one member.
func GetMember(r storage.Reader, stackID string) (Member, error) {
	var m Member
	ok, err := get(r, memberKeys+stackID, &m)
	if err == nil && !ok {
		err = fault.New(fault.NotFound, "The cluster has no member %q.", stackID)
	}
	return m, err
}

// Members lists all members, removed ones too, ordered by stack id.
func Members(r storage.Reader) ([]Member, error) { return list[Member](r, memberKeys) }

// Tokens lists all join tokens, ordered by id.
func Tokens(r storage.Reader) ([]JoinToken, error) { return list[JoinToken](r, tokenKeys) }

func list[T any](r storage.Reader, prefix string) ([]T, error) {
	var out []T
	var bad error
	err := r.Scan(storage.Prefix(prefix), func(key string, value []byte) bool {
		var v T
		if bad = json.Unmarshal(value, &v); bad != nil {
			bad = fmt.Errorf("registry: %s: %w", key, bad)
			return false
		}
		out = append(out, v)
		return true
	})
	if err == nil {
		err = bad
	}
	return out, err
}

func get(r storage.Reader, key string, into any) (bool, error) {
	b, err := r.Get(key)
	if err != nil || b == nil {
		return false, err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return false, fmt.Errorf("registry: %s: %w", key, err)
	}
	return true, nil
}

func put(tx storage.Tx, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("registry: %s: %w", key, err)
	}
	tx.Set(key, b)
	return nil
}
