// Package builtin is the model backend that every node has: offline, deterministic, for first use, tests and load. It is no
// language model, and its models say so (owned by "agentos-builtin").
//
// echo-1 repeats what it's told, or obeys directives: lines of the last user message that begin with '/' and one of the
// known words. Everything else, lines that begin with another word after a '/' included, is plain text.
//
//	/call TOOL_ID JSON   asks for that tool call ({} when JSON is left out)
//	/say TEXT            answers TEXT
//	/tokens N            answers w1 w2 … wN
//	/wait DURATION       waits, then goes on to the next directive in the same turn
//	/error CODE          fails with that code
//	/cut N               breaks the stream off after N tokens
//
// Each turn of the model obeys one directive, with the waits before it; the turns already taken are the assistant messages
// after the last user message. After the last directive the answer is the last tool output as JSON, and without one the
// echo. A directive that can't be understood fails with invalid_request: a scenario with a slip of the pen must not pass.
//
// hash-embed-1 makes vectors from hashed words and character n-grams.
//
// Room: Stack B. It imports model, model/meter and internal/….
package builtin
