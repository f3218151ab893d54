package pairing

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/tenancy/audit"
)

const (
	// JoinPath is the one call of the federation door that needs no client certificate.
	JoinPath = "/v1/federation/peerings:join"
	// MaxJoinBody bounds what a stranger may send to JoinPath, in bytes.
	MaxJoinBody = 64 << 10
)

// JoinRequest is what an accepter sends to the inviter: what it is, and the proof over it. The invitation stays at home.
type JoinRequest struct {
	PeeringID    string   `json:"peering_id"`
	Organization string   `json:"organization"`
	TrustDomain  string   `json:"trust_domain"`
	ClusterID    string   `json:"cluster_id"`
	Fingerprint  string   `json:"fingerprint"`
	Bundle       string   `json:"bundle"` // the accepter's CA, PEM
	Addresses    []string `json:"addresses"`
	Nonce        string   `json:"nonce"`
	Proof        string   `json:"proof"`
}

// JoinAnswer is the peering from the inviter's mouth.
type JoinAnswer struct {
	PeeringID    string                `json:"peering_id"`
	State        registry.PeeringState `json:"state"`
	Organization string                `json:"organization"` // the inviter's, as are the three below
	TrustDomain  string                `json:"trust_domain"`
	ClusterID    string                `json:"cluster_id"`
	Addresses    []string              `json:"addresses"`
	Fingerprints Pair                  `json:"fingerprints"`
	Bundles      Pair                  `json:"bundles"` // both CAs, PEM
	// Exports are what the accepter may do at the inviter's, in the inviter's words.
	Exports []registry.Grant `json:"exports"`
}

// Pair is one thing of each side.
type Pair struct {
	Inviter  string `json:"inviter"`
	Accepter string `json:"accepter"`
}

// notAccepted is all that a caller learns who can't prove an invitation, whatever the reason.
func notAccepted() error {
	return fault.New(fault.Forbidden, "The invitation is not accepted here: it is unknown, used, expired, withdrawn or altered. Ask who sent it for a new one.")
}

// Allow refuses a source that calls JoinPath too often. Ask it before the body is read.
func (s *Service) Allow(source string) error {
	if s.sources.Allow(source) {
		return nil
	}
	return fault.New(fault.RateLimited, "Too many tries from %s; try again in a second.", source).After(time.Second)
}

// Join answers another cluster's wish to pair. body is of at most MaxJoinBody bytes and has been written by anybody; source is
// whose address it came from. Refusals are logged and audited here, with the reason; the error that is returned tells no
// stranger more than that it was one.
func (s *Service) Join(ctx context.Context, source, correlationID string, body []byte) (*JoinAnswer, error) {
	var r JoinRequest
	if err := strictjson.Decode(body, &r); err != nil {
		return nil, s.turnAway(source, correlationID, &r, err)
	}
	self, err := s.self()
	if err != nil {
		return nil, err
	}
	j := registry.PeeringJoin{
		PeeringID: r.PeeringID, Bundle: []byte(r.Bundle), Nonce: r.Nonce, Proof: r.Proof,
		Accepter: trust.Party{Organization: r.Organization, TrustDomain: r.TrustDomain, ClusterID: r.ClusterID, CA: r.Fingerprint, Addresses: r.Addresses},
		By:       registry.By{Principal: "invitation/" + clip(r.PeeringID), CorrelationID: correlationID},
	}
	done, _, err := s.o.Commands.Join.Do(ctx, s.o.Store, "", j)
	if err != nil {
		return nil, s.turnAway(source, correlationID, &r, err)
	}
	s.log.Info("a cluster has accepted an invitation", zap.String("peering_id", r.PeeringID), zap.String("organization", r.Organization),
		zap.String("trust_domain", r.TrustDomain), zap.String("cluster_id", r.ClusterID), zap.String("fingerprint", r.Fingerprint), zap.String("source", source))
	return &JoinAnswer{
		PeeringID: done.Peering.ID, State: done.Peering.State, Organization: self.Organization, TrustDomain: self.TrustDomain, ClusterID: self.ClusterID,
		Addresses: self.Addresses, Fingerprints: Pair{self.CA, r.Fingerprint}, Bundles: Pair{string(s.o.Cluster().CA), r.Bundle}, Exports: done.Peering.Exports,
	}, nil
}

// turnAway notes why a stranger is turned away, and returns what may be told.
func (s *Service) turnAway(source, correlationID string, r *JoinRequest, err error) error {
	f := fault.Of(err)
	switch f.Code {
	case fault.InvalidRequest, fault.Forbidden, fault.Conflict:
	default:
		return err // nothing was decided
	}
	s.log.Warn("a wish to pair was refused", zap.String("source", source), zap.String("peering_id", clip(r.PeeringID)),
		zap.String("correlation_id", correlationID), zap.String("reason", f.Message))
	s.refused(audit.Record{
		Principal: "invitation/" + clip(r.PeeringID), Action: "peering.join", Resource: "peering/" + clip(r.PeeringID), Outcome: string(f.Code), CorrelationID: correlationID,
		Peer: clip(r.TrustDomain), Details: map[string]any{"source": source, "reason": f.Message},
	})
	if f.Code == fault.Forbidden {
		return notAccepted()
	}
	return err
}

func (s *Service) refused(r audit.Record) {
	if s.o.Denials != nil {
		s.o.Denials.Refused(r)
	}
}

// clip makes a stranger's text safe to be written down: a name, or as much of one as it holds.
func clip(s string) string {
	const most = 128
	out := make([]rune, 0, min(len(s), most))
	for _, c := range s {
		if len(out) == most {
			break
		}
		if c < ' ' || c > '~' {
			c = '?'
		}
		out = append(out, c)
	}
	return string(out)
}
