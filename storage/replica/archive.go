package replica

import (
	"archive/tar"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A state travels as a tar of its files, and behind them the file SUMS with a checksum for each: lines of fixed length,
// so that the size of the whole is known before a byte is read.
const sumsName = "SUMS"

func sumsLine(sum uint32, name string) string { return fmt.Sprintf("%08x %s\n", sum, name) }

func padded(n int64) int64 { return (n + 511) / 512 * 512 }

// archive is a directory being streamed.
type archive struct {
	*io.PipeReader
	size int64
	done chan struct{}
	end  func()
}

// Close ends the streaming and lets the directory go.
func (a *archive) Close() error {
	err := a.PipeReader.Close()
	<-a.done
	if a.end != nil {
		a.end()
		a.end = nil
	}
	return err
}

// pack streams the files of dir, which must not change.
func pack(fs vfs.FS, dir string) (*archive, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	sizes, size, sums := make([]int64, len(names)), int64(0), int64(0)
	for i, name := range names {
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if err != nil {
			return nil, err
		}
		sizes[i] = info.Size()
		size += 512 + padded(sizes[i])
		sums += int64(len(sumsLine(0, name)))
	}
	size += 512 + padded(sums) + 1024
	r, w := io.Pipe()
	a := &archive{PipeReader: r, size: size, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		_ = w.CloseWithError(writeArchive(w, fs, dir, names, sizes))
	}()
	return a, nil
}

func writeArchive(w io.Writer, fs vfs.FS, dir string, names []string, sizes []int64) error {
	t := tar.NewWriter(w)
	var sums strings.Builder
	for i, name := range names {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: sizes[i], Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		f, err := fs.Open(fs.PathJoin(dir, name))
		if err != nil {
			return err
		}
		sum := crc32.New(castagnoli)
		n, err := io.Copy(t, io.TeeReader(f, sum))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if n != sizes[i] {
			return fmt.Errorf("storage: %s changed while it was sent", name)
		}
		sums.WriteString(sumsLine(sum.Sum32(), name))
	}
	if err := t.WriteHeader(&tar.Header{Name: sumsName, Mode: 0o600, Size: int64(sums.Len()), Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	if _, err := io.WriteString(t, sums.String()); err != nil {
		return err
	}
	return t.Close()
}

// unpack writes the files of an archive into dir, checks their sums, and syncs files and directories.
func unpack(fs vfs.FS, dir string, r io.Reader) error {
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	t := tar.NewReader(r)
	var got strings.Builder
	whole := false
	for !whole {
		h, err := t.Next()
		if err != nil {
			return fmt.Errorf("storage: the received state is cut short: %w", err)
		}
		if h.Name == sumsName {
			want, err := io.ReadAll(io.LimitReader(t, 16<<20))
			if err != nil {
				return err
			}
			if string(want) != got.String() {
				return fmt.Errorf("%w: the received state has wrong checksums", ErrDamaged)
			}
			whole = true
			continue
		}
		if h.Name == "" || h.Name != fs.PathBase(h.Name) || h.Name == "." || h.Name == ".." || strings.ContainsAny(h.Name, "/\\\n") {
			return fmt.Errorf("%w: the received state names a file %q", ErrDamaged, h.Name)
		}
		sum, err := writeFile(fs, fs.PathJoin(dir, h.Name), t)
		if err != nil {
			return err
		}
		got.WriteString(sumsLine(sum, h.Name))
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	d := directory{fs: fs}
	return errors.Join(d.sync(dir), d.sync(fs.PathDir(dir)))
}

func writeFile(fs vfs.FS, path string, r io.Reader) (uint32, error) {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, err
	}
	sum := crc32.New(castagnoli)
	_, err = io.Copy(f, io.TeeReader(r, sum))
	if err == nil {
		err = f.Sync()
	}
	return sum.Sum32(), errors.Join(err, f.Close())
}
