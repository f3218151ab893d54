// Package modeltest holds the one suite that every model backend passes, and the wiring of a gateway for tests of other
// rooms.
//
// Room: Stack B, for tests. It imports model and its children.
package modeltest
