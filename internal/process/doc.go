// Package process names a running process so that a recycled process id is never taken for it: by id and start time.
//
// Room: plumbing. It imports nothing of the house. Whoever starts a process in the background writes its Identity down;
// whoever wants to stop it later, from another program, signals through that Identity and can't hit a stranger.
package process
