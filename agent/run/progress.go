package run

import (
	"fmt"
	"time"

	"github.com/nexixai/agentos/agent/event"
)

// Progress is what a journal has come to. It's a fold: Next is the only way it changes, and it depends on nothing but the
// events.
type Progress struct {
	Status   Status
	Sequence uint64 // of the last event
	Summary  Summary
	// Tokens and CostNUSD (nano-dollars) are the sums over model.completed events.
	InputTokens, OutputTokens, TotalTokens int64
	CostNUSD                               int64
	// Times are Unix milliseconds, 0 for what has not happened.
	StartedMS, CompletedMS, CancelMS int64
}

// Next takes in the journal's next event. It refuses one that may not follow, and leaves p as it was.
func (p *Progress) Next(t event.Type, payload []byte, at time.Time) error {
	status, ok := transition(p.Status, t)
	if !ok {
		return fmt.Errorf("run: %s may not follow when the run is %s", t, orNew(p.Status))
	}
	next := *p
	next.Status = status
	next.Sequence++
	ms := at.UnixMilli()
	switch t {
	case event.RunStarted:
		if next.StartedMS == 0 {
			next.StartedMS = ms
		}
	case event.StepStarted:
		next.Summary.Steps++
	case event.ToolCallRequested:
		next.Summary.ToolCalls++
	case event.ModelRequested:
		next.Summary.ModelCalls++
	case event.ModelCompleted:
		spent, err := spentBy(payload)
		if err != nil {
			return err
		}
		next.add(spent)
	case event.CancelRequested:
		next.CancelMS = ms
	case event.RunCanceled:
		if next.CancelMS == 0 {
			next.CancelMS = ms
		}
	}
	if status.Final() {
		next.CompletedMS = ms
	}
	*p = next
	return nil
}

// transition is the whole table of a run's life: which status an event leads to, or that it may not come.
func transition(s Status, t event.Type) (next Status, ok bool) {
	switch s {
	case "":
		return Queued, t == event.RunCreated
	case Queued:
		switch t {
		case event.RunStarted:
			return Running, true
		case event.RunForwarded, event.CancelRequested:
			return Queued, true
		case event.RunFailed:
			return Failed, true
		case event.RunCanceled:
			return Canceled, true
		}
	case Running:
		switch t {
		case event.RunStarted, event.RunForwarded, event.CancelRequested, event.StepStarted, event.StepCompleted,
			event.ToolCallRequested, event.ToolCallCompleted, event.ModelRequested, event.ModelCompleted:
			return Running, true
		case event.RunCompleted:
			return Completed, true
		case event.RunFailed:
			return Failed, true
		case event.RunCanceled:
			return Canceled, true
		}
	}
	return "", false
}

func orNew(s Status) Status {
	if s == "" {
		return "not created"
	}
	return s
}

// spent is the usage of one model call.
type spent struct{ input, output, total, cost int64 }

func (p *Progress) add(s spent) {
	p.InputTokens += s.input
	p.OutputTokens += s.output
	p.TotalTokens += s.total
	p.CostNUSD += s.cost
}

// spentBy reads the usage out of the payload of a model.completed.
func spentBy(payload []byte) (s spent, err error) {
	err = event.Members(payload, func(key, value []byte) error {
		if string(key) != "usage" || len(value) == 0 || value[0] != '{' {
			return nil
		}
		return event.Members(value, func(key, value []byte) error {
			var err error
			switch string(key) {
			case "input_tokens":
				s.input, err = count(value)
			case "output_tokens":
				s.output, err = count(value)
			case "total_tokens":
				s.total, err = count(value)
			case "cost_usd":
				s.cost, err = nanoUSD(value)
			}
			return err
		})
	})
	return s, err
}

// maxCount bounds one call's tokens and nano-dollars, so that sums can't overflow.
const maxCount = 1e15

func count(value []byte) (int64, error) {
	if string(value) == "null" {
		return 0, nil
	}
	n, err := event.Uint(value)
	if err != nil || n > maxCount {
		return 0, fmt.Errorf("run: usage %.32q is not a count", value)
	}
	return int64(n), nil
}

// nanoUSD reads an amount of dollars with at most nine decimals, exactly.
func nanoUSD(value []byte) (int64, error) {
	if string(value) == "null" {
		return 0, nil
	}
	var n uint64
	decimals := -1
	for _, c := range value {
		switch {
		case c == '.' && decimals < 0:
			decimals = 0
			continue
		case c < '0' || c > '9' || decimals == 9 || n > maxCount:
			return 0, fmt.Errorf("run: cost %.32q is not an amount with at most nine decimals", value)
		}
		n = n*10 + uint64(c-'0')
		if decimals >= 0 {
			decimals++
		}
	}
	for range 9 - max(decimals, 0) {
		n *= 10
		if n > 1000*maxCount {
			return 0, fmt.Errorf("run: cost %.32q is out of range", value)
		}
	}
	if len(value) == 0 || n > maxCount {
		return 0, fmt.Errorf("run: cost %.32q is out of range", value)
	}
	return int64(n), nil
}
