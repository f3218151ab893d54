// Package house holds the rules of the building and nothing else: its tests read the imports of every package and fail,
// with the reason, when a room looks to its right, when a heavy library gets a second importer, when a package does not
// say what it is for, or when a file speaks of the machine it was written on.
//
// Room: plumbing. It imports nothing of the house, and nothing imports it.
package house
