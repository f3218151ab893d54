// Package sse reads server-sent events (WHATWG HTML, section 9.2) the careful way: the data byte for byte as it was sent,
// a bound on what one frame may hold, and never a frame that the stream broke off in.
//
// Room: plumbing. It imports nothing of the house. Whoever follows a stream of the wire contract reads it with this.
//
// It differs from a browser in one thing: an id belongs to its frame alone and is not carried on to later ones, because
// the contract tells a stored event from a passing one by whether the frame has an id.
package sse
