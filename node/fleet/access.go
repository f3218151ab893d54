package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Access tells people and programs where a deployment is and where its keys lie. It holds no secret itself.
type Access struct {
	Mode          string         `json:"mode"`
	StateDir      string         `json:"state_dir"`
	Organizations []Organization `json:"organizations"`
	ConsoleURL    *string        `json:"console_url"`
	Observability Observability  `json:"observability"`
	Reports       []string       `json:"reports"`
}

// Organization is one trust domain of a deployment.
type Organization struct {
	Name        string   `json:"organization"`
	TrustDomain string   `json:"trust_domain"`
	CAFile      *string  `json:"ca_file"` // null while its nodes need no certificates
	Nodes       []Node   `json:"nodes"`
	Tenants     []Tenant `json:"tenants"`
}

// Node is where one node is.
type Node struct {
	StackID       string `json:"stack_id"`
	Region        string `json:"region"`
	Role          string `json:"role"`
	APIURL        string `json:"api_url"`
	FederationURL string `json:"federation_url"`
	ClusterAddr   string `json:"cluster_addr"`
	AdminURL      string `json:"admin_url"`
	GossipAddr    string `json:"gossip_addr"`
	PID           int    `json:"pid"`
	LogFile       string `json:"log_file"`
	DataDir       string `json:"data_dir"`
}

// Tenant is a tenant with the principals whose keys the deployment keeps.
type Tenant struct {
	ID         string      `json:"tenant_id"`
	Principals []Principal `json:"principals"`
}

// Principal is one identity and the file that holds its key.
type Principal struct {
	ID      string `json:"principal_id"`
	Role    string `json:"role"`
	KeyFile string `json:"key_file"`
}

// Observability is where the figures are.
type Observability struct {
	MetricsURLs []string `json:"metrics_urls"`
}

// ErrNoDeployment says that a state directory holds none.
var ErrNoDeployment = errors.New("there is no deployment")

// ReadAccess reads DIR/access.json. It returns ErrNoDeployment, wrapped, when there is none.
func ReadAccess(dir string) (*Access, error) {
	name := filepath.Join(dir, accessName)
	raw, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoDeployment, dir)
	}
	if err != nil {
		return nil, err
	}
	var a Access
	if err := json.Unmarshal(raw, &a); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", name, err)
	}
	return &a, nil
}

// Organization returns the organisation with this name, the first for "".
func (a *Access) Organization(name string) (*Organization, error) {
	var known []string
	for i := range a.Organizations {
		if o := &a.Organizations[i]; name == "" || o.Name == name {
			return o, nil
		}
		known = append(known, a.Organizations[i].Name)
	}
	return nil, fmt.Errorf("the deployment has no organisation %q, only %q", name, known)
}

// Key returns the key file of the first principal with this role, in the tenant with this id (the first tenant for "").
func (o *Organization) Key(tenantID, role string) (string, error) {
	for _, t := range o.Tenants {
		if tenantID != "" && t.ID != tenantID {
			continue
		}
		for _, p := range t.Principals {
			if p.Role == role {
				return p.KeyFile, nil
			}
		}
	}
	return "", fmt.Errorf("organisation %s keeps no key of a %s", o.Name, role)
}
