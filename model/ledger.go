package model

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// BilledOnce is how long the same request under the same request_id is billed once.
const BilledOnce = 10 * time.Minute

// Commands are what direct calls change in the store.
type Commands struct {
	reserve storage.Call[reserveArgs, reserved]
	settle  storage.Call[settleArgs, struct{}]
}

type reserveArgs struct {
	TenantID    string            `json:"tenant_id"`
	BillingID   string            `json:"billing_id,omitempty"`
	Reservation quota.Reservation `json:"reservation"`
}

type reserved struct {
	Free bool `json:"free,omitempty"`
}

type settleArgs struct {
	TenantID   string           `json:"tenant_id"`
	BillingID  string           `json:"billing_id,omitempty"`
	Settlement quota.Settlement `json:"settlement"`
}

// Define adds the commands to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{
		reserve: storage.Define(reg, "model.reserve", reserve),
		settle:  storage.Define(reg, "model.settle", settle),
	}
}

func reserve(tx storage.Tx, a reserveArgs) (reserved, error) {
	t, err := tenancy.GetTenant(tx, a.TenantID)
	if err != nil {
		return reserved{}, err
	}
	if err := quota.TakeModelRequest(tx, t); err != nil {
		return reserved{}, err
	}
	if a.BillingID != "" {
		billed, err := tx.Get(billedKey(a.TenantID, a.BillingID))
		if err != nil {
			return reserved{}, err
		}
		if billed != nil && tx.Now().Unix() < billedUntil(billed) {
			return reserved{Free: true}, nil
		}
	}
	return reserved{}, quota.Reserve(tx, t, a.Reservation)
}

// settle books a call. Of two that ran at once under one billing id, the first to end is billed.
func settle(tx storage.Tx, a settleArgs) (struct{}, error) {
	s := a.Settlement
	if a.BillingID != "" {
		if err := sweepBilled(tx, a.TenantID); err != nil {
			return struct{}{}, err
		}
		key := billedKey(a.TenantID, a.BillingID)
		billed, err := tx.Get(key)
		if err != nil {
			return struct{}{}, err
		}
		switch {
		case billed != nil && tx.Now().Unix() < billedUntil(billed):
			s.Usage = nil
		case s.Usage != nil:
			until := tx.Now().Add(BilledOnce).Unix()
			tx.Set(key, binary.AppendVarint(nil, until))
			tx.Set(billedOrderKey(a.TenantID, until, a.BillingID), nil)
		}
	}
	return struct{}{}, quota.Settle(tx, a.TenantID, s)
}

func billedKey(tenantID, billingID string) string {
	return tenancy.Place(tenantID, "billed", "id", billingID)
}

const billedSecond = 12 // digits of a Unix second in a key

func billedOrderKey(tenantID string, until int64, billingID string) string {
	return tenancy.Place(tenantID, "billed", "until", fmt.Sprintf("%0*d", billedSecond, until), billingID)
}

func billedUntil(raw []byte) int64 {
	until, n := binary.Varint(raw)
	if n <= 0 {
		return 0
	}
	return until
}

// sweepBilled removes a few records that have ended. Each settlement that adds one removes up to four, so they can't pile up.
func sweepBilled(tx storage.Tx, tenantID string) error {
	const most = 4
	prefix := tenancy.Place(tenantID, "billed", "until") + "/"
	var old []string
	err := tx.Scan(storage.Range{From: prefix, To: prefix + fmt.Sprintf("%0*d", billedSecond, tx.Now().Unix())}, func(key string, _ []byte) bool {
		old = append(old, key)
		return len(old) < most
	})
	if err != nil {
		return fmt.Errorf("model: scan what was billed: %w", err)
	}
	for _, key := range old {
		tx.Delete(key)
		billing := key[len(prefix)+billedSecond+1:]
		// A later call may have been billed under the same id since: then its own entry removes it.
		if raw, err := tx.Get(billedKey(tenantID, billing)); err != nil {
			return err
		} else if raw != nil && billedUntil(raw) <= tx.Now().Unix() {
			tx.Delete(billedKey(tenantID, billing))
		}
	}
	return nil
}

// Ledger reserves and settles direct calls in the store. It implements Budget.
type Ledger struct {
	store    storage.Store
	commands *Commands
}

var _ Budget = (*Ledger)(nil)

// NewLedger returns a Ledger over s.
func NewLedger(s storage.Store, c *Commands) *Ledger { return &Ledger{store: s, commands: c} }

// Reserve implements Budget.
func (l *Ledger) Reserve(ctx context.Context, tenantID, billingID string, r quota.Reservation) (bool, error) {
	// The command has an id, so that asking the leader twice counts one request.
	got, _, err := l.commands.reserve.Do(ctx, l.store, id.New(id.Command), reserveArgs{TenantID: tenantID, BillingID: billingID, Reservation: r})
	return got.Free, err
}

// Settle implements Budget. Settling twice books once, so the command needs no id.
func (l *Ledger) Settle(ctx context.Context, tenantID, billingID string, s quota.Settlement) error {
	_, _, err := l.commands.settle.Do(ctx, l.store, "", settleArgs{TenantID: tenantID, BillingID: billingID, Settlement: s})
	return err
}
