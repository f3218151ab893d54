package api

import (
	"encoding/base64"
	"encoding/binary"
	"math"
)

// encodeVector is a vector as floats, or as base64 of little-endian float32, as OpenAI's clients ask for it.
func encodeVector(v []float32, format string) any {
	if format != "base64" {
		return v
	}
	b := make([]byte, 0, 4*len(v))
	for _, f := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return base64.StdEncoding.EncodeToString(b)
}
