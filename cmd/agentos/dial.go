package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node/fleet"
)

// Roles whose keys a deployment keeps.
const (
	roleUser          = "tenant_user"
	roleTenantAdmin   = "tenant_admin"
	rolePlatformAdmin = "platform_admin"
)

// conn speaks to one node with one key, and keeps what was answered last, so that it can be printed as it came.
type conn struct {
	*client.Client
	base   *client.Client
	answer client.Answer
	// call is how every call is made: it says for which tenant, if one was named.
	call client.Call
	// patience is how long a watcher waits in all, below 0 without end, and elsewhere goes over to another node of the
	// deployment; nil when it has no other, or the node was named outright.
	patience  time.Duration
	elsewhere func() error
}

// turn is how long a watcher asks a node that is away before it looks for another.
const turn = 2 * time.Second

// dial finds the node and a key of this role, unless flags or the environment name others.
func (a *app) dial(role string) (*conn, error) { return a.dialPatient(role, client.DefaultPatience) }

// dialPatient is dial for a command that follows a stream, which waits so long for a node that is away, 0 without end.
func (a *app) dialPatient(role string, patience time.Duration) (*conn, error) {
	if patience < 0 {
		return nil, usage("--patience is below 0")
	}
	base, keyFile, caFile := a.apiURL, a.keyFile, a.caFile
	var deployed *fleet.Organization // with other nodes to go over to
	acting := ""                     // an administrator of the platform names tenants as what he administers, all others act in them
	if role != rolePlatformAdmin {
		acting = a.tenant
	}
	if a.as != "" {
		role = a.as
	}
	if base == "" || keyFile == "" {
		access, err := fleet.ReadAccess(a.stateDir)
		if err != nil {
			return nil, err
		}
		org, err := access.Organization(a.org)
		if err != nil {
			return nil, usage("%w", err)
		}
		if base == "" {
			if base, err = reachable(org); err != nil {
				return nil, err
			}
			if len(org.Nodes) > 1 {
				deployed = org
			}
			if caFile == "" && org.CAFile != nil {
				caFile = *org.CAFile
			}
		}
		if keyFile == "" {
			tenant := a.tenant
			if role == rolePlatformAdmin {
				tenant = ""
			}
			if keyFile, err = org.Key(tenant, role); err != nil {
				return nil, &codedError{code: exitNotFound, err: err, hint: "--key-file names a key; agentos keys issue makes one"}
			}
		}
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	roots, err := trusted(caFile)
	if err != nil {
		return nil, err
	}
	if patience == 0 {
		patience = -1
	}
	o := client.Options{
		BaseURL: base, Key: key, RootCAs: roots, UserAgent: "agentos/" + version, Patience: patience,
		Retries: 2, Timeout: 20 * time.Second, // somebody waits
	}
	o.Delayed = func(err error) {
		if err == nil {
			a.say("no answer from %s yet; it is given %v, and what may be asked again is asked %d times", o.BaseURL, o.Timeout, o.Retries+1)
			return
		}
		a.say("%s; asking again", a.describe(err))
	}
	c := &conn{patience: patience}
	c.call = client.Call{TenantID: acting, Answer: &c.answer}
	if deployed != nil {
		if patience < 0 || patience > turn {
			o.Patience = turn
		}
		c.elsewhere = func() (err error) {
			if o.BaseURL, err = reachable(deployed); err != nil {
				return err
			}
			return c.open(o)
		}
	}
	if err := c.open(o); err != nil {
		return nil, usage("%w", err)
	}
	return c, nil
}

// readKey reads the one API key of a file.
func readKey(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("API key: %w", err)
	}
	defer file.Close()
	const most = 16 << 10 // more than a node takes in a head
	raw, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return "", fmt.Errorf("API key: %w", err)
	}
	switch key := strings.TrimSpace(string(raw)); {
	case key == "":
		return "", usage("API key: %s is empty", name)
	case len(raw) > most:
		return "", usage("API key: %s holds more than a key", name)
	default:
		return key, nil
	}
}

// open makes the client, in the place of the one before.
func (c *conn) open(o client.Options) error {
	base, err := client.New(o)
	if err != nil {
		return err
	}
	if c.base != nil {
		c.base.Close()
	}
	c.base, c.Client = base, base.With(c.call)
	return nil
}

// reachable is the API of the organisation's first node that takes connections, so that a node which is down hides none of
// the others; of its first node when none does.
func reachable(org *fleet.Organization) (string, error) {
	if len(org.Nodes) == 0 {
		return "", fmt.Errorf("organisation %s has no node", org.Name)
	}
	for _, n := range org.Nodes {
		u, err := url.Parse(n.APIURL)
		if err != nil {
			return "", fmt.Errorf("node %s: %w", n.StackID, err)
		}
		if conn, err := net.DialTimeout("tcp", u.Host, 500*time.Millisecond); err == nil {
			return n.APIURL, conn.Close()
		}
	}
	return org.Nodes[0].APIURL, nil
}

// trusted reads the certificates of a file; without one the system's are trusted.
func trusted(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("CA certificates: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, usage("CA certificates: %s holds none", caFile)
	}
	return roots, nil
}

func (c *conn) close() { c.base.Close() }

// body is the last answer as it came.
func (c *conn) body() json.RawMessage { return c.answer.Body }

// told prints what a node answered: as JSON word for word, or else as rows makes a table of it.
func (a *app) told(c *conn, rows func(*table)) error {
	if a.output == "json" {
		return a.json(c.body())
	}
	t := newTable(a.out)
	rows(t)
	return t.flush()
}

// done says that something was done that no object is answered to.
func (a *app) done(what, name string) error {
	if a.output == "json" {
		return a.json(map[string]any{what: name})
	}
	a.say("%s %s", what, name)
	return nil
}
