package faults_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// errWrong is in every error that tells of something other than what was acknowledged; what is not wrong is only missing,
// because nobody answered.
var errWrong = errors.New("wrong")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// once checks that no effect was completed twice, over all runs.
func once(known map[string]ended) error {
	var errs []error
	seen := map[string]string{}
	for id, e := range known {
		for _, call := range e.calls {
			if other, ok := seen[call]; ok {
				errs = append(errs, fmt.Errorf("%w: effect %s was completed in %s and in %s", errWrong, call, other, id))
			}
			seen[call] = id
		}
	}
	return errors.Join(errs...)
}

// slots checks that exactly limit runs are admitted when all slots should be free, and frees them again.
func slots(tn *harness.Tenant, limit int) error {
	ctx := context.Background()
	var admitted []string
	for i := range limit + 5 {
		a, err := tn.Try(ctx, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/wait 10m", nil))
		switch {
		case err != nil:
			return err
		case a.Status == 201:
			admitted = append(admitted, a.Str("run.run_id"))
		case a.Status != 429:
			return fmt.Errorf("create %d: %d %s", i, a.Status, a.Body)
		}
	}
	var errs []error
	if len(admitted) != limit {
		errs = append(errs, fmt.Errorf("%w: %d runs were admitted, want %d: slots were lost or won", errWrong, len(admitted), limit))
	}
	for _, id := range admitted {
		if a, err := tn.Try(ctx, "POST", "/v1/runs/"+id+":cancel", nil); err != nil || a.Status != 200 {
			errs = append(errs, fmt.Errorf("cancel %s: %d %s %v", id, a.Status, a.Body, err))
		}
	}
	for _, id := range admitted {
		events, err := tn.TryJournal(id, bound)
		if err == nil {
			err = harness.CheckJournal(events)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("run %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// budget checks that nothing stays reserved and that the books and the journals agree.
func budget(tn *harness.Tenant, journals int64) error {
	var a harness.Answer
	var err error
	var errs []error
	if !harness.Poll(settling, 100*time.Millisecond, func() bool {
		a, err = tn.Try(context.Background(), "GET", "/v1/usage?window=day", nil)
		return err == nil && a.Int("usage.budgets.0.reserved") == 0
	}) {
		errs = append(errs, fmt.Errorf("%w: something stays reserved: %s %v", errWrong, a.Body, err))
	}
	if spent := a.Int("usage.budgets.0.spent"); spent != journals {
		errs = append(errs, fmt.Errorf("%w: the books say that %d tokens were spent, the journals %d", errWrong, spent, journals))
	}
	return errors.Join(errs...)
}

// settling is how long what a dead attempt held back may stay so once its run has ended: it has been given back by the
// run's end itself.
const settling = 2 * time.Second

// slotTokens is what the canceled runs of slots have spent; they are the newest.
func slotTokens(t *testing.T, tn *harness.Tenant) int64 {
	t.Helper()
	a := tn.Want(t, 200, "GET", fmt.Sprintf("/v1/runs?status=canceled&limit=%d", 500), nil)
	runs, _ := a.At("runs").([]any)
	var tokens int64
	for i := range runs {
		tokens += a.Int(fmt.Sprintf("runs.%d.usage.total_tokens", i))
	}
	return tokens
}
