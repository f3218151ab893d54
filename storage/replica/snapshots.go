package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"
)

// snapshots is raft's idea of our snapshots. There is no second copy of the state: a local snapshot is only a flush, after
// which the log may be cut; a checkpoint is made when a member needs one, and is streamed; what a member receives is
// unpacked into a new directory and adopted by machine.Restore.
type snapshots struct{ s *Store }

var _ raft.SnapshotStore = snapshots{}

// flushed says what the state is known to hold on disk.
type flushed struct {
	meta meta
	conf configuration
}

func (f flushed) describe(id string, size int64) *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: id, Index: f.meta.index, Term: f.meta.term,
		Configuration: f.conf.conf, ConfigurationIndex: f.conf.index, Size: size,
	}
}

const flushedID = "flushed"

// List implements raft.SnapshotStore: at most one snapshot, of what is flushed.
func (p snapshots) List() ([]*raft.SnapshotMeta, error) {
	f := p.s.flushed.Load()
	if f == nil || f.meta.index == 0 {
		return nil, nil
	}
	return []*raft.SnapshotMeta{f.describe(flushedID, 0)}, nil
}

// Create implements raft.SnapshotStore. Whether the snapshot is a local one or one being received shows when it's used.
func (p snapshots) Create(_ raft.SnapshotVersion, index, term uint64, _ raft.Configuration, _ uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if p.s.disk.low.Load() {
		return nil, errDisk()
	}
	n := p.s.serial.Add(1)
	return &sink{s: p.s, id: fmt.Sprintf("install-%d-%d", index, n), index: index, term: term, dir: p.s.newStateDir()}, nil
}

// Open implements raft.SnapshotStore: for a member that needs the state, or for Restore after an install.
func (p snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if id == flushedID {
		return p.s.send()
	}
	p.s.installMu.Lock()
	in := p.s.arrived
	p.s.installMu.Unlock()
	if in == nil || in.id != id {
		return nil, nil, fmt.Errorf("storage: no snapshot %q", id)
	}
	return &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, ID: id, Index: in.index, Term: in.term, Size: 1}, in, nil
}

// flushing is a local snapshot on its way.
type flushing struct {
	s       *Store
	at      flushed
	of      *state // which at describes
	cutting bool   // s.cutting is held
}

// errReplaced ends a local snapshot of a state that is no longer the current one.
var errReplaced = errors.New("storage: the state was replaced meanwhile")

// Persist implements raft.FSMSnapshot: nothing is copied. Raft takes the snapshot for its last when Persist has returned,
// whatever it has installed meanwhile: it would stand at an index far behind its state then, with an empty log, and vote
// for those who lack what it holds. So a local snapshot ends when the state has been replaced since it began, and from here
// to Release no state is replaced.
func (p *flushing) Persist(raft.SnapshotSink) error {
	p.s.cutting.Lock()
	p.cutting = true
	st := p.s.acquire()
	if st == nil {
		return errors.New("storage: closed")
	}
	defer st.release()
	if st != p.of {
		return errReplaced
	}
	if err := st.db.Flush(); err != nil {
		return err
	}
	p.s.noteFlushed(p.at)
	return nil
}

// Release implements raft.FSMSnapshot.
func (p *flushing) Release() {
	if p.cutting {
		p.s.cutting.Unlock()
	}
}

// noteFlushed remembers at, unless more is known to be flushed already.
func (s *Store) noteFlushed(at flushed) {
	for {
		old := s.flushed.Load()
		if old != nil && old.meta.index >= at.meta.index {
			return
		}
		if s.flushed.CompareAndSwap(old, &at) {
			return
		}
	}
}

// send makes a checkpoint and returns it as a stream. Only one is under way at a time.
func (s *Store) send() (*raft.SnapshotMeta, io.ReadCloser, error) {
	if s.disk.low.Load() {
		return nil, nil, errDisk()
	}
	s.sending.Lock()
	at, dir, err := s.checkpoint(s.dir.path("st", fmt.Sprintf("send-%d", s.serial.Add(1))))
	if err != nil {
		s.sending.Unlock()
		return nil, nil, err
	}
	out, err := pack(s.disk, dir)
	if err != nil {
		err = errors.Join(err, s.disk.RemoveAll(dir))
		s.sending.Unlock()
		return nil, nil, err
	}
	out.end = func() {
		if err := s.disk.RemoveAll(dir); err != nil {
			s.log.Warn("removing a sent checkpoint failed", zap.Error(err))
		}
		s.sending.Unlock()
	}
	return at.describe(flushedID, out.size), out, nil
}

// checkpoint links the state's files into dir and returns what they hold.
func (s *Store) checkpoint(dir string) (at flushed, _ string, err error) {
	st := s.acquire()
	if st == nil {
		return at, dir, errors.New("storage: closed")
	}
	defer st.release()
	if err = st.db.Flush(); err != nil {
		return at, dir, err
	}
	if err = st.db.Checkpoint(dir); err != nil {
		return at, dir, errors.Join(err, s.disk.RemoveAll(dir))
	}
	po := s.engine("checkpoint")
	po.ReadOnly = true
	db, err := pebble.Open(dir, po)
	if err != nil {
		return at, dir, errors.Join(err, s.disk.RemoveAll(dir))
	}
	at.meta, at.conf, err = readMeta(db)
	if err = errors.Join(err, db.Close()); err != nil {
		return at, dir, errors.Join(err, s.disk.RemoveAll(dir))
	}
	return at, dir, nil
}

// sink takes a snapshot: a local one does nothing here, a received one is unpacked as it comes.
type sink struct {
	s           *Store
	id          string
	index, term uint64
	dir         string

	once   sync.Once
	w      *io.PipeWriter
	result chan error
}

// ID implements raft.SnapshotSink.
func (k *sink) ID() string { return k.id }

// Write implements raft.SnapshotSink.
func (k *sink) Write(b []byte) (int, error) {
	if k.s.disk.low.Load() {
		return 0, errDisk()
	}
	k.once.Do(func() {
		r, w := io.Pipe()
		k.w, k.result = w, make(chan error, 1)
		go func() {
			err := unpack(k.s.disk, k.dir, r)
			_ = r.CloseWithError(err)
			k.result <- err
		}()
	})
	return k.w.Write(b)
}

// Close implements raft.SnapshotSink. For a received snapshot it returns when everything is checked and on disk.
func (k *sink) Close() error {
	if k.w == nil {
		return nil
	}
	_ = k.w.Close()
	if err := <-k.result; err != nil {
		return errors.Join(err, k.s.disk.RemoveAll(k.dir))
	}
	k.s.installMu.Lock()
	k.s.arrived = &installed{id: k.id, index: k.index, term: k.term, dir: k.dir}
	k.s.installMu.Unlock()
	return nil
}

// Cancel implements raft.SnapshotSink.
func (k *sink) Cancel() error {
	if k.w == nil {
		return nil
	}
	_ = k.w.CloseWithError(errors.New("storage: the snapshot was cancelled"))
	<-k.result
	return k.s.disk.RemoveAll(k.dir)
}

// installed is a state that has arrived, unpacked and synced. It looks like a reader to raft, which hands it on.
type installed struct {
	id          string
	index, term uint64
	dir         string
}

// Read implements io.Reader.
func (*installed) Read([]byte) (int, error) { return 0, io.EOF }

// Close implements io.Closer.
func (*installed) Close() error { return nil }

// adopt makes an arrived state the current one: it is opened and compared, named by CURRENT, and swapped in. The old one
// closes when its readers have let go.
func (s *Store) adopt(f *machine, in *installed) error {
	s.cutting.Lock()
	defer s.cutting.Unlock()
	db, err := pebble.Open(in.dir, s.engine("state"))
	if err != nil {
		return err
	}
	next := newState(db, in.dir)
	m, conf, err := readMeta(db)
	if err == nil {
		err = checkIdentity(db, s.o.ClusterID)
	}
	if err == nil && (m.index != in.index || m.term != in.term) {
		err = fmt.Errorf("storage: the snapshot holds entry %d of term %d instead of %d of %d", m.index, m.term, in.index, in.term)
	}
	if err == nil {
		err = s.dir.writeCurrent(current{name: s.disk.PathBase(in.dir), installed: m.index})
	}
	if err != nil {
		next.release()
		return errors.Join(err, next.err, s.disk.RemoveAll(in.dir))
	}
	s.swap.Lock()
	old := s.cur
	s.cur = next
	s.swap.Unlock()
	f.m, f.conf = m, conf
	s.flushed.Store(&flushed{meta: m, conf: conf})
	s.installMu.Lock()
	s.arrived = nil
	s.installMu.Unlock()
	s.jumped(m)
	s.log.Info("state installed from the leader", zap.Uint64("index", m.index))
	old.release()
	s.background.Go(func() {
		<-old.done
		if err := errors.Join(old.err, s.disk.RemoveAll(old.dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.log.Warn("removing a replaced state failed", zap.Error(err))
		}
	})
	return nil
}
