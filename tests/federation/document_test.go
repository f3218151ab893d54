package federation_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// prints runs a command until it prints all of want; what is told between two organisations takes a moment.
func (o *org) prints(want []string, key string, args ...string) {
	o.t.Helper()
	var text string
	if !harness.Poll(30*time.Second, 100*time.Millisecond, func() bool {
		text = squeezed(o.as(key, 0, args...).Stdout)
		for _, w := range want {
			if !strings.Contains(text, w) {
				return false
			}
		}
		return true
	}) {
		o.t.Errorf("%s: agentos %v prints no %q:\n%s", o.name, args, want, text)
	}
}

// Two operators follow docs/federating.md from its first command to its last, each on a machine of its own.
//
// Requirements: P1, P4, P5.
func TestPairing_DocumentToTheEnd(t *testing.T) {
	t.Parallel()
	if !harness.Apart(t, suite.Binary(t), 5*time.Minute) {
		return
	}
	network := harness.NewNetwork(t, 2)
	acme, globex := found(t, "acme", network.Hosts[0]), found(t, "globex", network.Hosts[1])
	const key, sales, partner = "key", "sales.key", "partner.key"

	// Pair.
	inv := acme.said("peering", "invite", "--out", "invitation")["peering"].(map[string]any)
	id, fingerprint := inv["peering_id"].(string), inv["fingerprints"].(map[string]any)["ours"].(string)
	bring(t, acme, globex, "invitation")
	globex.prints([]string{"peering " + id + "\n", "state active\n", "organisation acme\n", "trust domain acme.agentos.internal\n", "their fingerprint " + fingerprint, "they may nothing\n", "we may nothing\n"},
		writeKey(globex), "peering", "accept", "--token-file", "invitation", "--expect-fingerprint", fingerprint)
	acme.agentos(0, "peering", "show", id)

	// Grant.
	acme.agentos(0, "tenants", "create", "tnt_sales", "--name", "Sales", "--plan", "standard")
	acme.agentos(0, "keys", "issue", "--tenant", "tnt_sales", "--principal", "usr_ann", "--type", "user", "--role", "tenant_admin", "--out", sales)
	globex.agentos(0, "tenants", "create", "tnt_partner", "--name", "Partners", "--plan", "standard")
	agent := `{"name":"Summarizer","model_ref":"tier:fast","instructions":"Be brief."}`
	if err := os.WriteFile(filepath.Join(globex.dir, "summarizer.json"), []byte(agent), 0o600); err != nil {
		t.Fatal(err)
	}
	globex.agentos(4, "agents", "put", summarizer, "--tenant", "tnt_partner", "--file", "summarizer.json") // a person acts in his own tenant alone
	globex.agentos(0, "keys", "issue", "--tenant", "tnt_partner", "--principal", "usr_bob", "--type", "user", "--role", "tenant_admin", "--out", partner)
	globex.as(partner, 0, "agents", "put", summarizer, "--file", "summarizer.json")
	acme.agentos(0, "peering", "exports", id, "--tenant", "tnt_demo")
	globex.agentos(0, "peering", "exports", id, "--tenant", "tnt_sales=tnt_partner", "--agents", summarizer, "--max-runs", "5", "--max-class", "internal")
	acme.prints([]string{"tnt_partner"}, key, "peering", "show", id)

	// Who is there.
	acme.prints([]string{"stk_globex globex local peering admitted true yes"}, sales, "peers", "list")
	acme.prints([]string{"usable yes\n", "agreed contract 1.2\n", "agreed features events_ingest, events_stream, final_ack, origin_run_ids, runs_forward, tenant_isolation\n", "\nagents " + summarizer, "supports runs_forward yes\n"}, sales, "peers", "show", "stk_globex")
	acme.prints([]string{"differs"}, sales, "peers", "compare", "stk_acme", "stk_globex")
	acme.prints([]string{"stk_globex of globex answered at TCP " + globex.host.Addr + ":8421"}, key, "peers", "ping", "stk_globex")

	// Routes, and a run that goes there.
	acme.as(sales, 0, "routes", "put", "rte_summaries", "--agent", summarizer, "--to", "globex")
	acme.as(sales, 0, "routes", "put", "rte_canary", "--label", "team=red", "--to", "local=95", "--to", "globex=5")
	acme.prints([]string{
		"goes to stk_globex\n", "by route rte_summaries\n", "stk_globex globex yes route The route rte_summaries leads here.", "stk_globex globex yes live It answers, and has room for ",
		"stk_acme acme no route The route rte_summaries is the one for this run, and it doesn't lead here.", "stk_acme acme no agent The agent " + summarizer + " is not hosted here.",
	}, sales, "routes", "explain", "--agent", summarizer)
	acme.prints([]string{summarizer}, sales, "agents", "list")
	out := acme.as(sales, 0, "runs", "create", "--agent", summarizer, "--text", "Summarize: two organisations", "--watch")
	if !strings.Contains(out.Stdout, "run.forwarded") || !strings.HasSuffix(out.Stdout, "\necho: Summarize: two organisations\n") {
		t.Errorf("runs create --watch:\n%s", out.Stdout)
	}
	suspends(acme, globex, id, sales, partner)

	// Revoke, and it's over; each side lets go by itself.
	acme.agentos(0, "peering", "revoke", id, "--yes-really")
	acme.as(sales, 5, "runs", "create", "--agent", summarizer, "--text", "too late")
	acme.prints([]string{"goes to nowhere\n", "no peering "}, sales, "routes", "explain", "--agent", summarizer)
	globex.prints([]string{"state active\n"}, key, "peering", "show", id)
	globex.prints([]string{"reachable no: "}, key, "peers", "show", "stk_acme")
	globex.agentos(0, "peering", "revoke", id, "--yes-really")
}

// writeKey puts the administrator's key where the operator's commands find it.
func writeKey(o *org) string {
	o.t.Helper()
	o.agentos(0, "version")
	return filepath.Join(o.dir, "key")
}

// suspends suspends a peering under a run that works at the other side, and resumes it: the run waits, and goes on.
func suspends(acme, globex *org, id, sales, partner string) {
	t := acme.t
	t.Helper()
	made := acme.as(sales, 0, "runs", "create", "--agent", summarizer, "--text", "/wait 3s\n/say it went on", "--output", "json")
	runID := harness.Answer{Body: []byte(made.Stdout)}.Str("run.run_id")
	acme.prints([]string{"status running\n"}, sales, "runs", "get", runID)
	acme.agentos(0, "peering", "suspend", id)
	acme.prints([]string{"reachable no: The peering is suspended."}, sales, "peers", "show", "stk_globex")
	globex.prints([]string{"status running\n", "tokens 11, "}, partner, "runs", "get", runID) // it's done there, and acme has not got it
	acme.prints([]string{"status running\n"}, sales, "runs", "get", runID)
	acme.as(sales, 5, "runs", "create", "--agent", summarizer, "--text", "not now")
	acme.prints([]string{"goes to nowhere\n", "stk_globex globex no peering The peering with globex is suspended."}, sales, "routes", "explain", "--agent", summarizer)
	acme.agentos(0, "peering", "resume", id)
	out := acme.as(sales, 0, "runs", "watch", runID)
	if strings.Count(out.Stdout, "run.completed") != 1 || !strings.HasSuffix(out.Stdout, "\nit went on\n") {
		t.Errorf("the run under a peering that was suspended and resumed:\n%s", out.Stdout)
	}
	globex.prints([]string{"status completed\n"}, partner, "runs", "get", runID)
}
