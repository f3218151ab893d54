package zaplog

import (
	"bytes"
	"io"
	"log"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Lines returns a writer for libraries that log text: each write is one line, and a level in brackets before it
// ("[WARN] …") is the entry's level; a line without one is Info. The text stands in the field "detail": it is data.
func Lines(l *zap.Logger, message string) io.Writer {
	return lines{l.WithOptions(zap.AddCallerSkip(1)), message}
}

// Std returns a *log.Logger over Lines; memberlist takes one.
func Std(l *zap.Logger, message string) *log.Logger { return log.New(Lines(l, message), "", 0) }

// HC returns an hclog.Logger over Lines; raft takes one. Lines below least are not even formatted.
func HC(l *zap.Logger, message string, least hclog.Level) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: least, Output: Lines(l, message), DisableTime: true})
}

type lines struct {
	log     *zap.Logger
	message string
}

// Write implements io.Writer.
func (w lines) Write(p []byte) (int, error) {
	text := bytes.TrimSpace(p)
	level := zapcore.InfoLevel
	if bytes.HasPrefix(text, []byte("[")) {
		if name, rest, ok := bytes.Cut(text[1:], []byte("]")); ok {
			if known, is := levelOf(string(name)); is {
				level, text = known, bytes.TrimSpace(rest)
			}
		}
	}
	if entry := w.log.Check(level, w.message); entry != nil {
		entry.Write(zap.String("detail", string(text)))
	}
	return len(p), nil
}

func levelOf(name string) (zapcore.Level, bool) {
	switch name {
	case "TRACE", "DEBUG":
		return zapcore.DebugLevel, true
	case "INFO":
		return zapcore.InfoLevel, true
	case "WARN":
		return zapcore.WarnLevel, true
	case "ERR", "ERROR":
		return zapcore.ErrorLevel, true
	}
	return 0, false
}
