// Package field writes and reads the small records that commands of Stack A rewrite often: fields in a fixed order, as
// varints and counted strings. A reader finds zero for a field that an older writer did not write, and leaves unread what a
// newer one added, so fields may be added at the end and nowhere else.
//
// Room: Stack A. It imports nothing of the house.
package field

import (
	"encoding/binary"
	"errors"
)

// Uint appends an unsigned field.
func Uint(b []byte, n uint64) []byte { return binary.AppendUvarint(b, n) }

// Int appends a signed field.
func Int(b []byte, n int64) []byte { return binary.AppendVarint(b, n) }

// String appends a text.
func String(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Bool appends a truth.
func Bool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// Reader reads fields in the order they were written. Its first error stays; every read after it gives zero.
type Reader struct {
	rest []byte
	err  error
}

// Read returns a Reader of b.
func Read(b []byte) Reader { return Reader{rest: b} }

var errBroken = errors.New("field: broken field")

// Uint reads an unsigned field.
func (r *Reader) Uint() uint64 {
	if r.err != nil || len(r.rest) == 0 {
		return 0
	}
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.err = errBroken
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// Int reads a signed field.
func (r *Reader) Int() int64 {
	if r.err != nil || len(r.rest) == 0 {
		return 0
	}
	n, size := binary.Varint(r.rest)
	if size <= 0 {
		r.err = errBroken
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// String reads a text.
func (r *Reader) String() string {
	n := r.Uint()
	if n > uint64(len(r.rest)) {
		r.err = errBroken
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

// Bool reads a truth.
func (r *Reader) Bool() bool { return r.Uint() == 1 }

// Err is the first error.
func (r *Reader) Err() error { return r.err }
