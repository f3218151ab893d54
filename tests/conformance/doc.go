// Package conformance holds the contracts against everything that could drift from them: the documents under docs/api
// against their own conventions, every example and every JSON block of the Schemas Appendix against the documents, the
// answers of a running node, and the released contract that no later one may narrow.
//
// Room: tests. It imports the harness and nothing else of the house. Each check is a function that returns what it found,
// by place, so that its own test can break something and see it named.
package conformance
