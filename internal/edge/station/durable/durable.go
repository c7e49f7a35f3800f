// Package durable writes files that survive a power cut and shares a folder among
// processes: what the station's state, its queue and the hot folder have in
// common.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// WriteFile puts a file in place in one piece, readable by the owner alone: after
// a power cut there is the old one or the new one.
func WriteFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what counts is the first error
		return err
	}
	return SyncFolder(filepath.Dir(path))
}

// Hold takes a lock that a file stands for, if nobody else has it.
func Hold(path string) (release func(), ok bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	if !TryLock(f) {
		return nil, false, f.Close()
	}
	return func() { _ = f.Close() }, true, nil // closing lets go of it
}
