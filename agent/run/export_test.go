package run

import (
	"context"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/storage"
)

// CreatedID is the run that a create command would make.
func CreatedID(args any) string { return args.(createArgs).RunID }

// Transition is the table of a run's life.
func Transition(s Status, t event.Type) (Status, bool) { return transition(s, t) }

// Fold is what a journal comes to.
func Fold(journal []event.Envelope) (p Progress, err error) {
	for i := range journal {
		at, err := time.Parse(time.RFC3339Nano, journal[i].Time)
		if err != nil {
			return p, err
		}
		if err := p.Next(journal[i].Type, journal[i].Payload, at); err != nil {
			return p, err
		}
	}
	return p, nil
}

// Hot is a run's state, for judges.
type Hot struct {
	Progress
	Lease
	Place    string
	WatchMS  int64
	Deadline int64
}

// HotOf reads a run's state.
func HotOf(r storage.Reader, tenantID, runID string) (Hot, error) {
	st, err := readState(r, keys{tenantID, runID})
	if err != nil {
		return Hot{}, err
	}
	return Hot{Progress: st.Progress, Lease: st.lease(), Place: st.Place, WatchMS: st.WatchMS, Deadline: st.DeadlineMS}, nil
}

// Journal reads a run's events.
func Journal(r storage.Reader, tenantID, runID string, length uint64) ([]event.Envelope, error) {
	return readJournal(r, keys{tenantID, runID}, length)
}

// Sweep does the leader's duty for sessions once.
func (s *Service) Sweep(ctx context.Context) error { return s.keeper.sweep(ctx) }

// Overrun does the leader's duty for deadlines once.
func (s *Service) Overrun(ctx context.Context) error {
	_, _, err := s.commands.overrun.Do(ctx, s.store, "", overrunArgs{EventIDs: mint(batch), GraceMS: s.keeper.graceMS})
	return err
}

// NanoUSD reads an amount of dollars.
func NanoUSD(b string) (int64, error) { return nanoUSD([]byte(b)) }

// MaxBarren is how many leases may come to nothing.
const MaxBarren = maxBarren
