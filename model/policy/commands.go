package policy

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

// MaxRulesets is how many rulesets of its own a tenant may have.
const MaxRulesets = 100

// Stored is a ruleset as a tenant has it.
type Stored struct {
	TenantID string `json:"tenant_id"`
	Ruleset
	// CreatedAt and UpdatedAt are absent on DefaultID, which nobody made.
	CreatedAt *time.Time `json:"created_at,omitempty"`
	UpdatedAt *time.Time `json:"updated_at,omitempty"`
}

// Commands are the changes of rulesets.
type Commands struct {
	put    storage.Call[putArgs, putDone]
	remove storage.Call[removeArgs, struct{}]
}

// Define adds the commands to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{put: storage.Define(reg, "policy.put", put), remove: storage.Define(reg, "policy.delete", remove)}
}

// who is on whose behalf a command changes something.
type who struct {
	TenantID      string `json:"tenant_id"`
	Principal     string `json:"principal"`
	CorrelationID string `json:"correlation_id"`
}

func whoOf(by tenancy.Actor) who {
	return who{TenantID: by.Auth.TenantID, Principal: by.Auth.Principal.ID, CorrelationID: by.CorrelationID}
}

type putArgs struct {
	who
	Ruleset Ruleset `json:"ruleset"`
}

type putDone struct {
	Stored  Stored `json:"stored"`
	Created bool   `json:"created"`
}

type removeArgs struct {
	who
	ID string `json:"policy_id"`
}

func key(tenantID, policyID string) string { return tenancy.Place(tenantID, "policies", policyID) }

func put(tx storage.Tx, a putArgs) (putDone, error) {
	if _, err := tenancy.GetTenant(tx, a.TenantID); err != nil {
		return putDone{}, err
	}
	now := tx.Now().UTC()
	s := Stored{TenantID: a.TenantID, Ruleset: a.Ruleset, CreatedAt: &now, UpdatedAt: &now}
	at := key(a.TenantID, a.Ruleset.ID)
	raw, err := tx.Get(at)
	if err != nil {
		return putDone{}, err
	}
	created := raw == nil
	if created {
		err = oneMore(tx, a.TenantID)
	} else {
		var old Stored
		if old, err = decode(raw); err == nil {
			s.CreatedAt = old.CreatedAt
		}
	}
	if err != nil {
		return putDone{}, err
	}
	if raw, err = json.Marshal(s); err != nil {
		return putDone{}, fmt.Errorf("policy: encode ruleset: %w", err)
	}
	tx.Set(at, raw)
	return putDone{Stored: s, Created: created}, a.note(tx, "policy.put", a.Ruleset.ID)
}

// oneMore refuses a ruleset beyond MaxRulesets.
func oneMore(tx storage.Tx, tenantID string) error {
	n := 0
	err := tx.Scan(storage.Prefix(key(tenantID, "")), func(string, []byte) bool { n++; return n < MaxRulesets })
	if err == nil && n >= MaxRulesets {
		err = fault.New(fault.Conflict, "The tenant has %d rulesets, as many as it may; delete one first.", n)
	}
	return err
}

func remove(tx storage.Tx, a removeArgs) (none struct{}, err error) {
	at := key(a.TenantID, a.ID)
	raw, err := tx.Get(at)
	if err != nil {
		return none, err
	}
	if raw == nil {
		return none, notFound()
	}
	t, err := tenancy.GetTenant(tx, a.TenantID)
	if err != nil {
		return none, err
	}
	if t.DefaultPolicyID == a.ID {
		return none, fault.New(fault.Conflict, "%s is the tenant's default policy; give it another one first.", a.ID).With("field", "policy_id")
	}
	tx.Delete(at)
	return none, a.note(tx, "policy.delete", a.ID)
}

// note writes the audit record.
func (w *who) note(tx storage.Tx, action, policyID string) error {
	_, err := audit.Append(tx, audit.Record{
		TenantID: w.TenantID, Principal: w.Principal, Action: action, Resource: "policy/" + policyID, Outcome: "ok", CorrelationID: w.CorrelationID,
	})
	return err
}

func decode(raw []byte) (s Stored, err error) {
	if err = json.Unmarshal(raw, &s); err != nil {
		err = fmt.Errorf("policy: decode ruleset: %w", err)
	}
	return s, err
}

func notFound() error { return fault.New(fault.NotFound, "There is no such policy.") }
