package openai

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// maxKey bounds a key file.
const maxKey = 16 << 10

// keyFile remembers the key of a file for as long as the file stays the same.
type keyFile struct {
	path string

	mu   sync.Mutex
	key  string
	size int64
	mod  time.Time
}

// read returns the key. force reads the file even if it seems the same.
func (f *keyFile) read(force bool) (string, error) {
	if f.path == "" {
		return "", nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return "", fmt.Errorf("openai: key file: %w", err)
	}
	if !force && f.key != "" && info.Size() == f.size && info.ModTime().Equal(f.mod) {
		return f.key, nil
	}
	if info.Size() > maxKey {
		return "", errors.New("openai: the key file is too large to hold a key")
	}
	raw, err := os.ReadFile(f.path)
	if err != nil {
		return "", fmt.Errorf("openai: key file: %w", err)
	}
	key := strings.TrimSpace(string(raw))
	if key == "" || strings.ContainsAny(key, "\r\n\x00") {
		return "", errors.New("openai: the key file does not hold one key")
	}
	f.key, f.size, f.mod = key, info.Size(), info.ModTime()
	return key, nil
}
