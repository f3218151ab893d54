package quota_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy/quota"
)

// BenchmarkRun is what one run of two model calls and one tool call asks of this room in the store's writer, over groups of
// a hundred runs.
func BenchmarkRun(b *testing.B) {
	tenant := budgeted("day", ptr(int64(1)<<60), ptr(1e9))
	tenant.Quotas.Runs.MaxConcurrentRuns = ptr(int64(1) << 40)
	tenant.Quotas.Runs.RunCreateQPS, tenant.Quotas.Runs.RunCreateBurst = ptr(1e9), ptr(int64(1)<<40)
	tenant.Quotas.Tools.ToolCallsPerMinute = ptr(int64(1) << 40)
	ids := make([]string, 200)
	for i := range ids {
		ids[i] = fmt.Sprintf("rsv_01JZXW6T2V3Y4Z5A6B7C8D%04d", i)
	}
	usage := &quota.Usage{
		PrincipalID: "usr_tnt_demo_admin", AgentID: "agt_sample_echo_v1", Model: "builtin/echo-1", Operation: "chat",
		Requests: 1, InputTokens: 10, OutputTokens: 20, CostNUSD: 30_000,
	}
	check := func(err error) { // not must: testing's Helper costs more than what is measured
		if err != nil {
			b.Fatal(err)
		}
	}
	part := func(name string, do func(tx storage.Tx, i int)) {
		b.Run(name, func(b *testing.B) {
			var tx *storage.Group
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%100 == 0 {
					tx = newTx()
				}
				do(tx, i%100)
			}
		})
	}
	reserve := func(tx storage.Tx, i int) {
		check(quota.Reserve(tx, tenant, quota.Reservation{
			ID: ids[i], Tokens: 100, CostNUSD: 1000, Expires: noon.Add(time.Minute),
			PrincipalID: usage.PrincipalID, AgentID: usage.AgentID, Model: usage.Model,
		}))
	}
	settle := func(tx storage.Tx, i int) {
		check(quota.Settle(tx, tenant.ID, quota.Settlement{ReservationID: ids[i], Usage: usage}))
	}
	part("AdmitRun", func(tx storage.Tx, i int) { check(quota.AdmitRun(tx, tenant)) })
	part("ReleaseRun", func(tx storage.Tx, i int) { check(quota.ReleaseRun(tx, tenant.ID)) })
	part("TakeToolCall", func(tx storage.Tx, i int) { check(quota.TakeToolCall(tx, tenant)) })
	part("Reserve", reserve)
	part("ReserveAndSettle", func(tx storage.Tx, i int) { reserve(tx, i); settle(tx, i) })
	part("Run", func(tx storage.Tx, i int) {
		check(quota.AdmitRun(tx, tenant))
		for n := range 2 {
			reserve(tx, 2*i+n)
			settle(tx, 2*i+n)
		}
		check(quota.TakeToolCall(tx, tenant))
		check(quota.ReleaseRun(tx, tenant.ID))
	})
}
