package replica_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hashicorp/raft"

	"github.com/nexixai/agentos/storage/replica"
)

// A member that is away for five minutes is worth six lines of each kind, not three thousand, and its return one.
func TestRaftLog_TellsOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, seen := observer.New(zap.InfoLevel)
		say, answers, _ := replica.RaftLog(zap.New(core))
		away := raft.Server{Suffrage: raft.Voter, ID: "stk_b-1", Address: "127.0.0.1:7001"}
		for i := range 3000 {
			err := fmt.Errorf("dial tcp 127.0.0.1:%d->%s: refused", 40000+i, away.Address)
			say.Error("failed to heartbeat to", "peer", away.Address, "backoff time", time.Duration(i), "error", err)
			say.Error("failed to appendEntries to", "peer", away, "error", err)
			time.Sleep(100 * time.Millisecond) // of the bubble's clock
		}
		if n := seen.Len(); n < 10 || n > 12 {
			t.Errorf("%d lines, want 10 to 12", n)
		}
		left := int64(0)
		for _, e := range seen.TakeAll() {
			if e.Level != zap.ErrorLevel {
				t.Errorf("level %v of %v", e.Level, e.ContextMap())
			}
			if n, ok := e.ContextMap()["left_out"].(int64); ok {
				left += n
			}
		}
		if left < 4700 {
			t.Errorf("%d lines are said to be left out of 6000", left)
		}

		say.Error("failed to heartbeat to", "peer", "127.0.0.1:7002", "error", errors.New("x"))
		if seen.Len() != 1 {
			t.Fatal("another member's absence is not told")
		}
		answers("stk_b-1", "127.0.0.1:7001")
		if all := seen.TakeAll(); len(all) != 2 || all[1].Message != "a member of the log answers again" || all[1].ContextMap()["left_out"].(int64) == 0 {
			t.Errorf("its return: %v", all)
		}
		if answers("stk_b-1", "127.0.0.1:7001"); seen.Len() != 0 {
			t.Error("told to be back though it was not away")
		}
		say.Error("failed to heartbeat to", "peer", away.Address, "error", errors.New("x"))
		if seen.Len() != 1 {
			t.Error("away once more, and nothing is told")
		}
	})
}

// Without a quorum each election is as vain as the last one.
func TestRaftLog_NoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, seen := observer.New(zap.InfoLevel)
		say, _, led := replica.RaftLog(zap.New(core))
		for i := range 120 {
			say.Warn("Election timeout reached, restarting election")
			say.Error("failed to make requestVote RPC", "target", raft.Server{ID: "stk_b-1", Address: "127.0.0.1:7001"}, "error", "no route", "term", i)
			time.Sleep(time.Second) // of the bubble's clock
		}
		if n := seen.Len(); n != 4 {
			t.Errorf("%d lines in two minutes, want 4: %v", n, seen.All())
		}
		seen.TakeAll()
		if led("stk_a-1"); seen.Len() != 1 {
			t.Errorf("that there is a leader again: %v", seen.All())
		}
	})
}
