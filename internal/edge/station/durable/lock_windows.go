package durable

import (
	"os"

	"golang.org/x/sys/windows"
)

// Lock waits until no other process holds the file.
func Lock(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, new(windows.Overlapped))
}

// TryLock reports whether it has the file now.
func TryLock(f *os.File) bool {
	const now = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	return windows.LockFileEx(windows.Handle(f.Fd()), now, 0, 1, 0, new(windows.Overlapped)) == nil
}

// Unlock lets others have it.
func Unlock(f *os.File) {
	_ = windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, new(windows.Overlapped)) // closing does it, too
}

// SyncFolder does nothing: names on NTFS are in its journal.
func SyncFolder(string) error { return nil }
