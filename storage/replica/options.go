package replica

import (
	"context"
	"net"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// Stream carries the log between nodes. It is a listener for what others send, and a dialer; whoever gives it proves
// who is at the other end. Addr().String() is the address that other members dial.
type Stream interface {
	net.Listener
	// Dial opens a connection to the log's door of the member at address.
	Dial(address string, timeout time.Duration) (net.Conn, error)
}

// Forwarder carries a batch of commands to the leader. The bytes are Store.HandleForward's business at both ends.
type Forwarder interface {
	// Forward returns what HandleForward answered at the node of leader. Any error means that the outcome is unknown.
	Forward(ctx context.Context, leader Server, batch []byte) ([]byte, error)
}

// Server is one member of the log.
type Server struct {
	ID      string
	Address string
	// Voter says whether the member counts for the quorum.
	Voter bool
}

// Options says where a replica lives and how it works. The zero value of a field means its default, if it has one.
type Options struct {
	// Dir is the data directory; the replica owns the folders log and st in it. Required.
	Dir string
	// ServerID names this member for ever: an emptied directory needs a new one. Required.
	ServerID string
	// ClusterID names the log. A directory of another cluster is refused. Required.
	ClusterID string
	// Registry holds the commands. Required.
	Registry *storage.Registry
	// Bootstrap makes a new cluster whose one voter is this server. An existing directory is refused.
	Bootstrap bool

	// Stream connects the members; nil means that this replica stays alone.
	Stream Stream
	// Forward carries commands to the leader when it's another node; nil means that they wait for this node's office.
	Forward Forwarder

	// MayLead is asked about the state before this member evaluates the first command of a reign; an error keeps it from
	// that, and it's asked again for as long as it has the office. nil means always. It must not block.
	MayLead func(storage.Reader) error

	// Fast shortens raft's time-outs to about a third, for tests and demonstrations.
	Fast bool
	// AskTimeout bounds how long a command or a linearizable read goes on without any leader answering; default 10 s,
	// 3 s when Fast.
	AskTimeout time.Duration

	// DiskFloorBytes is the free space below which new commands are refused; default 128 MiB, negative means none.
	DiskFloorBytes int64
	// LogFloorBytes is the free space below which the log refuses every entry; default a quarter of DiskFloorBytes.
	LogFloorBytes int64

	// SnapshotInterval and SnapshotBytes say when the state is flushed and the log cut, whichever comes first; default
	// 30 s and 3 MiB of log: before the state's write buffer is full by itself, and so often that most of the log is cut
	// while it still lies in the log's write buffer.
	SnapshotInterval time.Duration
	SnapshotBytes    int64
	// TrailingBytes of log are kept behind a cut for members that lag; default 256 MiB. Alone, almost none is kept.
	TrailingBytes int64
	// CacheBytes is the block cache of both engines together, default 16 MiB. MemTableBytes is the write buffer of the state,
	// default 4 MiB; the log's is twice that, since most of the log is cut before it would have to be written again.
	CacheBytes    int64
	MemTableBytes int64

	// Now is the clock that commands see on the leader; nil means time.Now.
	Now func() time.Time
	// Logger may be nil.
	Logger *zap.Logger
	// Fatal ends the process after a write or a sync has failed, or when the disk gave back other bytes than were
	// written: nothing may be acknowledged after that. It must not return. Default: os.Exit(1).
	Fatal func(error)
	// FS is the file system under both engines; nil means the real one.
	FS vfs.FS

	times *timeouts // for tests: raft's, instead of a profile's
}

// withDefaults returns o with its defaults filled in, or an error that names the field at fault.
func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Dir == "":
		return o, fault.Invalid("Dir", "storage: replica.Options.Dir is empty")
	case o.ServerID == "":
		return o, fault.Invalid("ServerID", "storage: replica.Options.ServerID is empty")
	case o.ClusterID == "":
		return o, fault.Invalid("ClusterID", "storage: replica.Options.ClusterID is empty")
	case o.Registry == nil:
		return o, fault.Invalid("Registry", "storage: replica.Options.Registry is nil")
	}
	o.AskTimeout = or(o.AskTimeout, pick(o.Fast, 3*time.Second, 10*time.Second))
	o.DiskFloorBytes = max(or(o.DiskFloorBytes, 128<<20), 0)
	o.LogFloorBytes = max(or(o.LogFloorBytes, o.DiskFloorBytes/4), 0)
	o.SnapshotInterval = or(o.SnapshotInterval, 30*time.Second)
	o.SnapshotBytes = or(o.SnapshotBytes, 3<<20)
	o.TrailingBytes = or(o.TrailingBytes, 256<<20)
	o.CacheBytes = or(o.CacheBytes, 16<<20)
	o.MemTableBytes = or(o.MemTableBytes, 4<<20)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Fatal == nil {
		o.Fatal = func(error) { os.Exit(1) }
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	return o, nil
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

func pick[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}

// timeouts are raft's, as the profile sets them.
type timeouts struct {
	heartbeat, election, lease, commit time.Duration
}

func (o Options) timeouts() timeouts {
	if o.times != nil {
		return *o.times
	}
	if o.Fast {
		return timeouts{300 * time.Millisecond, 300 * time.Millisecond, 150 * time.Millisecond, 20 * time.Millisecond}
	}
	return timeouts{time.Second, time.Second, 500 * time.Millisecond, 50 * time.Millisecond}
}
