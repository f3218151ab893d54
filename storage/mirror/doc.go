// Package mirror keeps what lies below some prefixes of the store in memory, decoded, for those who ask for it with every
// request.
//
// Room: the log. It imports storage.
//
// A Mirror watches its prefixes, reads them when it begins and whenever the whole state was replaced, and is kept up in one of
// two ways. What is small and changes seldom is read anew after each change. What is large has an Apply, which puts changes on
// top; those that come while it's being read are kept, and put on top of what was read by their index. Who asks takes one
// atomic load, and never waits for the store.
package mirror
