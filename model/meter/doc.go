// Package meter counts tokens and prices them, offline. A backend's own figures win where it gives them; what the node
// counts by a tokenizer that isn't the model's is an estimate and marked so, and so is a cost for which the table has no
// price: an unknown model is never free.
//
// Vocabularies of tokenizers are big, so none is loaded before a model needs it.
//
// The operator's own price list lies in the store (Prices) and holds from the moment it is put.
//
// Room: Stack B. It imports model, tenancy, storage and internal/….
package meter
