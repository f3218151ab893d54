// Package client speaks to a node over the wire contract: the same door as package api, seen from outside. The command
// line and package node/fleet use it for all that they ask of a node, and so may any other Go program.
//
// Room: door, as api's child. It imports internal/fault, internal/id and internal/sse, and nothing else of the house.
//
// # Its own nouns
//
// What it sends and receives are types of its own, not those of tenancy, agent/run or model. Theirs are the server's:
// they default and validate, hold what no wire shows, and bring the store and the logger along; a client needs none of
// that, and would have to be rebuilt in step with the server. Its own are plain data in the shape of the contract, forgive
// what a newer node adds (/v1 only ever gains optional members), and read the wire independently of who wrote it, so that
// a slip in one is seen in the other. A test holds their members to those of the server's nouns.
//
// # Errors
//
// What a node refuses is a *fault.Error (Error here, so that programs outside the module can name it) with the code,
// message, details, Retry-After and correlation id that it was born with. What is no answer of a node stays the error of
// the network that it is. ErrCut says that an event stream could not be followed to its end, ErrTooLong that an answer was
// longer than the client takes.
//
// # Trying again
//
// A request is tried again only if being carried out twice would change nothing: GET, and POST with an Idempotency-Key.
// CreateRun makes up a key when it is given none. Tries are few, apart by a growing and scattered pause, never sooner than
// Retry-After, and never beyond the context's deadline.
//
// # Streams
//
// Follow reads a run's journal byte for byte, takes it up again at Last-Event-ID when a connection breaks, drops what
// comes twice, notices what is missing, and ends without an error only after the run's final event: a connection that
// ended is never taken for a run that did.
package client
