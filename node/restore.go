package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// renewalName is the file that says what the cluster's record is to become at the next start.
const renewalName = "renewal.json"

// renewal is a cluster that was made anew around this node.
type renewal struct {
	ClusterID  string `json:"cluster_id"`
	StoreEpoch string `json:"store_epoch"`
	Why        string `json:"why"` // restore or recover
}

// renewed writes a renewal into the store, once this node leads what is left.
func (n *Node) renewed(ctx context.Context) error {
	raw, err := os.ReadFile(n.dir.trust(renewalName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var r renewal
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return fmt.Errorf("trust: %s: %w", n.dir.trust(renewalName), err)
	}
	self := n.self()
	if self.PublicKey, err = cluster.KeyHash(&n.near.proof.key.PublicKey); err != nil {
		return err
	}
	by := registry.By{Principal: "operator/" + n.dir.id.StackID, CorrelationID: id.New(id.Correlation)}
	args := registry.Reset{ClusterID: r.ClusterID, StoreEpoch: r.StoreEpoch, Self: self, By: by, Why: r.Why}
	if _, _, err := n.w.commands.members.Reset.Do(ctx, n.w.store, "", args); err != nil {
		return fmt.Errorf("cluster record: %w", err)
	}
	n.log.Info("the cluster was made anew around this node", zap.String("why", r.Why), zap.String("cluster_id", r.ClusterID), zap.String("store_epoch", r.StoreEpoch))
	return os.Remove(n.dir.trust(renewalName))
}

// plan writes a renewal down.
func (d *dataDir) plan(r renewal) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return WriteFile(d.trust(renewalName), append(raw, '\n'), 0o600)
}

// Recover makes the node in o.DataDir the one member of its cluster, for a cluster that has lost more than half of its
// voters for good. The node must not run. What only the lost nodes had acknowledged is lost with them; they must not be
// started again, and join anew with empty data directories.
func Recover(o Options) (stackID string, err error) {
	o = o.withDefaults()
	if !HoldsNode(o.DataDir) {
		return "", &FieldError{"data-dir", o.DataDir + " holds no node", "give the directory of the node that is to go on"}
	}
	d, err := openDataDir(Options{DataDir: o.DataDir})
	if err != nil {
		return "", err
	}
	defer d.close()
	ro := replica.Options{Dir: d.store(), ServerID: d.id.ServerID, ClusterID: d.id.ClusterID, Registry: define().registry}
	if err := peek(ro, func(s storage.Snapshot) error { return readable(s, d.id.StackID, o.StoreVersion) }); err != nil {
		return "", err
	}
	if err := d.plan(renewal{ClusterID: d.id.ClusterID, StoreEpoch: id.New(""), Why: "recover"}); err != nil {
		return "", err
	}
	return d.id.StackID, replica.Recover(ro)
}

// ErrBackup says that a backup can't be restored.
var ErrBackup = replica.ErrBackup

// Restore makes a node in o.DataDir, which must be empty, out of a backup: the first of a new cluster with the old one's
// organisation, CA, tenants, keys and runs, under a new cluster id and store epoch. It needs the old cluster's seal key.
// The directory becomes a node's when all is there: of a failure nothing is left, and what a crash left can't be started,
// and is made anew by the next try.
func Restore(o Options, backup io.Reader) (clusterID string, index uint64, err error) {
	o.Init = true
	o = o.withDefaults()
	n := &Node{o: o, log: zap.NewNop()}
	if n.o.SealKeyFile == "" && n.o.SealKeyCommand == "" {
		return "", 0, &FieldError{"seal-key-file", "is needed: what is sealed in the backup opens with the seal key of its cluster alone", "it lies outside the backup; in demo, in trust/seal.key of a node's data directory"}
	}
	seal, err := n.sealKey()
	if err != nil {
		return "", 0, err
	}
	s, err := stage(n.o)
	if err != nil {
		return "", 0, err
	}
	n.dir = s.dataDir
	if index, err = n.restore(seal, backup); err == nil {
		err = s.finish()
	}
	if err = errors.Join(err, s.close(err != nil)); err != nil {
		return "", 0, err
	}
	return n.dir.id.ClusterID, index, nil
}

// restore makes all that the node needs in its directory.
func (n *Node) restore(seal *trust.SealKey, backup io.Reader) (index uint64, err error) {
	ro := replica.Options{Dir: n.dir.store(), ServerID: n.dir.id.ServerID, ClusterID: n.dir.id.ClusterID, Registry: define().registry}
	if index, err = replica.Restore(ro, backup); err != nil {
		return 0, err
	}
	var record registry.Cluster
	err = peek(ro, func(s storage.Snapshot) error {
		if err := readable(s, n.dir.id.StackID, n.o.StoreVersion); err != nil {
			return err
		}
		record, err = registry.GetCluster(s)
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := n.proveAgain(record, seal); err != nil {
		return 0, err
	}
	n.dir.id.Stored, n.dir.id.Seeded = true, true
	n.dir.id.Organization, n.dir.id.TrustDomain = record.Organization, record.TrustDomain
	return index, n.dir.plan(renewal{ClusterID: n.dir.id.ClusterID, StoreEpoch: n.dir.id.StoreEpoch, Why: "restore"})
}

// peek looks into a store that is not started.
func peek(o replica.Options, look func(storage.Snapshot) error) error {
	store, err := replica.Open(o)
	if err != nil {
		return err
	}
	err = store.View(context.Background(), storage.Read{Consistency: storage.Stale}, look)
	return errors.Join(err, store.Close())
}

// proveAgain makes the files that the node proves itself with, signed by the CA of the restored cluster.
func (n *Node) proveAgain(record registry.Cluster, seal *trust.SealKey) error {
	if err := os.MkdirAll(n.dir.trust(""), 0o700); err != nil {
		return err
	}
	caKey, err := seal.Open(cluster.SealedCA, record.CAKey)
	if err != nil {
		return err
	}
	authority, err := trust.OpenAuthority(record.CA, caKey)
	if err != nil {
		return err
	}
	var gossipKeys [][]byte
	for _, sealed := range record.GossipKeys {
		key, err := seal.Open(cluster.SealedGossip, sealed)
		if err != nil {
			return err
		}
		gossipKeys = append(gossipKeys, key)
	}
	key, err := n.nodeKey()
	if err != nil {
		return err
	}
	who := trust.ID{TrustDomain: authority.TrustDomain(), Role: trust.Node, Name: n.dir.id.StackID}
	cert, err := authority.Sign(trust.Request{ID: who, Public: key.Public(), Hosts: n.hosts(), Life: n.o.CertificateLife}, time.Now())
	if err != nil {
		return err
	}
	if n.o.Mode != Prod { // so that the node starts by itself; in prod the key is given at each start
		if err := n.writeKeys(sealName, seal[:]); err != nil {
			return err
		}
	}
	return n.writeProof(cert, record.CA, gossipKeys)
}
