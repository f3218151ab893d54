package api

import (
	"net/http"

	"github.com/nexixai/agentos/peer/pairing"
)

// federationTable is what the federation door serves: to nodes of other organisations, and nothing to people.
func (s *Server) federationTable() []Route {
	return []Route{
		{Method: "GET", Template: "/v1/federation/health", Open: true, serve: health("federation")},
		{Method: "POST", Template: pairing.JoinPath, Open: true, MaxBody: pairing.MaxJoinBody, serve: (*call).joinPeering},
	}
}

// FederationHandler serves the federation door. The TLS before it says who is there.
func (s *Server) FederationHandler() http.Handler { return s.handler(s.federation) }
