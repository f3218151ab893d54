package node

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/zaplog"
	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
)

// joinRetry is how long a joiner waits before it asks the members again, when none could be reached.
const joinRetry = 500 * time.Millisecond

// join asks the members, one after another and again, to let this node in; a refusal ends it at once, and ctx does.
func (n *Node) join(ctx context.Context, key *ecdsa.PrivateKey, door net.Addr) error {
	if len(n.o.Join) == 0 {
		return &FieldError{"join", fmt.Sprintf("%s began to join a cluster and has not been let in yet", n.dir.path), "give --join and --join-token again"}
	}
	token, err := n.joinToken()
	if err != nil {
		return err
	}
	req := cluster.JoinRequest{Token: token, Hosts: n.hosts(), Member: n.row(boundAs(n.o.ClusterAdvertise, door))}
	seldom := zaplog.NewRepeats(time.Minute)
	for {
		var faults []error
		for _, addr := range n.o.Join {
			answer, err := n.dial().AskToJoin(ctx, addr, key, req)
			if err == nil {
				return n.joined(answer)
			}
			if !fault.CodeOf(err).Retryable() {
				return fmt.Errorf("join through %s: %w", addr, err)
			}
			if left, tell := seldom.Tell(addr + " " + string(fault.CodeOf(err))); tell {
				n.log.Warn("not let in yet", zap.String("address", addr), zap.Error(err), zap.Int("left_out", left))
			}
			faults = append(faults, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("join: %w", errors.Join(faults...))
		case <-time.After(joinRetry):
		}
	}
}

func (n *Node) joinToken() (string, error) {
	if n.o.JoinTokenFile == "" {
		if n.o.JoinToken == "" {
			return "", &FieldError{"join-token", "is needed to join", "make one on a member: agentos cluster token create"}
		}
		return n.o.JoinToken, nil
	}
	raw, err := os.ReadFile(n.o.JoinTokenFile)
	if err != nil {
		return "", &FieldError{"join-token-file", err.Error(), ""}
	}
	return strings.TrimSpace(string(raw)), nil
}

// joined keeps what a member has answered. The identity is written before the certificate, which says that all is there.
func (n *Node) joined(a *cluster.JoinAnswer) error {
	ca, err := trust.ParseCertificate([]byte(a.CABundle))
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	n.dir.id.ClusterID = a.ClusterID
	n.dir.id.Organization, n.dir.id.TrustDomain = a.Organization, a.TrustDomain
	if err := n.dir.adopt(&n.o); err != nil {
		return err
	}
	if err := n.dir.save(); err != nil {
		return err
	}
	if len(a.SealKey) == trust.SealKeySize && n.o.SealKeyFile == "" && n.o.SealKeyCommand == "" {
		if err := n.writeKeys(sealName, a.SealKey); err != nil {
			return err
		}
	}
	n.log.Info("joined", zap.String("cluster_id", a.ClusterID), zap.Strings("servers", a.Servers), zap.String("ca_fingerprint", trust.Fingerprint(ca)))
	return n.writeProof([]byte(a.Certificate), []byte(a.CABundle), a.GossipKeys)
}

// row is what the member list says of this node, whose cluster door the others find at clusterAddr.
func (n *Node) row(clusterAddr string) registry.Member {
	scheme := "http"
	if n.o.APITLSCertFile != "" {
		scheme = "https"
	}
	return registry.Member{
		StackID: n.dir.id.StackID, ServerID: n.dir.id.ServerID, State: registry.Active, Region: n.o.Region, Version: n.o.Build.Version,
		StoreVersion: n.o.StoreVersion, ClusterAddr: clusterAddr, APIURL: scheme + "://" + n.o.APIAdvertise, FederationURL: "https://" + n.o.FederationAdvertise,
	}
}

// boundAs is the address that others dial: as advertised, with the port that was bound when port 0 let the system choose.
func boundAs(advertise string, bound net.Addr) string {
	host, port, err := net.SplitHostPort(advertise)
	if err != nil || port != "0" {
		return advertise
	}
	_, port, err = net.SplitHostPort(bound.String())
	if err != nil {
		return advertise
	}
	return net.JoinHostPort(host, port)
}
