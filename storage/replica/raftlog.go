package replica

import (
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/zaplog"
)

// tellAgain is how often a trouble that lasts is told again.
const tellAgain = time.Minute

// raftLines turns raft's warnings and errors into lines of ours. While a member is away raft says so some ten times a
// second; here it's told once, then once a minute with how many were left out, and at last that it's over.
type raftLines struct {
	log     *zap.Logger
	repeats *zaplog.Repeats
}

func newRaftLines(log *zap.Logger) *raftLines {
	return &raftLines{log: log, repeats: zaplog.NewRepeats(tellAgain)}
}

// logger is what raft takes.
func (w *raftLines) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Warn, Output: w, DisableTime: true})
}

// Write implements io.Writer; p is one line.
func (w *raftLines) Write(p []byte) (int, error) {
	level, text, _ := strings.Cut(strings.TrimSpace(string(p)), " ")
	text = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text), "raft:"))
	left, tell := w.repeats.Tell(raftKey(text))
	if !tell {
		return len(p), nil
	}
	fields := []zap.Field{zap.String("detail", text)}
	if left > 0 {
		fields = append(fields, zap.Int("left_out", left))
	}
	if level == "[ERROR]" {
		w.log.Error("raft", fields...)
	} else {
		w.log.Warn("raft", fields...)
	}
	return len(p), nil
}

// raftKey is what two lines have in common that say the same: the message and whom it's about, which is the first field.
// Other fields are times, terms and ports that differ each time.
func raftKey(text string) string {
	head, rest, ok := strings.Cut(text, "=")
	if !ok {
		return text
	}
	value, _, _ := strings.Cut(rest, " ")
	if quoted, ok := strings.CutPrefix(rest, `"`); ok {
		value, _, _ = strings.Cut(quoted, `"`)
	}
	switch name := head[strings.LastIndexByte(head, ' ')+1:]; name {
	case "peer", "target", "server-id", "id", "address":
		return head + "=" + value
	}
	return head
}

// answers tells that a member answers again of which raft had told that it doesn't. names are its server id and address.
func (w *raftLines) answers(names ...string) {
	ended, left := w.repeats.Over(func(key string) bool {
		for _, name := range names {
			if name != "" && strings.Contains(key, name) {
				return true
			}
		}
		return false
	})
	if ended > 0 {
		w.log.Info("a member of the log answers again", zap.String("server_id", names[0]), zap.Int("left_out", left))
	}
}

// led tells that there is a leader again; a new term's troubles are news.
func (w *raftLines) led(leader string) {
	if ended, left := w.repeats.Over(func(string) bool { return true }); ended > 0 {
		w.log.Info("the log has a leader", zap.String("server_id", leader), zap.Int("left_out", left))
	}
}
