package replica_test

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// shelf is a state in memory that counts how often it is asked for a key.
type shelf struct {
	rows map[string]string
	gets int
}

func (s *shelf) Get(key string) ([]byte, error) {
	s.gets++
	if v, ok := s.rows[key]; ok {
		return []byte(v), nil
	}
	return nil, nil
}

func (s *shelf) Scan(r storage.Range, visit func(string, []byte) bool) error {
	var keys []string
	for key := range s.rows {
		if key >= r.From && (r.To == "" || key < r.To) {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	for _, key := range keys {
		if !visit(key, []byte(s.rows[key])) {
			break
		}
	}
	return nil
}

// apply does to the state what the engine would.
func (s *shelf) apply(g *storage.Group) {
	_ = g.Each(func(op storage.Op) error {
		switch {
		case op.RangeEnd != "":
			for key := range s.rows {
				if key >= op.Key && key < op.RangeEnd {
					delete(s.rows, key)
				}
			}
		case op.Value == nil:
			delete(s.rows, op.Key)
		default:
			s.rows[op.Key] = string(op.Value)
		}
		return nil
	})
}

// A command must never see through the memory of hot keys what the state does not hold, whatever was written, removed,
// removed by range or forgotten for want of room since.
func TestHot_Model(t *testing.T) {
	base := &shelf{rows: map[string]string{}}
	hot := replica.NewHot(base)
	for round := range 3000 {
		g := storage.NewGroup(hot, time.Unix(0, 0))
		for range rand.IntN(6) {
			key := fmt.Sprintf("k/%03d", rand.IntN(400))
			switch rand.IntN(20) {
			case 0:
				g.DeleteRange(storage.Range{From: key, To: key + "~"})
			case 1, 2, 3:
				g.Delete(key)
			case 4:
				g.Set(key, []byte(strings.Repeat("x", 40_000))) // rounds enough of these fill a generation
			default:
				g.Set(key, fmt.Append(nil, round))
			}
			want, wantErr := base.Get(key)
			if got, err := hot.Get(key); err != nil || wantErr != nil || string(got) != string(want) || (got == nil) != (want == nil) {
				t.Fatalf("round %d: %s is %.20q before the group is applied, the state says %.20q", round, key, got, want)
			}
		}
		if rand.IntN(10) == 0 {
			continue // the group was refused: nothing of it happened
		}
		base.apply(g)
		hot.Wrote(g)
		for range 5 {
			key := fmt.Sprintf("k/%03d", rand.IntN(400))
			want, _ := base.Get(key)
			if got, err := hot.Get(key); err != nil || string(got) != string(want) || (got == nil) != (want == nil) {
				t.Fatalf("round %d: %s is %.20q, the state says %.20q", round, key, got, want)
			}
		}
	}
	if most := 9 << 20; hot.Size() > most {
		t.Errorf("remembers %d bytes, more than %d", hot.Size(), most)
	}
}

// What was read once, or written small, costs no second search; a key that is known to be absent neither.
func TestHot_Saves(t *testing.T) {
	base := &shelf{rows: map[string]string{"tenant": strings.Repeat("t", 5000)}}
	hot := replica.NewHot(base)
	for range 100 {
		g := storage.NewGroup(hot, time.Unix(0, 0))
		for _, key := range []string{"tenant", "absent", "counter"} {
			if _, err := g.Get(key); err != nil {
				t.Fatal(err)
			}
		}
		g.Set("counter", []byte("n"))
		base.apply(g)
		hot.Wrote(g)
	}
	if base.gets != 3 {
		t.Errorf("%d searches for three keys", base.gets)
	}
}
