// Package fleet runs a deployment on one machine: nodes as processes of their own that outlive the command that started
// them, what they are seeded with, checks that they work, and a report of every action.
//
// Room: wiring, beside node. It imports node, api/client and internal/…. It never links itself to a running node: it
// starts the same binary, speaks to it as any client would, and stops it by a process identity that no recycled process
// id can match.
//
// A deployment lives in one state directory:
//
//	plan.json            what was asked for: organisations, nodes, ports, mode
//	access.json          where everything is, for people and programs (mode 0600)
//	lock                 held while an action changes the deployment
//	keys/                API keys, one a file, mode 0600
//	nodes/STACK_ID/      node.log, process.json and data/ of one node
package fleet
