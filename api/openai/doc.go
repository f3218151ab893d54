// Package openai is the dialect of OpenAI's chat and embeddings, translated to and from the terms of package model. It is
// pure: bytes in, values out, and back; package api moves them over HTTP.
//
// A field of the dialect is honoured or refused by its name; none is dropped, so that nobody believes a setting had effect
// that hadn't. Values that ask for what is the case anyway (n: 1, logprobs: false, an empty logit_bias) are taken. Fields
// that the dialect doesn't have are ignored, as everywhere in /v1.
//
// Room: the door. It imports api, model and internal/….
package openai
