package gossip

import (
	"io"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/zaplog"
)

const (
	// tellAgain is how often a trouble that lasts is told again: strangers' packets come as fast as they like.
	tellAgain = time.Minute
	// maxDetail bounds a line, in bytes: strangers' words may be in it.
	maxDetail = 512
)

// levels turns memberlist's "[WARN] …" lines into leveled entries, and counts those that tell of something dropped.
type levels struct {
	log     *zap.Logger
	repeats *zaplog.Repeats
	dropped *atomic.Int64
}

var _ io.Writer = (*levels)(nil)

// Write implements io.Writer; b is one line.
func (w *levels) Write(b []byte) (int, error) {
	level, text, ok := strings.Cut(strings.TrimSpace(string(b)), "] ")
	if !ok {
		level, text = "", level
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	tell := w.log.Debug
	message := "gossip"
	switch strings.TrimPrefix(level, "[") {
	case "ERR", "ERROR":
		tell, message = w.log.Warn, "gossip trouble"
	case "WARN":
		tell, message = w.log.Info, "gossip notice"
	default:
		tell(message, zap.String("detail", text))
		return len(b), nil
	}
	if drops(text) {
		w.dropped.Add(1)
	}
	left, first := w.repeats.Tell(lineKey(text))
	if !first {
		return len(b), nil
	}
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + "…"
	}
	fields := []zap.Field{zap.String("detail", text)}
	if left > 0 {
		fields = append(fields, zap.Int("left_out", left))
	}
	tell(message, fields...)
	return len(b), nil
}

// drops reports whether a line of memberlist's tells of a packet, a stream or a claim that it did not take.
func drops(text string) bool {
	text = strings.ToLower(text)
	for _, sign := range []string{
		"discarding", "decrypt", "not supported", "invalid", "failed to decode", "failed to receive", "failed to read remote", "missing message type",
		"too short", "label", "queue full", "too many pending", "truncated", "ignoring an", "ignoring alive", "rejected", "decompress", "unexpected node",
	} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// lineKey is what two lines have in common that say the same: the words up to the first thing that a stranger can choose,
// without numbers.
func lineKey(text string) string {
	for _, mark := range []string{" from=", `"`, "'", " for ", ": ["} {
		text, _, _ = strings.Cut(text, mark)
	}
	return strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}, text[:min(len(text), 100)])
}
