// Package tool is the port through which runs act on the world: which tools a run may call, and how one is called.
//
// Room: Stack A. It imports agent, agent/event, agent/memory, storage, tenancy, internal/… and, alone in the house, the MCP library once that
// kind exists.
//
// A Set holds the kinds of tools (builtin, http, and in time mcp). Whatever the kind, Set.Invoke checks the input against
// the tool's JSON Schema, bounds the time and the output, and turns a panic into an error, so that a kind need only act.
// Suite tooltest holds every kind to that. A call carries its effect id, which stays the same when a call is made again
// after a crash: a tool that keeps effect ids acts once.
package tool
