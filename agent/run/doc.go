// Package run keeps runs: their record, their journal, and every change of either as one command.
//
// Room: Stack A. It imports agent, agent/event, agent/queue, model, tenancy, storage and internal/….
//
// A run is a journal, a gap-free list of events, and two small records beside it. The record holds what never changes (what
// was asked, by whom). The state holds what the journal has come to, folded by one pure function (Progress.Next), and who may
// write: a session, at an epoch. Every change (create, append, cancel, hand back, take back, overrun) is one command, which
// writes events, state, indexes, quotas and audit together or not at all. See DESIGN.md.
//
// Service is the door to it for the API, for workers, and for wiring; its leader's duty takes back the runs of ended
// sessions and ends those whose time is over.
package run
