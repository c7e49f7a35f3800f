package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData makes a file's contents durable. The log is written over and over in
// the same blocks, so that there is rarely anything else to write.
func syncData(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
