package store

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/birthmark/birthmark/internal/fault"
)

// lockName is the file in a data folder whose lock its one process holds.
const lockName = "lock"

// FolderLock is the right to be the only process that uses a data folder. The
// operating system ends it with the process, however that ends.
type FolderLock struct{ file *os.File }

// LockFolder takes the lock of a data folder, or fault.DataFolderLocked.
func LockFolder(folder string) (*FolderLock, error) {
	f, err := os.OpenFile(filepath.Join(folder, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock of the data folder: %w", err)
	}
	if err := lockFile(f); err != nil {
		_ = f.Close()
		return nil, fault.Wrap(fault.DataFolderLocked, err, folder)
	}
	return &FolderLock{f}, nil
}

// Unlock gives the folder free.
func (l *FolderLock) Unlock() error { return l.file.Close() }
