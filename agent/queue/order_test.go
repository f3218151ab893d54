package queue_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is a store on which a test acts as a command would.
type desk struct {
	*mem.Store
	do       storage.Call[func(storage.Tx) error, struct{}]
	commands *queue.Commands
}

func newDesk() *desk {
	reg := storage.NewRegistry()
	d := &desk{commands: queue.Define(reg)}
	d.do = storage.Define(reg, "test.do", func(tx storage.Tx, f func(storage.Tx) error) (struct{}, error) {
		return struct{}{}, f(tx)
	})
	d.Store = mem.New(mem.Options{Registry: reg})
	return d
}

func (d *desk) must(t testing.TB, f func(tx storage.Tx) error) {
	t.Helper()
	if _, _, err := d.do.Do(t.Context(), d.Store, "", f); err != nil {
		t.Fatal(err)
	}
}

func (d *desk) push(t testing.TB, it queue.Item, weight int) (place string) {
	t.Helper()
	d.must(t, func(tx storage.Tx) (err error) {
		place, err = queue.Push(tx, it, weight)
		return err
	})
	return place
}

func (d *desk) take(t testing.TB, region string) string {
	t.Helper()
	var run string
	d.must(t, func(tx storage.Tx) error {
		it, ok, err := queue.Take(tx, region)
		if ok {
			run = it.RunID
		}
		return err
	})
	return run
}

// Requirements: A6.
func TestTake(t *testing.T) {
	item := func(run string, p queue.Priority) queue.Item {
		return queue.Item{TenantID: "tnt_a", RunID: run, Priority: p, CreatedMS: 1}
	}
	t.Run("rank before age", func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		d.push(t, item("low", queue.Low), 1)
		d.push(t, item("normal", queue.Normal), 1)
		d.push(t, item("high", queue.High), 1)
		for _, want := range []string{"high", "normal", "low", ""} {
			if got := d.take(t, "usw2"); got != want {
				t.Errorf("took %q, want %q", got, want)
			}
		}
	})
	t.Run("a tenant with much waits for one with little", func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		for i := range 10 {
			d.push(t, item(fmt.Sprint("much", i), queue.Normal), 1)
		}
		if got := d.take(t, ""); got != "much0" {
			t.Fatalf("took %q first", got)
		}
		d.push(t, queue.Item{TenantID: "tnt_b", RunID: "little", Priority: queue.Normal, CreatedMS: 99}, 1)
		if a, b := d.take(t, ""), d.take(t, ""); a != "little" && b != "little" {
			t.Errorf("took %q and %q before the other tenant's only run", a, b)
		}
	})
	t.Run("by weight", func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		for i := range 40 {
			d.push(t, queue.Item{TenantID: "tnt_heavy", RunID: fmt.Sprint("heavy", i), CreatedMS: 1}, 4)
			d.push(t, queue.Item{TenantID: "tnt_light", RunID: fmt.Sprint("light", i), CreatedMS: 1}, 1)
		}
		heavy := 0
		for range 25 {
			if run := d.take(t, ""); run[:5] == "heavy" {
				heavy++
			}
		}
		if heavy < 19 || heavy > 21 {
			t.Errorf("of 25 turns a tenant with weight 4 against 1 had %d, want 20", heavy)
		}
	})
	t.Run("a region's runs stay there", func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		d.push(t, queue.Item{TenantID: "tnt_a", RunID: "eu", Region: "eu1", CreatedMS: 1}, 1)
		d.push(t, queue.Item{TenantID: "tnt_a", RunID: "any", CreatedMS: 2}, 1)
		for _, c := range []struct{ region, want string }{{"usw2", "any"}, {"usw2", ""}, {"", ""}, {"eu1", "eu"}} {
			if got := d.take(t, c.region); got != c.want {
				t.Errorf("a node in %q took %q, want %q", c.region, got, c.want)
			}
		}
	})
	t.Run("what was taken in vain comes first again", func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		for i := range 3 {
			it := item(fmt.Sprint("run", i), queue.Normal)
			it.CreatedMS = int64(i)
			d.push(t, it, 1)
		}
		first := d.take(t, "")
		d.must(t, func(tx storage.Tx) error {
			_, err := queue.Return(tx, item(first, queue.Normal))
			return err
		})
		if got := d.take(t, ""); got != first {
			t.Errorf("took %q, want %q again", got, first)
		}
	})
}

// Whatever is pushed, removed and taken: nothing is lost, nothing comes twice, the counts are right, and no item goes
// before one of a higher rank.
//
// Requirements: A6.
func TestQueue_Model(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		d := newDesk()
		defer d.Close()
		type waiting struct {
			item  queue.Item
			place string
		}
		there := map[string]waiting{}
		do := func(f func(tx storage.Tx) error) {
			if _, _, err := d.do.Do(t.Context(), d.Store, "", f); err != nil {
				r.Fatal(err)
			}
		}
		regions := []string{"", "eu1", "usw2"}
		n := 0
		r.Repeat(map[string]func(*rapid.T){
			"push": func(r *rapid.T) {
				n++
				it := queue.Item{
					TenantID: rapid.SampledFrom([]string{"tnt_a", "tnt_b", "tnt_c"}).Draw(r, "tenant"), RunID: fmt.Sprint("run_", n),
					Priority: queue.Priority(rapid.IntRange(0, 2).Draw(r, "rank")), Region: rapid.SampledFrom(regions).Draw(r, "region"), CreatedMS: int64(n),
				}
				weight := rapid.IntRange(0, 4).Draw(r, "weight")
				do(func(tx storage.Tx) error {
					place, err := queue.Push(tx, it, weight)
					there[it.RunID] = waiting{it, place}
					return err
				})
			},
			"remove": func(r *rapid.T) {
				for run, w := range there {
					do(func(tx storage.Tx) error { return queue.Remove(tx, w.place) })
					do(func(tx storage.Tx) error { return queue.Remove(tx, w.place) }) // again is harmless
					delete(there, run)
					return
				}
			},
			"take": func(r *rapid.T) {
				region := rapid.SampledFrom(regions).Draw(r, "region")
				var got queue.Item
				var ok, waits bool
				do(func(tx storage.Tx) (err error) {
					if waits, err = queue.Waits(tx, region, queue.Low); err == nil {
						got, ok, err = queue.Take(tx, region)
					}
					return err
				})
				best := queue.Low + 1
				for _, w := range there {
					if w.item.Region == "" || w.item.Region == region {
						best = min(best, w.item.Priority)
					}
				}
				if ok != (best <= queue.Low) || waits != ok {
					r.Fatalf("took %v (waits %v) although the best that waits is %d", ok, waits, best)
				}
				if !ok {
					return
				}
				if w, known := there[got.RunID]; !known || w.item != got || got.Priority != best {
					r.Fatalf("took %+v, of which the model knows %+v; best rank %d", got, w, best)
				}
				delete(there, got.RunID)
			},
			"": func(r *rapid.T) {
				var want [3]uint64
				for _, w := range there {
					want[w.item.Priority]++
				}
				err := d.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
					high, normal, low, err := queue.Depth(s)
					if got := [3]uint64{high, normal, low}; got != want {
						r.Fatalf("depth %v, want %v", got, want)
					}
					return err
				})
				if err != nil {
					r.Fatal(err)
				}
			},
		})
	})
}
