package storagetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// Commands are the commands that the suite asks for. Define puts them into the registry an engine is made with.
type Commands struct {
	write storage.Call[[]Op, int]
	count storage.Call[string, int]
	now   storage.Call[string, time.Time]
	fill  storage.Call[int, int]
	touch storage.Call[string, int]
	sweep storage.Call[int, int]
	raw   storage.Call[json.RawMessage, json.RawMessage]
}

// Op is one step of the command "write". Its keys are any bytes, so it brings its own JSON form: a string of JSON is
// UTF-8, and what isn't would come out as something else at the leader.
type Op struct {
	Kind string // set, delete, cut, refuse, break or panic
	Key  string
	To   string
	Data []byte
}

type wireOp struct {
	Kind          string
	Key, To, Data []byte
}

// MarshalJSON implements json.Marshaler.
func (op Op) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireOp{op.Kind, []byte(op.Key), []byte(op.To), op.Data})
}

// UnmarshalJSON implements json.Unmarshaler.
func (op *Op) UnmarshalJSON(b []byte) error {
	var w wireOp
	err := json.Unmarshal(b, &w)
	*op = Op{w.Kind, string(w.Key), string(w.To), w.Data}
	return err
}

var errBroken = errors.New("storagetest: broken")

// Define adds the suite's commands to reg.
func Define(reg *storage.Registry) Commands {
	return Commands{
		write: storage.Define(reg, "storagetest.write", write),
		count: storage.Define(reg, "storagetest.count", count),
		now: storage.Define(reg, "storagetest.now", func(tx storage.Tx, key string) (time.Time, error) {
			tx.Set(key, []byte(tx.Now().Format(time.RFC3339Nano)))
			return tx.Now(), nil
		}),
		fill: storage.Define(reg, "storagetest.fill", func(tx storage.Tx, size int) (int, error) {
			for i := range 4 {
				tx.Set(fmt.Sprintf("fill/%d", i), make([]byte, size/4))
			}
			return size, nil
		}),
		touch: storage.Define(reg, "storagetest.touch", func(tx storage.Tx, key string) (int, error) {
			v, err := tx.Get(key)
			return len(v), err
		}),
		sweep: storage.Define(reg, "storagetest.sweep", storage.SweepAnswers),
		raw: storage.Define(reg, "storagetest.raw", func(tx storage.Tx, m json.RawMessage) (json.RawMessage, error) {
			tx.Set("raw", m)
			return m, nil
		}),
	}
}

// write does ops one after another and answers how many there were.
func write(tx storage.Tx, ops []Op) (int, error) {
	for i, op := range ops {
		switch op.Kind {
		case "set":
			tx.Set(op.Key, op.Data)
		case "delete":
			tx.Delete(op.Key)
		case "cut":
			tx.DeleteRange(storage.Range{From: op.Key, To: op.To})
		case "refuse":
			return i, fault.New(fault.Conflict, "refused at %d", i)
		case "break":
			return i, errBroken
		case "panic":
			panic("storagetest: as asked")
		}
	}
	return len(ops), nil
}

// count adds one to the number under "count" and sets a key of its own to it. It answers the number.
func count(tx storage.Tx, key string) (int, error) {
	n := 0
	raw, err := tx.Get("count")
	if err != nil {
		return 0, err
	}
	if raw != nil {
		if _, err := fmt.Sscan(string(raw), &n); err != nil {
			return 0, err
		}
	}
	n++
	tx.Set("count", fmt.Append(nil, n))
	tx.Set("counted/"+key, fmt.Append(nil, n))
	return n, nil
}
