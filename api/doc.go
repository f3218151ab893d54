// Package api is the door: the routes of the wire contract, what is checked before any of them runs, and how errors and
// event streams look on the wire. Its child client is the same door seen from outside.
//
// Room: door. It imports every room to its left, and no room of its own knows HTTP.
package api
