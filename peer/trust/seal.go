package trust

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/nexixai/agentos/internal/fault"
)

// SealKeySize is the size of a seal key, in bytes.
const SealKeySize = 32

const sealVersion = 1

// SealKey encrypts what lies in the replicated store but must not be readable from it alone. It is kept outside: in a
// file, or given by a command.
type SealKey [SealKeySize]byte

// NewSealKey draws a key.
func NewSealKey() SealKey {
	var k SealKey
	_, _ = rand.Read(k[:]) // crypto/rand never fails
	return k
}

// ParseSealKey takes exactly 32 bytes.
func ParseSealKey(b []byte) (SealKey, error) {
	var k SealKey
	if len(b) != SealKeySize {
		return k, fault.Invalid("seal_key", "A seal key is %d bytes; this one has %d.", SealKeySize, len(b))
	}
	copy(k[:], b)
	return k, nil
}

// Seal encrypts plain for one purpose; what was sealed for another purpose does not open (AES-256-GCM, the purpose's key
// derived by HKDF-SHA-256).
func (k SealKey) Seal(purpose string, plain []byte) ([]byte, error) {
	aead, err := k.aead(purpose)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 1+aead.NonceSize(), 1+aead.NonceSize()+len(plain)+aead.Overhead())
	out[0] = sealVersion
	_, _ = rand.Read(out[1:])
	return aead.Seal(out, out[1:], plain, out[:1]), nil
}

// Open decrypts what Seal made.
func (k SealKey) Open(purpose string, sealed []byte) ([]byte, error) {
	aead, err := k.aead(purpose)
	if err != nil {
		return nil, err
	}
	if len(sealed) < 1+aead.NonceSize() || sealed[0] != sealVersion {
		return nil, fault.New(fault.Internal, "What was to be opened for %s is not a sealed value.", purpose)
	}
	nonce, body := sealed[1:1+aead.NonceSize()], sealed[1+aead.NonceSize():]
	plain, err := aead.Open(nil, nonce, body, sealed[:1])
	if err != nil {
		return nil, fault.New(fault.Forbidden, "This node's seal key does not open %s: give the node the seal key of its cluster.", purpose)
	}
	return plain, nil
}

func (k SealKey) aead(purpose string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, k[:], nil, "agentos/seal/"+purpose, SealKeySize)
	if err != nil {
		return nil, fmt.Errorf("trust: seal: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("trust: seal: %w", err)
	}
	return cipher.NewGCM(block)
}

// String hides the key from logs and messages.
func (k SealKey) String() string { return "seal key (hidden)" }

// GoString hides the key from %#v.
func (k SealKey) GoString() string { return k.String() }
