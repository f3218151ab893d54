package replica

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"

	"github.com/nexixai/agentos/storage"
)

// Backup is a copy of the whole state on its way out.
type Backup struct {
	io.ReadCloser
	// Index is the entry that the copy holds everything up to.
	Index uint64
	// Size is how many bytes come.
	Size int64
}

// Backup streams a copy of the state as it stands, with a checksum for each part; Restore reads it. Closing it early is
// harmless. One copy is under way at a time, those for members that lag among them: the call waits for its turn.
func (s *Store) Backup(ctx context.Context) (*Backup, error) {
	if s.stopped() || s.dead.Load() {
		return nil, storage.Closed()
	}
	if err := s.reach(ctx, s.answered.Load()); err != nil {
		return nil, err
	}
	m, r, err := s.send()
	if err != nil {
		return nil, err
	}
	return &Backup{ReadCloser: r, Index: m.Index, Size: m.Size}, nil
}

// ErrBackup says that what was to be restored is not a whole backup.
var ErrBackup = errors.New("the backup is damaged or cut short, or is none")

// unusable tells a fault of the backup from one of the disk that it is unpacked to.
func unusable(err error) error {
	for _, cause := range []error{io.EOF, io.ErrUnexpectedEOF, tar.ErrHeader, ErrDamaged} {
		if errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", ErrBackup, err)
		}
	}
	return err
}

// Restore makes a replica in o.Dir, which must hold none, out of a backup: the one voter of a new cluster, o.ClusterID. It
// returns the entry that the state holds everything up to. What was cut short by a crash counts for nothing and is made
// anew by the next try.
func Restore(o Options, backup io.Reader) (index uint64, err error) {
	s, err := prepare(o)
	if err != nil {
		return 0, err
	}
	if exists, err := Exists(s.disk, s.o.Dir); err != nil {
		return 0, err
	} else if exists {
		return 0, ErrExists
	}
	if err := s.dir.begin(); err != nil {
		return 0, err
	}
	path := s.dir.path("st", firstState)
	if err := unpack(s.disk, path, backup); err != nil {
		return 0, unusable(err)
	}
	if err := s.takeOver(path); err != nil {
		s.discard()
		return 0, fmt.Errorf("storage: restoring: %w", unusable(err))
	}
	index = s.fsm.m.index
	if err := s.closeFiles(); err != nil {
		return 0, err
	}
	return index, s.dir.finish()
}

// takeOver makes an unpacked state the replica's own: of another cluster, with a log that begins behind it.
func (s *Store) takeOver(path string) error {
	po := s.engine("state")
	po.ErrorIfNotExists = true
	db, err := pebble.Open(path, po)
	if err != nil {
		return damaged("the backup", err)
	}
	s.cur = newState(db, path)
	if s.fsm.m, s.fsm.conf, err = readMeta(db); err != nil {
		return damaged("the backup", err)
	}
	if err := db.Set(identityKey, []byte(identity(s.o.ClusterID)), pebble.NoSync); err != nil {
		return err
	}
	if err := db.Flush(); err != nil {
		return err
	}
	s.note(s.fsm.m)
	if err := s.dir.writeCurrent(current{name: firstState, installed: s.fsm.m.index}); err != nil {
		return err
	}
	if err := s.openLog(); err != nil {
		return err
	}
	if err := s.logs.Set(serverKey, []byte(s.owner())); err != nil {
		return err
	}
	if err := s.logs.SetUint64(currentTermKey, s.fsm.m.term); err != nil {
		return err
	}
	return s.soleVoterFrom(s.fsm.m.index+1, s.fsm.m.term)
}

// currentTermKey is where raft keeps the newest term that it has seen.
var currentTermKey = []byte("CurrentTerm")

// Recover makes the replica in o.Dir the one voter of its cluster, whoever else was: for a cluster that has lost more than
// half of its voters for good. What the log holds is taken as committed. The others must never come back: a replica that
// the lost ones had acknowledged to, and this one had not, is a different history.
func Recover(o Options) error {
	s, err := Open(o)
	if err != nil {
		return err
	}
	term, err := s.logs.GetUint64(currentTermKey)
	if err == nil {
		err = s.soleVoterFrom(max(s.logs.last, s.fsm.m.index)+1, term)
	}
	return errors.Join(err, s.closeFiles())
}

// soleVoterFrom writes a configuration with this server alone into the log.
func (s *Store) soleVoterFrom(index, term uint64) error {
	self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(s.o.ServerID), Address: raft.ServerAddress(s.address())}
	entry := &raft.Log{Index: index, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}})}
	return s.logs.StoreLog(entry)
}
