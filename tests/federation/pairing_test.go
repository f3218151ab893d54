package federation_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// org is an organisation with one node on a machine of its own, as its operator sees it.
type org struct {
	t    *testing.T
	name string
	host *harness.Host
	c    *harness.Cluster
	dir  string // the operator's own, where files are brought to
}

func found(t *testing.T, name string, host *harness.Host) *org {
	t.Helper()
	o := &org{t: t, name: name, host: host, dir: t.TempDir()}
	o.c = harness.NewOrganization(t, suite.Binary(t), &starter, name)
	o.c.AddNodeOn(t, host, "stk_"+name)
	return o
}

// agentos runs a command on the organisation's machine and wants its exit code.
func (o *org) agentos(code int, args ...string) harness.Outcome {
	o.t.Helper()
	key := filepath.Join(o.dir, "key")
	if err := os.WriteFile(key, []byte(o.c.AdminKey(o.t)), 0o600); err != nil {
		o.t.Fatal(err)
	}
	return o.as(key, code, args...)
}

// as is agentos with the key in another file.
func (o *org) as(key string, code int, args ...string) harness.Outcome {
	o.t.Helper()
	argv := append([]string{suite.Binary(o.t)}, args...)
	out := o.host.Run(o.t, time.Minute, o.dir, nil, append(argv, "--api-url", "http://127.0.0.1:8420", "--key-file", key)...)
	if out.Code != code {
		o.t.Fatalf("%s: agentos %v: exit code %d, want %d\n%s\n%s", o.name, args, out.Code, code, out.Stdout, out.Stderr)
	}
	return out
}

// said is agentos with --output json, decoded.
func (o *org) said(args ...string) (body map[string]any) {
	o.t.Helper()
	out := o.agentos(0, append(args, "--output", "json")...)
	if err := json.Unmarshal([]byte(out.Stdout), &body); err != nil {
		o.t.Fatalf("agentos %v: %v in %s", args, err, out.Stdout)
	}
	return body
}

// acts counts what the organisation's audit says of an action, refusals by their reason.
func (o *org) acts(action string) (done int, reasons []string) {
	o.t.Helper()
	records, _ := o.said("audit", "list", "--tenant", "platform", "--all", "--action", action)["records"].([]any)
	for _, r := range records {
		r := r.(map[string]any)
		if r["outcome"] == "ok" {
			done++
			continue
		}
		details, _ := r["details"].(map[string]any)
		reasons = append(reasons, fmt.Sprint(details["reason"]))
	}
	return done, reasons
}

// bring copies a file from one operator to the other.
func bring(t *testing.T, from, to *org, name string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(from.dir, name))
	if err == nil {
		err = os.WriteFile(filepath.Join(to.dir, name), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Two organisations on two machines that share a wire and no file pair by the command line alone, as docs/federating.md
// tells it; what is not the invitation is refused, once in each audit that learns of it.
//
// Requirements: P1.
func TestPairing_ByCommandLine(t *testing.T) {
	t.Parallel()
	if !harness.Apart(t, suite.Binary(t), 5*time.Minute) {
		return
	}
	network := harness.NewNetwork(t, 3)
	acme, globex, initech := found(t, "acme", network.Hosts[0]), found(t, "globex", network.Hosts[1]), found(t, "initech", network.Hosts[2])

	invite := func(name string, more ...string) (peeringID, fingerprint string, expires time.Time) {
		t.Helper()
		inv := acme.said(append([]string{"peering", "invite", "--out", name}, more...)...)
		p := inv["peering"].(map[string]any)
		bring(t, acme, globex, name)
		bring(t, acme, initech, name)
		expires, err := time.Parse(time.RFC3339, inv["expires_at"].(string))
		if err != nil {
			t.Fatal(err)
		}
		return p["peering_id"].(string), p["fingerprints"].(map[string]any)["ours"].(string), expires
	}
	peeringID, fingerprint, _ := invite("invitation")
	if info, err := os.Stat(filepath.Join(acme.dir, "invitation")); err != nil || info.Mode().Perm() != 0o600 || info.Size() >= 2048 {
		t.Errorf("the invitation's file: %v, %v", info, err)
	}

	// What is not the invitation, or not any more.
	_, _, expires := invite("short", "--ttl", "1s")
	withdrawn, _, _ := invite("withdrawn")
	acme.agentos(0, "peering", "revoke", withdrawn, "--yes-really")
	raw, err := os.ReadFile(filepath.Join(globex.dir, "invitation"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(globex.dir, "cut"), raw[:len(raw)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Poll(10*time.Second, 20*time.Millisecond, func() bool { return time.Now().After(expires) })
	door := "TCP " + acme.host.Addr + ":8421 (TLS 1.3) refused: The invitation is not accepted here"
	var refusedHere, refusedThere int
	refused := func(o *org, code int, says string, args ...string) {
		t.Helper()
		if o == globex {
			refusedHere++
		}
		if says == door {
			refusedThere++
		}
		out := o.agentos(code, append([]string{"peering", "accept", "--token-file"}, args...)...)
		if !strings.Contains(out.Stderr, says) {
			t.Errorf("accept %v: %q, want %q", args, out.Stderr, says)
		}
	}
	refused(globex, 4, "not the one that was expected", "invitation", "--expect-fingerprint", strings.Repeat("0", 64))
	refused(globex, 4, "has expired", "short")
	refused(globex, 4, door, "withdrawn")
	refused(globex, 2, "not an invitation", "cut")

	// The invitation, once.
	p := globex.said("peering", "accept", "--token-file", "invitation", "--expect-fingerprint", strings.ToUpper(fingerprint))["peering"].(map[string]any)
	theirs := p["fingerprints"].(map[string]any)
	if p["peering_id"] != peeringID || p["state"] != "active" || p["organization"] != "acme" || theirs["theirs"] != fingerprint {
		t.Fatalf("accepted: %v", p)
	}
	refused(globex, 5, "used already", "invitation")
	refused(initech, 4, door, "invitation")
	shown := acme.said("peering", "show", peeringID)["peering"].(map[string]any)
	if prints := shown["fingerprints"].(map[string]any); prints["theirs"] != theirs["ours"] || prints["ours"] != fingerprint || shown["organization"] != "globex" {
		t.Errorf("the two sides do not see the same: %v and %v", shown, p)
	}
	if grants := [2]any{shown["exports"], p["exports"]}; len(grants[0].([]any)) != 0 || len(grants[1].([]any)) != 0 {
		t.Errorf("something is granted that nobody gave: %v", grants)
	}

	acme.agentos(0, "peering", "exports", peeringID, "--tenant", "tnt_demo")
	globex.agentos(0, "peering", "exports", peeringID, "--tenant", "tnt_sales=tnt_demo", "--agents", "agt_sample_echo_v1", "--max-runs", "5", "--max-class", "internal")
	acme.agentos(2, "peering", "exports", peeringID, "--tenant", "tnt_demo", "--scopes", "tenants:admin")
	acme.agentos(0, "peering", "suspend", peeringID)
	acme.agentos(0, "peering", "resume", peeringID)
	acme.agentos(0, "peering", "revoke", peeringID, "--yes-really")
	acme.agentos(5, "peering", "resume", peeringID)

	// Once each.
	for action, want := range map[string]int{"peering.exports": 1, "peering.suspend": 1, "peering.resume": 1, "peering.revoke": 2, "peering.join": 1, "peering.invite": 3} {
		if done, _ := acme.acts(action); done != want {
			t.Errorf("acme has audited %s %d times, want %d", action, done, want)
		}
	}
	audited := func(o *org, action string, want int) {
		t.Helper()
		var done int
		var reasons []string
		if !harness.Poll(15*time.Second, 100*time.Millisecond, func() bool { done, reasons = o.acts(action); return len(reasons) >= want }) || len(reasons) != want || done != 1 {
			t.Errorf("%s has audited %s %d times, and %d refusals, want 1 and %d: %q", o.name, action, done, len(reasons), want, reasons)
		}
	}
	audited(globex, "peering.accept", refusedHere)
	audited(acme, "peering.join", refusedThere)
	text := strings.TrimSpace(string(raw))
	for _, o := range []*org{acme, globex, initech} {
		if strings.Contains(o.c.Nodes[0].Output(), text[20:60]) {
			t.Errorf("%s logs an invitation", o.name)
		}
	}
}
