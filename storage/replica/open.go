package replica

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// serverKey holds, in the log's engine, whose log it is.
var serverKey = []byte("server")

// firstState is the name of a state that grew here from nothing.
const firstState = "state-0"

// open opens the directory, or makes it when it holds nothing that counts.
func (s *Store) open() error {
	exists, err := Exists(s.disk, s.o.Dir)
	if err != nil {
		return err
	}
	if exists && s.o.Bootstrap {
		return ErrExists
	}
	if exists {
		return s.reopen()
	}
	if err := s.dir.begin(); err != nil {
		return err
	}
	if err := s.make(); err != nil {
		return err
	}
	return s.dir.finish()
}

// make fills a new directory: the state's identity, CURRENT, the log's owner, and the first configuration if this server
// begins a cluster.
func (s *Store) make() error {
	db, err := pebble.Open(s.dir.path("st", firstState), s.engine("state"))
	if err != nil {
		return err
	}
	s.cur = newState(db, s.dir.path("st", firstState))
	if err := db.Set(identityKey, []byte(identity(s.o.ClusterID)), pebble.NoSync); err != nil {
		return err
	}
	if err := db.Flush(); err != nil {
		return err
	}
	if err := s.dir.writeCurrent(current{name: firstState}); err != nil {
		return err
	}
	s.note(meta{})
	if err := s.openLog(); err != nil {
		return err
	}
	if err := s.logs.Set(serverKey, []byte(s.owner())); err != nil {
		return err
	}
	if !s.o.Bootstrap {
		return nil
	}
	self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(s.o.ServerID), Address: raft.ServerAddress(s.address())}
	entry := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}})}
	// What raft.BootstrapCluster does, which wants a running transport.
	if err := s.logs.SetUint64(currentTermKey, 1); err != nil {
		return err
	}
	return s.logs.StoreLog(entry)
}

// owner says whose log this is.
func (s *Store) owner() string { return s.o.ClusterID + " " + s.o.ServerID }

// address is where other members dial this one.
func (s *Store) address() string {
	if s.o.Stream == nil {
		return s.o.ServerID
	}
	return s.o.Stream.Addr().String()
}

func (s *Store) openLog() error {
	if err := s.dir.checkJournals(s.dir.log()); err != nil {
		return fmt.Errorf("the log: %w", err)
	}
	newest, err := s.dir.newestJournal(s.dir.log()) // before the engine makes a new one
	if err != nil {
		return fmt.Errorf("the log: %w", err)
	}
	db, err := pebble.Open(s.dir.log(), s.engine("log"))
	if err != nil {
		return s.dir.unopened("the log", s.dir.log(), err)
	}
	s.logDB = db
	tail, seen, err := openTail(s.disk, s.dir.path("log", tailName))
	if err != nil {
		return fmt.Errorf("the log: %w", err)
	}
	s.tail = tail
	if s.logs, err = openLog(db, tail, s.die); err != nil {
		return damaged("the log", err)
	}
	s.logs.seen, s.logs.newest = seen, newest
	s.logs.applied = func() uint64 { return s.at.Load().index }
	s.logs.flushed = func() uint64 {
		if f := s.flushed.Load(); f != nil {
			return f.meta.index
		}
		return 0
	}
	s.logs.full = func() bool {
		s.disk.check()
		return s.disk.lowest.Load()
	}
	s.logs.every = s.o.SnapshotBytes
	return nil
}

// damaged names what couldn't be opened; an engine's own words say which file.
func damaged(what string, err error) error {
	if pebble.IsCorruptionError(err) || strings.Contains(err.Error(), "corrupt") {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// reopen opens what an earlier process left, and checks that log and state fit together.
func (s *Store) reopen() error {
	for _, folder := range []string{"log", "st"} {
		ok, err := s.dir.has(s.dir.path(folder))
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: the folder %s is missing", ErrDamaged, folder)
		}
	}
	cur, err := s.dir.readCurrent()
	if err != nil {
		return err
	}
	path := s.dir.path("st", cur.name)
	if ok, err := s.dir.has(path); err != nil || !ok {
		return errors.Join(err, fmt.Errorf("%w: the state st/%s, which CURRENT names, is missing", ErrDamaged, cur.name))
	}
	if err := s.dir.checkJournals(path); err != nil {
		return fmt.Errorf("the state: %w", err)
	}
	readBy := fmt.Sprintf("log/%s and st/%s/%s", s.dir.manifest(s.dir.log()), cur.name, s.dir.manifest(path)) // before opening makes new ones
	po := s.engine("state")
	po.ErrorIfNotExists = true
	db, err := pebble.Open(path, po)
	if err != nil {
		return s.dir.unopened("the state", path, err)
	}
	s.cur = newState(db, path)
	if err := checkIdentity(db, s.o.ClusterID); err != nil {
		return damaged("the state", err)
	}
	m, conf, err := readMeta(db)
	if err != nil {
		return damaged("the state", err)
	}
	s.fsm.m, s.fsm.conf = m, conf
	s.note(m)
	if m.index > 0 {
		s.flushed.Store(&flushed{meta: m, conf: conf})
	}
	if err := s.openLog(); err != nil {
		return err
	}
	owner, err := s.logs.Get(serverKey)
	if err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	if string(owner) != s.owner() {
		if len(owner) == 0 {
			return misfit(fmt.Errorf("%w: the log has no owner", ErrLogLost), readBy)
		}
		return fmt.Errorf("storage: the log is of %q, not of %q", owner, s.owner())
	}
	if err := s.reconcile(m, cur.installed); err != nil {
		return misfit(err, readBy)
	}
	if err := s.replay(); err != nil {
		return err
	}
	return s.dir.sweep(cur.name) // only now: what is refused stays as it was found
}

// replay applies what the log holds beyond the state and is known to be committed, so that a node without a leader serves
// all of it but the last moments. Raft would wait for a leader to learn the same.
func (s *Store) replay() error {
	committed, err := s.logs.committed()
	if err != nil {
		return err
	}
	for next := s.fsm.m.index + 1; next <= min(committed, s.logs.last) && s.sick.Load() == nil; {
		batch, size := make([]*raft.Log, 0, replayEntries), 0
		for ; next <= min(committed, s.logs.last) && len(batch) < replayEntries && size < commitBytes; next++ {
			entry := new(raft.Log)
			if err := s.logs.GetLog(next, entry); err != nil {
				return err
			}
			size += len(entry.Data)
			if entry.Type == raft.LogCommand || entry.Type == raft.LogConfiguration {
				batch = append(batch, entry)
			}
		}
		s.fsm.ApplyBatch(batch)
	}
	return nil
}

// replayEntries bounds how many entries are taken into memory at once.
const replayEntries = 256

// misfit adds to the finding that log and state don't fit together which manifests they were read by: where one has lost its
// end, an engine stands as it stood before, and is content.
func misfit(err error, readBy string) error {
	if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrLogLost) {
		return err
	}
	return fmt.Errorf("%w (read by %s, of which one may have lost its end)", err, readBy)
}

// reconcile compares the log with the state, which says itself up to which entry it stands.
func (s *Store) reconcile(m meta, installed uint64) error {
	l := s.logs
	switch {
	case l.last < l.seen:
		return errShortened(l)
	case l.last < m.index:
		if m.index > installed {
			return fmt.Errorf("%w: it ends at entry %d, the state holds %d", ErrLogLost, l.last, m.index)
		}
		// An install that was cut before raft emptied the log.
		return l.DeleteRange(l.first, l.last)
	case l.first > m.index+1:
		return fmt.Errorf("%w: the log begins at entry %d, the state ends at %d", ErrDamaged, l.first, m.index)
	case m.index > 0 && l.first <= m.index:
		var entry raft.Log
		if err := l.GetLog(m.index, &entry); err != nil {
			return err
		}
		if entry.Term == m.term {
			break
		}
		if m.index != installed {
			return fmt.Errorf("%w: entry %d is of term %d in the log and of %d in the state", ErrDamaged, m.index, entry.Term, m.term)
		}
		return l.DeleteRange(l.first, l.last)
	}
	return l.verify(m.index + 1)
}

// newStateDir names a directory for a state to be installed.
func (s *Store) newStateDir() string {
	return s.dir.path("st", fmt.Sprintf("state-%x-%d", time.Now().UnixNano(), s.serial.Add(1)))
}
