// Package node is one AgentOS node as a value: Options say how it is to be, New checks them, Start wires every room
// together in one straight line and Stop takes it down in the opposite order.
//
// Room: wiring. It imports every room but web and cmd. Settings come in through one table (Settings), from which flags,
// environment variables, YAML keys, their documentation and their validation are made. Child fleet runs nodes as
// processes, child nodetest runs clusters of them within a test.
package node
