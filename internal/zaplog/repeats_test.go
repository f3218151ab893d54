package zaplog_test

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nexixai/agentos/internal/zaplog"
)

// Without it a member that is away writes ten lines a second into the log of the leader.
func TestRepeats_Tell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := zaplog.NewRepeats(time.Minute)
		told := 0
		for range 1000 { // 100 s
			if left, tell := r.Tell("a"); tell {
				if told++; told == 2 && left != 599 {
					t.Errorf("after a minute %d are said to be left out, want 599", left)
				}
			}
			time.Sleep(100 * time.Millisecond) // of the fake clock
		}
		if told != 2 {
			t.Errorf("told %d times in 100 s, want 2", told)
		}
		if _, tell := r.Tell("b"); !tell {
			t.Error("another line was not told")
		}
		ended, left := r.Over(func(key string) bool { return key == "a" })
		if ended != 1 || left != 399 {
			t.Errorf("%d lines ended and %d left out, want 1 and 399", ended, left)
		}
		if left, tell := r.Tell("a"); !tell || left != 0 {
			t.Errorf("what was over is news again: told %v, left out %d", tell, left)
		}
	})
}

// A stranger may choose the words of a line: neither the memory nor the log may grow by it.
func TestRepeats_Bounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := zaplog.NewRepeats(time.Minute)
		told := 0
		for i := range 10_000 {
			if _, tell := r.Tell(strconv.Itoa(i)); tell {
				told++
			}
		}
		if told > 300 {
			t.Errorf("%d lines for 10,000 strangers", told)
		}
		if ended, _ := r.Over(func(string) bool { return true }); ended > 300 {
			t.Errorf("%d lines are remembered", ended)
		}
		for i := range 400 { // old lines make room for new ones
			time.Sleep(time.Second)
			if _, tell := r.Tell("later " + strings.Repeat("x", i)); !tell {
				t.Fatalf("line %d was not told, though there is room", i)
			}
		}
	})
}

func TestRepeats_Concurrent(t *testing.T) {
	r := zaplog.NewRepeats(time.Hour)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1000 {
				r.Tell(strconv.Itoa(i % 10))
			}
		})
	}
	wg.Wait()
	if ended, left := r.Over(func(string) bool { return true }); ended != 10 || left != 7990 {
		t.Errorf("%d lines, %d left out; want 10 and 7990", ended, left)
	}
}
