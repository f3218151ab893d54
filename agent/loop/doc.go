// Package loop runs agents: it asks the model, calls the tools the model wishes for, and goes on until there is an answer.
//
// Room: Stack A. It imports agent, agent/event, agent/run, agent/tool, model, tenancy and internal/….
//
// It has two halves. State is a pure core: it's folded from a run's journal, and State.Step takes what has just happened
// and returns what to do next, as data. Runtime is the thin shell that does it: it loads a leased run, appends to its
// journal, asks the model, calls tools, waits, and tells the core how it went. Whatever can be got wrong about order,
// limits, retries and resumption is in the core, where a test can stop a run between any two appends; see DESIGN.md.
//
// Data comes from agent/run (the journal) and goes back there as events, each written before the effect it announces and
// again once its outcome is known. Nobody is called upward: who follows a run reads the journal.
package loop
