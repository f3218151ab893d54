//go:build !linux

package replica

// fallocate does nothing where the system has no such call: the file grows as it's written.
func fallocate(uintptr, int64, int64) error { return nil }
