package replica

import "syscall"

// fallocate gives the file its size and its blocks.
func fallocate(fd uintptr, off, n int64) error { return syscall.Fallocate(int(fd), 0, off, n) }
