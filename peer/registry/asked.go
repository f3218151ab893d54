package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// By says who asks for a change, for the audit.
type By struct {
	Principal     string `json:"principal"`
	CorrelationID string `json:"correlation_id"`
}

// Asked is what a change carries of the request behind it, so that the same request changes it once.
type Asked struct {
	TenantID string               `json:"tenant_id,omitempty"` // the asker's, which the key belongs to
	Idem     *tenancy.Idempotency `json:"idem,omitempty"`      // nil: the request had no key
}

// ByActor is by, as a command is told of it.
func ByActor(by tenancy.Actor) By {
	return By{Principal: by.Auth.Principal.ID, CorrelationID: by.CorrelationID}
}

// AskedBy is the request behind a change, as far as it's to be done once. what is all that the request says.
func AskedBy(by tenancy.Actor, what ...any) Asked {
	if by.Idem == nil {
		return Asked{}
	}
	sum := sha256.Sum256(fmt.Append(nil, what...))
	return Asked{TenantID: by.Auth.TenantID, Idem: &tenancy.Idempotency{
		Principal: by.Auth.Principal.ID, Operation: by.Idem.Operation, Key: by.Idem.Key, RequestHash: hex.EncodeToString(sum[:]),
	}}
}

// once does a change that has an id at most once for each key, and returns the id of the change that was done.
func (a Asked) once(tx storage.Tx, changeID string, do func() error) (doneID string, err error) {
	doneID, _, err = tenancy.Once(tx, a.TenantID, a.Idem, func() (string, error) { return changeID, do() })
	return doneID, err
}

// audit appends what was done to the platform's chain.
func (by By) audit(tx storage.Tx, action, resource string, details map[string]any) error {
	_, err := tenancy.AppendAudit(tx, tenancy.AuditRecord{
		Principal: by.Principal, Action: action, Resource: resource, Outcome: "ok", CorrelationID: by.CorrelationID, Details: details,
	})
	return err
}
