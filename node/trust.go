package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
)

// Names within the trust folder of a data directory. The certificate is written last: where it is, the rest is.
const (
	trustName    = "trust"
	nodeKeyName  = "node.key"
	nodeCertName = "node.crt"
	// CAName is the organisation's CA certificate, relative to the data directory.
	CAName       = trustName + "/ca.crt"
	caName       = "ca.crt"
	gossipName   = "gossip.key"
	sealName     = "seal.key"
	foundingName = "founding.json"
)

// identityProof is what the node proves itself with, and what it keeps secret with.
type identityProof struct {
	creds *trust.Credentials
	key   *ecdsa.PrivateKey
	// seal opens the cluster's secrets; nil: this node can't.
	seal   *trust.SealKey
	gossip [][]byte
	// founding is the cluster's record until the store holds it; nil afterwards.
	founding *registry.Cluster
}

func (d *dataDir) trust(name string) string { return filepath.Join(d.path, trustName, name) }

// prove reads what the node proves itself with, or makes it: as the first of a cluster, or by joining one.
func (n *Node) prove(ctx context.Context, door net.Addr) (*identityProof, error) {
	if err := os.MkdirAll(filepath.Join(n.dir.path, trustName), 0o700); err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	seal, err := n.sealKey()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(n.dir.trust(nodeCertName)); errors.Is(err, os.ErrNotExist) {
		key, err := n.nodeKey()
		if err != nil {
			return nil, err
		}
		if n.dir.id.Joined {
			err = n.join(ctx, key, door)
		} else {
			err = n.found(key, seal)
		}
		if err != nil {
			return nil, err
		}
		if seal, err = n.sealKey(); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	return n.readProof(seal)
}

// readProof reads the files of the trust folder.
func (n *Node) readProof(seal *trust.SealKey) (*identityProof, error) {
	files := make(map[string][]byte)
	for _, name := range []string{nodeKeyName, nodeCertName, caName, gossipName} {
		raw, err := os.ReadFile(n.dir.trust(name))
		if err != nil {
			return nil, fmt.Errorf("trust: %w", err)
		}
		files[name] = raw
	}
	p := &identityProof{seal: seal}
	var err error
	if p.creds, err = trust.NewCredentials(files[nodeCertName], files[nodeKeyName], files[caName], nil); err != nil {
		return nil, fmt.Errorf("trust: %s: %w", n.dir.trust(nodeCertName), err)
	}
	if p.key, err = parseKey(files[nodeKeyName]); err != nil {
		return nil, err
	}
	for line := range bytes.Lines(files[gossipName]) {
		key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(line)))
		if err != nil {
			return nil, fmt.Errorf("trust: %s: %w", n.dir.trust(gossipName), err)
		}
		p.gossip = append(p.gossip, key)
	}
	raw, err := os.ReadFile(n.dir.trust(foundingName))
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &p.founding)
	}
	if err != nil {
		return nil, fmt.Errorf("trust: %s: %w", n.dir.trust(foundingName), err)
	}
	return p, nil
}

// nodeKey reads the node's own key, or makes it. It is kept before it's shown to anybody, so that asking again is asking
// as the same.
func (n *Node) nodeKey() (*ecdsa.PrivateKey, error) {
	raw, err := os.ReadFile(n.dir.trust(nodeKeyName))
	if err == nil {
		return parseKey(raw)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("trust: %w", err)
	}
	key, raw, err := trust.NewKey()
	if err != nil {
		return nil, err
	}
	return key, WriteFile(n.dir.trust(nodeKeyName), raw, 0o600)
}

func parseKey(keyPEM []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("trust: the node's key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("trust: the node's key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("trust: the node's key is no ECDSA key")
	}
	return key, nil
}

// found makes the secrets of a new cluster: its CA, its gossip key, and, unless one is given, its seal key.
func (n *Node) found(key *ecdsa.PrivateKey, seal *trust.SealKey) error {
	if seal == nil {
		made := trust.NewSealKey()
		seal = &made
		if err := n.writeKeys(sealName, made[:]); err != nil {
			return err
		}
	}
	authority, err := n.authority()
	if err != nil {
		return err
	}
	gossipKey, err := n.firstGossipKey()
	if err != nil {
		return err
	}
	caKey, err := authority.KeyPEM()
	if err != nil {
		return err
	}
	record := registry.Cluster{
		ID: n.dir.id.ClusterID, Organization: n.o.Organization, TrustDomain: authority.TrustDomain(), StoreEpoch: n.dir.id.StoreEpoch,
		CA: authority.CertificatePEM(),
	}
	if record.CAKey, err = seal.Seal(cluster.SealedCA, caKey); err != nil {
		return err
	}
	sealed, err := seal.Seal(cluster.SealedGossip, gossipKey)
	if err != nil {
		return err
	}
	record.GossipKeys = [][]byte{sealed}
	who := trust.ID{TrustDomain: authority.TrustDomain(), Role: trust.Node, Name: n.dir.id.StackID}
	cert, err := authority.Sign(trust.Request{ID: who, Public: key.Public(), Hosts: n.hosts(), Life: n.o.CertificateLife}, time.Now())
	if err != nil {
		return err
	}
	raw, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if err := WriteFile(n.dir.trust(foundingName), raw, 0o600); err != nil {
		return err
	}
	return n.writeProof(cert, record.CA, [][]byte{gossipKey})
}

// authority makes the organisation's CA, or takes the one given.
func (n *Node) authority() (*trust.Authority, error) {
	if n.o.CACertFile == "" {
		return trust.NewAuthority(n.o.Organization, n.o.TrustDomain, time.Now())
	}
	if n.o.CAKeyFile == "" {
		return nil, &FieldError{"ca-key-file", "is needed beside --ca-cert-file on the first node, which signs the others", ""}
	}
	cert, err := os.ReadFile(n.o.CACertFile)
	if err != nil {
		return nil, &FieldError{"ca-cert-file", err.Error(), ""}
	}
	key, err := os.ReadFile(n.o.CAKeyFile)
	if err != nil {
		return nil, &FieldError{"ca-key-file", err.Error(), ""}
	}
	a, err := trust.OpenAuthority(cert, key)
	if err != nil {
		return nil, &FieldError{"ca-cert-file", fault.Of(err).Message, ""}
	}
	if a.TrustDomain() != n.o.TrustDomain {
		return nil, &FieldError{"trust-domain", fmt.Sprintf("is %q, and the CA speaks for %q", n.o.TrustDomain, a.TrustDomain()), "give --trust-domain " + a.TrustDomain()}
	}
	return a, nil
}

func (n *Node) firstGossipKey() ([]byte, error) {
	if n.o.GossipKeyFile == "" {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // crypto/rand never fails
		return key, nil
	}
	raw, err := os.ReadFile(n.o.GossipKeyFile)
	if err != nil {
		return nil, &FieldError{"gossip-key-file", err.Error(), ""}
	}
	return decodeKey("gossip-key-file", raw)
}

// sealKey returns the given seal key, or the one kept here, or nil.
func (n *Node) sealKey() (*trust.SealKey, error) {
	setting, raw, err := "seal-key-file", []byte(nil), error(nil)
	switch {
	case n.o.SealKeyFile != "":
		raw, err = os.ReadFile(n.o.SealKeyFile)
	case n.o.SealKeyCommand != "":
		setting = "seal-key-command"
		raw, err = output(n.o.SealKeyCommand)
	default:
		raw, err = os.ReadFile(n.dir.trust(sealName))
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, &FieldError{setting, err.Error(), ""}
	}
	key, err := decodeKey(setting, raw)
	if err != nil {
		return nil, err
	}
	seal, err := trust.ParseSealKey(key)
	return &seal, err
}

// output runs a command of the operator's and returns what it prints.
func output(command string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	raw, readErr := io.ReadAll(io.LimitReader(pipe, 4<<10))
	return raw, errors.Join(readErr, cmd.Wait())
}

func decodeKey(setting string, raw []byte) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != trust.SealKeySize {
		return nil, &FieldError{setting, "does not give 32 bytes in base64", "make one: head -c 32 /dev/urandom | base64"}
	}
	return key, nil
}

func (n *Node) writeKeys(name string, keys ...[]byte) error {
	var b strings.Builder
	for _, k := range keys {
		b.WriteString(base64.StdEncoding.EncodeToString(k) + "\n")
	}
	return WriteFile(n.dir.trust(name), []byte(b.String()), 0o600)
}

// writeProof keeps the certificate and what belongs to it.
func (n *Node) writeProof(cert, ca []byte, gossipKeys [][]byte) error {
	if err := n.writeKeys(gossipName, gossipKeys...); err != nil {
		return err
	}
	if err := WriteFile(n.dir.trust(caName), ca, 0o644); err != nil {
		return err
	}
	return WriteFile(n.dir.trust(nodeCertName), cert, 0o644)
}

// hosts are the names in the node's certificate: those it is dialled by.
func (n *Node) hosts() []string {
	var out []string
	for _, addr := range []string{n.o.ClusterAdvertise, n.o.FederationAdvertise, n.o.APIAdvertise} {
		host, _, err := net.SplitHostPort(addr)
		if err == nil && host != "" && !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out
}
