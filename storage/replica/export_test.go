package replica

import (
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
)

// ErrSkipped is what a reign ends with when its entry was passed over.
var ErrSkipped = errSkipped

// BeforePropose has f called between the evaluation of each group and its proposal. Call it before Start.
func (s *Store) BeforePropose(f func()) { s.beforePropose = f }

// ProposeForeign puts an entry into the log that sets key, as another leader's reign would have written it: on the state's
// last stamp, or on one that never was when stale is true. It reports whether the entry was applied.
func (s *Store) ProposeForeign(key string, stale bool) (applied bool, err error) {
	base := s.at.Load().stamp
	if stale {
		base.n += 1000
	}
	own := stamp{randomWord(), 1}
	g := storage.NewGroup(nil, time.Now())
	g.Set(key, []byte("foreign"))
	data, err := encodeEntry(base, own, time.Now(), g)
	if err != nil {
		return false, err
	}
	f := s.raft.ApplyLog(raft.Log{Data: data}, 0)
	if err := f.Error(); err != nil {
		return false, err
	}
	return s.at.Load().stamp == own, nil
}

// RaftLog is the way of raft's lines into log.
func RaftLog(log *zap.Logger) (raftsay hclog.Logger, answers func(names ...string), led func(leader string)) {
	w := newRaftLines(log)
	return w.logger(), w.answers, w.led
}

// Hot is what a reign reads through.
type Hot = hot

// NewHot returns a Hot over base.
func NewHot(base storage.Reader) *Hot { return &hot{Reader: base} }

// Wrote takes in an applied group.
func (h *Hot) Wrote(g *storage.Group) { h.wrote(g) }

// Size is about how many bytes are remembered.
func (h *Hot) Size() (n int) {
	for _, m := range []map[string][]byte{h.young, h.old} {
		for key, value := range m {
			n += len(key) + len(value)
		}
	}
	return n
}

// Snapshot flushes and cuts at once.
func (s *Store) Snapshot() error {
	if err := s.snapshot(); !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return err
	}
	return nil
}

// LastIndex is what raft takes for the end of this member's log or snapshot, whichever is further.
func (s *Store) LastIndex() uint64 { return s.raft.LastIndex() }

// Patient gives raft time-outs that a busy machine does not meet by itself.
func (o *Options) Patient() {
	o.times = &timeouts{heartbeat: 3 * time.Second, election: 3 * time.Second, lease: 2 * time.Second, commit: 50 * time.Millisecond}
}

// TransferUnheard hands the office to id without having heard of it just before, as Store.Transfer does not.
func (s *Store) TransferUnheard(id string) error {
	for _, server := range s.Configuration() {
		if server.ID == id {
			return s.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(server.Address)).Error()
		}
	}
	return errors.New("no such member")
}

// InTransfer says whether err means that the office is being handed on.
func InTransfer(err error) bool { return errors.Is(err, raft.ErrLeadershipTransferInProgress) }

// Barrier puts an entry into the log that the state never hears of, and waits for it.
func (s *Store) Barrier() error { return s.raft.Barrier(0).Error() }
