//go:build !unix

package signer

import (
	"io"
	"os"
)

// lockFile opens the file; this system has no such lock, and no signer either.
func lockFile(path string) (io.Closer, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}
