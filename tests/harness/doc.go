// Package harness runs the built binary from outside and looks at it the way a stranger would: by command line, HTTP,
// server-sent events, files and signals.
//
// It imports nothing of the house, not even api/client: a client and a server written by the same hand can be wrong in
// the same way and agree. Where it waits, it waits for a thing that can be seen (an exit, a byte, a ready answer), within
// a bound. Every process it starts ends with the test, whatever becomes of the test.
package harness
