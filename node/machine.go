package node

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"go.uber.org/zap"
)

// ownProcess sets what belongs to the process as a whole.
func (n *Node) ownProcess() {
	tuneMemory(n.o, n.log)
	files, err := raiseOpenFiles()
	if err != nil {
		n.log.Warn("the limit of open files stays as it is", zap.Error(err))
		return
	}
	n.log.Info("limit of open files", zap.Uint64("open_files", files))
}

// raiseOpenFiles lifts the limit of open files to what the system allows: each watcher of a stream is one. It returns the
// limit that now holds.
func raiseOpenFiles() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if limit.Cur < limit.Max {
		limit.Cur = limit.Max
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return 0, err
		}
	}
	return uint64(limit.Cur), nil
}

// tuneMemory sets the collector as the options say, unless Go's own variables already do.
func tuneMemory(o Options, log *zap.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(o.GCPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := int64(o.MemoryLimit)
	if limit == 0 {
		if group := groupMemory("/sys/fs/cgroup/memory.max"); group > 0 {
			limit = group / 10 * 9
		}
	}
	if limit > 0 {
		debug.SetMemoryLimit(limit)
		log.Info("memory limit", zap.Stringer("bytes", Bytes(limit)))
	}
}

// groupMemory reads a control group's memory limit, 0 when it has none.
func groupMemory(name string) int64 {
	raw, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil || n <= 0 || n == math.MaxInt64 {
		return 0
	}
	return n
}
