// Package policy decides what may be in a model call and replaces what may not: personal data and secrets, on the way in
// and on the way out, whole or streamed. Deciding is pure: a ruleset and a text go in, a text and an outcome come out.
// Rulesets keeps the tenants' own in the store.
//
// A detector is a function that looks at one place of a text and says match, no match, or "I need to see more". Over a
// whole text the last answer can't come; over a stream it means: hold this back. Since both run the same detectors at the
// same places, what a stream lets through is what the whole text would have become, however it was cut into pieces. A
// detector whose match may be long decides by a bounded beginning; what follows is swallowed as it comes.
//
// Room: Stack B. It imports model, tenancy, storage and internal/….
package policy
