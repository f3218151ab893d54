package tenancy

import (
	"encoding/json"
	"fmt"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// GetTenant reads one tenant, inside a command or a view, or answers fault.NotFound. Commands on a hot path use
// Commands.Tenant, which decodes only what has changed.
func GetTenant(r storage.Reader, tenantID string) (*Tenant, error) {
	raw, err := r.Get(tenantKeys + tenantID)
	if err != nil {
		return nil, fmt.Errorf("tenancy: read tenant: %w", err)
	}
	if raw == nil {
		return nil, noTenant()
	}
	return decodeTenant(raw)
}

func decodeTenant(raw []byte) (*Tenant, error) {
	t := new(Tenant)
	if err := json.Unmarshal(raw, t); err != nil {
		return nil, fmt.Errorf("tenancy: decode tenant: %w", err)
	}
	return t, nil
}

func noTenant() error {
	return fault.New(fault.NotFound, "There is no such tenant.")
}

func putTenant(tx storage.Tx, t *Tenant) error {
	raw, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("tenancy: encode tenant: %w", err)
	}
	tx.Set(tenantKeys+t.ID, raw)
	return nil
}
