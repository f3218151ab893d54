package pairing

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

const (
	// maxJoinAnswer holds the most grants there can be with room to spare.
	maxJoinAnswer = 4 << 20
	dialTimeout   = 5 * time.Second
	callTimeout   = 15 * time.Second
)

// Accept accepts an invitation of another cluster. fingerprint, unless "", is what the inviter's CA must be, as the operator
// has heard it by another way. The inviter is asked first; when it has said yes, the peering is recorded here. An answer
// that was lost does no harm: the same cluster may ask again.
func (s *Service) Accept(ctx context.Context, by tenancy.Actor, token, fingerprint string) (p *registry.Peering, replayed bool, index uint64, err error) {
	inv, err := trust.ParseInvitation(token)
	if err == nil {
		p, replayed, index, err = s.accept(ctx, by, inv, fingerprint)
	}
	s.noteRefusal(by, &inv, err)
	return p, replayed, index, err
}

// noteRefusal writes down that an invitation could not be accepted here. What was only not reachable was not refused.
func (s *Service) noteRefusal(by tenancy.Actor, inv *trust.Invitation, err error) {
	f := fault.Of(err)
	if f == nil || f.Code.Retryable() {
		return
	}
	s.log.Warn("an invitation was not accepted", zap.String("peering_id", inv.PeeringID), zap.String("correlation_id", by.CorrelationID), zap.String("reason", f.Message))
	details := map[string]any{"reason": f.Message}
	if inv.CA != "" {
		details["fingerprint"], details["organization"] = inv.CA, inv.Organization
	}
	s.refused(audit.Record{
		Principal: by.Auth.Principal.ID, Action: "peering.accept", Resource: "peering/" + inv.PeeringID, Outcome: string(f.Code), CorrelationID: by.CorrelationID,
		Peer: inv.TrustDomain, Details: details,
	})
}

func (s *Service) accept(ctx context.Context, by tenancy.Actor, inv trust.Invitation, fingerprint string) (*registry.Peering, bool, uint64, error) {
	inviter := trust.Party{Organization: inv.Organization, TrustDomain: inv.TrustDomain, ClusterID: inv.ClusterID, CA: inv.CA, Addresses: inv.Addresses}
	record := registry.PeeringAccept{
		ID: id.New(id.Command), PeeringID: inv.PeeringID, Inviter: inviter, By: registry.ByActor(by), Asked: registry.AskedBy(by, "accept", inv.Encode(), fingerprint),
	}
	if want := trust.PlainFingerprint(fingerprint); want != "" && want != inv.CA {
		return nil, false, 0, fault.New(fault.Forbidden, "The invitation is for a CA with the fingerprint %s, which is not the one that was expected (%.64s): ask the other organisation which is right.", inv.CA, want)
	}
	self, err := s.self()
	if err != nil {
		return nil, false, 0, err
	}
	err = s.o.Store.View(ctx, storage.Read{Consistency: storage.Linearizable}, func(snap storage.Snapshot) error {
		return registry.CanAccept(snap, inv.PeeringID, inviter)
	})
	switch {
	case err == nil && !s.o.Now().Before(inv.ExpiresAt):
		return nil, false, 0, fault.New(fault.Forbidden, "The invitation has expired at %s: ask %s for a new one.", inv.ExpiresAt.Format(time.RFC3339), inv.Organization)
	case err == nil:
		answer, err := s.ask(ctx, inv, self)
		if err != nil {
			return nil, false, 0, err
		}
		record.Bundle, record.Imports, record.Inviter.Addresses = []byte(answer.Bundles.Inviter), registry.Turned(answer.Exports), answer.Addresses
	case fault.Is(err, fault.Conflict) && by.Idem != nil: // it may be a replay, which the command knows
	default:
		return nil, false, 0, err
	}
	done, index, err := s.o.Commands.Accept.Do(ctx, s.o.Store, "", record)
	if err != nil {
		return nil, false, 0, err
	}
	return shown(done.Peering), done.ID != record.ID, index, nil
}

// ask brings the wish to pair to the inviter, at whichever of its doors answers first.
func (s *Service) ask(ctx context.Context, inv trust.Invitation, self trust.Party) (*JoinAnswer, error) {
	nonce := rand.Text()
	terms := trust.Terms{PeeringID: inv.PeeringID, InviterCA: inv.CA, InviterCluster: inv.ClusterID, Accepter: self, Nonce: nonce}
	body, err := json.Marshal(JoinRequest{
		PeeringID: inv.PeeringID, Organization: self.Organization, TrustDomain: self.TrustDomain, ClusterID: self.ClusterID, Fingerprint: self.CA,
		Bundle: string(s.o.Cluster().CA), Addresses: self.Addresses, Nonce: nonce, Proof: trust.Prove(inv.Key(), terms),
	})
	if err != nil {
		return nil, fmt.Errorf("pairing: %w", err)
	}
	var faults []error
	for _, addr := range inv.Addresses {
		answer, err := s.askAt(ctx, addr, inv.CA, body)
		if err == nil {
			err = answer.check(inv, self, addr)
		}
		if err == nil {
			return answer, nil
		}
		if !fault.CodeOf(err).Retryable() || ctx.Err() != nil {
			return nil, err
		}
		faults = append(faults, err)
	}
	messages := make([]string, len(faults))
	for i, err := range faults {
		messages[i] = fault.Of(err).Message
	}
	return nil, fault.New(fault.Unavailable, "%s", strings.Join(messages, " ")).With("service", "federation").With("peer", inv.TrustDomain).Because(errors.Join(faults...))
}

// check sees to it that who answered is who invited.
func (a *JoinAnswer) check(inv trust.Invitation, self trust.Party, addr string) error {
	domain, fingerprint, err := trust.ReadAuthority([]byte(a.Bundles.Inviter), time.Now())
	if err != nil || fingerprint != inv.CA || domain != inv.TrustDomain || a.PeeringID != inv.PeeringID || a.ClusterID != inv.ClusterID ||
		a.Organization != inv.Organization || a.TrustDomain != inv.TrustDomain || a.Fingerprints != (Pair{inv.CA, self.CA}) {
		return fault.New(fault.Forbidden, "The federation door at %s answered for another cluster than the invitation's: the text was altered, or the address is wrong.", place(addr))
	}
	return trust.ValidAddresses(a.Addresses)
}

func place(addr string) string { return "TCP " + addr + " (TLS 1.3)" }

// askAt makes the one call. Its errors name protocol, address and reason.
func (s *Service) askAt(ctx context.Context, addr, fingerprint string, body []byte) (*JoinAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	tr := &http.Transport{
		DialContext: s.dial, TLSClientConfig: trust.PinnedClient(fingerprint, s.o.Now),
		TLSHandshakeTimeout: dialTimeout, DisableKeepAlives: true,
	}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+JoinPath, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("pairing: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(r)
	if err != nil {
		if f := fault.Of(err); f.Code == fault.Unauthorized { // the pin
			return nil, fault.New(fault.Forbidden, "The federation door at %s is not the inviter's: %s", place(addr), f.Message).Because(err)
		}
		return nil, fault.New(fault.Unavailable, "The federation door at %s can't be reached: %v.", place(addr), bare(err)).Because(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxJoinAnswer))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "The answer of the federation door at %s broke off: %v; asking again is safe.", place(addr), err).Because(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(addr, resp.StatusCode, raw)
	}
	var answer struct {
		Peering *JoinAnswer `json:"peering"`
	}
	if err := strictjson.Decode(raw, &answer); err != nil || answer.Peering == nil {
		return nil, fault.New(fault.Unavailable, "The federation door at %s answered something else than a peering.", place(addr)).Because(err)
	}
	return answer.Peering, nil
}

func (s *Service) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return s.o.Dial(ctx, network, address)
}

// bare is err without the URL that http puts before it.
func bare(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

// refusal is another cluster's no, in this side's words.
func refusal(addr string, status int, raw []byte) error {
	var e struct {
		Error struct {
			Code    fault.Code `json:"code"`
			Message string     `json:"message"`
		} `json:"error"`
	}
	if err := strictjson.Decode(raw, &e); err != nil || !e.Error.Code.Known() {
		return fault.New(fault.Unavailable, "The federation door at %s answered HTTP %d, and nothing that is understood.", place(addr), status)
	}
	code := e.Error.Code
	switch code {
	case fault.InvalidRequest, fault.Forbidden, fault.Conflict, fault.RateLimited, fault.Unavailable:
	case fault.Unauthorized:
		code = fault.Forbidden // it's not this caller's credential that is bad
	default:
		code = fault.Unavailable
	}
	return fault.New(code, "The federation door at %s refused: %s", place(addr), said(e.Error.Message))
}

// said is a stranger's sentence, safe to be shown.
func said(s string) string {
	const most = 400
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || 0x80 <= c && c < 0xa0 || 0x2028 <= c && c <= 0x202e || 0x2066 <= c && c <= 0x2069 {
			return ' '
		}
		return c
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
