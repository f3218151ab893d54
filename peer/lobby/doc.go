// Package lobby is where callers are met who have not proven who they are: the connections of a door that are in the middle of
// their handshake. A Porter greets them at the door's port, in a Lobby that bounds how many there may be at once and with a
// bound on their time, and a Queue holds those that are through until they're served. Sources bounds the calls of those who come
// with nothing but a token. What the doors do with a caller whose handshake is done is their own.
//
// Room: others. It imports internal/….
package lobby
