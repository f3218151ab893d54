package zaplog

import "time"

// utc is the clock of log lines.
type utc struct{}

// Now implements zapcore.Clock.
func (utc) Now() time.Time { return time.Now().UTC() }

// NewTicker implements zapcore.Clock.
func (utc) NewTicker(d time.Duration) *time.Ticker { return time.NewTicker(d) }
