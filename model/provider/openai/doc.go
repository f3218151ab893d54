// Package openai is the adapter for every model server that speaks OpenAI's wire format: OpenAI itself, vLLM, TGI, Ollama
// and others, told apart by base URL only. It is written on net/http, so that nothing is retried, buffered or logged behind
// the gateway's back.
//
// Every answer is bounded in size, every wait in time: for the headers, and between the pieces of a stream. Redirects are
// refused, since they would carry the key elsewhere. The key is read from a file, anew when the file changes or the server
// refuses the key.
//
// Room: Stack B. It imports model and internal/….
package openai
