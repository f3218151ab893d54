// Package zaplog builds the node's logger: JSON or console lines on one writer, a level that can be changed while running,
// and a last look at every field so that no secret is written.
//
// Room: plumbing. It imports nothing of the house. Everyone else takes a *zap.Logger and never makes one.
package zaplog

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Options say how to log.
type Options struct {
	Level  string // debug, info, warn or error; "" means info
	Format string // json or console; "" means json
	Out    io.Writer
}

// Level can be changed while the logger is in use.
type Level struct{ at zap.AtomicLevel }

// Set changes the level.
func (l Level) Set(name string) error {
	level, err := zapcore.ParseLevel(name)
	if err != nil {
		return fmt.Errorf("zaplog: %q is no level", name)
	}
	l.at.SetLevel(level)
	return nil
}

// New returns a logger and its level. Times are UTC with milliseconds.
func New(o Options) (*zap.Logger, Level, error) {
	level := Level{zap.NewAtomicLevel()}
	if o.Level != "" {
		if err := level.Set(o.Level); err != nil {
			return nil, Level{}, err
		}
	}
	config := zapcore.EncoderConfig{
		TimeKey: "time", LevelKey: "level", NameKey: "logger", MessageKey: "msg", StacktraceKey: "stack",
		EncodeTime:     zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000Z07:00"),
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeDuration: zapcore.StringDurationEncoder,
		EncodeName:     zapcore.FullNameEncoder,
	}
	encoder := zapcore.NewJSONEncoder(config)
	switch o.Format {
	case "", "json":
	case "console":
		encoder = zapcore.NewConsoleEncoder(config)
	default:
		return nil, Level{}, fmt.Errorf("zaplog: %q is no format", o.Format)
	}
	core := &redactor{zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(o.Out)), level.at)}
	return zap.New(core, zap.WithClock(utc{})), level, nil
}

// Hidden stands where a secret would have been.
const Hidden = "[REDACTED]"

// key is the shape of an API key of ours; bearer is the shape of a header that carries any.
var (
	key    = regexp.MustCompile(`aos_[A-Za-z0-9_-]{8,}`)
	bearer = regexp.MustCompile(`(?i)bearer\s+\S+`)
)

// telling are words in a field's name that say its value is a secret.
var telling = []string{"secret", "password", "authorization", "api_key", "apikey", "private_key", "join_token", "cookie"}

// redactor looks at every entry on its way out. It is a net below the rule that secrets are never logged, not a leave to
// log them.
type redactor struct{ zapcore.Core }

// With implements zapcore.Core.
func (r *redactor) With(fields []zapcore.Field) zapcore.Core {
	return &redactor{r.Core.With(clean(fields))}
}

// Check implements zapcore.Core.
func (r *redactor) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if r.Enabled(e.Level) {
		return ce.AddCore(e, r)
	}
	return ce
}

// Write implements zapcore.Core.
func (r *redactor) Write(e zapcore.Entry, fields []zapcore.Field) error {
	e.Message, e.Stack = scrub(e.Message), scrub(e.Stack)
	return r.Core.Write(e, clean(fields))
}

// clean returns fields with secrets taken out; it copies only when it has to.
func clean(fields []zapcore.Field) []zapcore.Field {
	out, copied := fields, false
	for i, f := range fields {
		c, changed := cleaned(f)
		if !changed {
			continue
		}
		if !copied {
			out, copied = append([]zapcore.Field(nil), fields...), true
		}
		out[i] = c
	}
	return out
}

func cleaned(f zapcore.Field) (zapcore.Field, bool) {
	name := strings.ToLower(f.Key)
	for _, word := range telling {
		if strings.Contains(name, word) {
			return zap.String(f.Key, Hidden), true
		}
	}
	switch f.Type {
	case zapcore.StringType:
		if s := scrub(f.String); s != f.String {
			return zap.String(f.Key, s), true
		}
	case zapcore.ErrorType:
		err, ok := f.Interface.(error)
		if !ok || err == nil {
			return f, false
		}
		return zap.String(f.Key, scrub(err.Error())), true
	case zapcore.ByteStringType, zapcore.BinaryType:
		if b, ok := f.Interface.([]byte); ok {
			if s := scrub(string(b)); s != string(b) {
				return zap.String(f.Key, s), true
			}
		}
	case zapcore.StringerType:
		if s := fmt.Sprint(f.Interface); s != scrub(s) {
			return zap.String(f.Key, scrub(s)), true
		}
	case zapcore.ReflectType, zapcore.ArrayMarshalerType, zapcore.ObjectMarshalerType, zapcore.InlineMarshalerType:
		return cleanedWhole(f)
	}
	return f, false
}

// cleanedWhole looks at a field of many values as it will be written; one secret in it, and the whole is shown as text.
func cleanedWhole(f zapcore.Field) (zapcore.Field, bool) {
	m := zapcore.NewMapObjectEncoder()
	f.AddTo(m)
	raw, err := json.Marshal(m.Fields)
	if err != nil {
		raw = fmt.Append(nil, m.Fields)
	}
	s := string(raw)
	if scrubbed := scrub(s); scrubbed != s {
		return zap.String(f.Key, scrubbed), true
	}
	return f, false
}

func scrub(s string) string {
	if strings.Contains(s, "aos_") {
		s = key.ReplaceAllString(s, "aos_"+Hidden)
	}
	if len(s) >= 7 && bearer.MatchString(s) {
		s = bearer.ReplaceAllString(s, "Bearer "+Hidden)
	}
	return s
}
