// Package storagetest is the suite that every engine of storage.Store has to pass, so that a room tested on one engine
// works on the other.
//
// Room: the log. It imports storage and internal/…, and is imported by tests only.
package storagetest
