package client

import "encoding/json"

// Opt is a member of a request that may be left out, and may be null where null says something of its own ("no limit").
// The zero value is left out; Some makes one that is sent.
type Opt[T any] struct {
	value T
	sent  bool
}

// Some returns a member that is sent.
func Some[T any](v T) Opt[T] { return Opt[T]{v, true} }

// IsZero reports whether the member is left out.
func (o Opt[T]) IsZero() bool { return !o.sent }

// MarshalJSON implements json.Marshaler. Structs leave a member out by the option omitzero.
func (o Opt[T]) MarshalJSON() ([]byte, error) { return json.Marshal(o.value) }

// UnmarshalJSON implements json.Unmarshaler.
func (o *Opt[T]) UnmarshalJSON(b []byte) error {
	o.sent = true
	return json.Unmarshal(b, &o.value)
}
