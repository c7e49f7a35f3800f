package keystore

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"github.com/birthmark/birthmark/internal/fault"
)

const (
	suffix  = ".key"
	maxFile = 32 << 10 // an RSA-4096 file has 5 KiB
)

// open returns the folder as a root that no name and no link can leave.
func (s *Store) open() (*os.Root, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err, "the key folder cannot be opened")
	}
	return root, nil
}

// read returns the content of a key file.
func (s *Store) read(name string) ([]byte, error) {
	root, err := s.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	named, err := root.Lstat(name + suffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.KeyUnknown, schemeFile+name)
	}
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err)
	}
	if !named.Mode().IsRegular() {
		return nil, fault.New(fault.KeyUnavailable, "the key file is a link or no plain file")
	}
	f, err := root.Open(name + suffix)
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err)
	}
	// Between the look and the opening the name may have become a link.
	if !os.SameFile(named, info) {
		return nil, fault.New(fault.KeyUnavailable, "the key file was exchanged while it was opened")
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.KeyUnavailable, "others may read or write the key file; chmod 600")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err)
	}
	if len(content) > maxFile {
		return nil, fault.New(fault.PassphraseWrong, "the key file is too large to be one")
	}
	return content, nil
}

// add writes a new key file. The link is what makes it appear, whole or not at
// all, and it fails if the name is taken.
func (s *Store) add(name string, content []byte) error {
	root, err := s.open()
	if err != nil {
		return err
	}
	defer root.Close()
	temporary, err := s.writeTemporary(root, content)
	if err != nil {
		return fault.Wrap(fault.KeyUnavailable, err, "the key cannot be written")
	}
	defer root.Remove(temporary)
	err = root.Link(temporary, name+suffix)
	if errors.Is(err, fs.ErrExist) {
		return fault.New(fault.KeyExists, schemeFile+name)
	}
	if err == nil {
		err = syncFolder(root)
	}
	if err != nil {
		return fault.Wrap(fault.KeyUnavailable, err, "the key cannot be written")
	}
	return nil
}

// replace exchanges a key file for another in one step.
func (s *Store) replace(name string, content []byte) error {
	root, err := s.open()
	if err != nil {
		return err
	}
	defer root.Close()
	temporary, err := s.writeTemporary(root, content)
	if err != nil {
		return fault.Wrap(fault.KeyUnavailable, err, "the key cannot be written")
	}
	if err = root.Rename(temporary, name+suffix); err == nil {
		err = syncFolder(root)
	} else {
		err = errors.Join(err, root.Remove(temporary))
	}
	if err != nil {
		return fault.Wrap(fault.KeyUnavailable, err, "the key cannot be written")
	}
	return nil
}

// writeTemporary writes a file that [Store.List] does not see, synced and
// closed.
func (s *Store) writeTemporary(root *os.Root, content []byte) (name string, err error) {
	var random [8]byte
	if _, err := io.ReadFull(s.rand, random[:]); err != nil {
		return "", fmt.Errorf("name a temporary file: %w", err)
	}
	name = ".new-" + hex.EncodeToString(random[:])
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, root.Remove(name))
	}
	return name, nil
}

// syncFolder makes the names in the folder durable. Windows has no such call;
// NTFS journals names.
func syncFolder(root *os.Root) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
