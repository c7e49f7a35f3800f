//go:build !linux && !windows

package serialline

import (
	"io"

	"github.com/birthmark/birthmark/internal/fault"
)

// Open refuses: serial lines are opened on Linux and Windows.
func Open(name string, _ int) (io.ReadWriteCloser, error) {
	return nil, fault.New(fault.FixtureFailed, "serial lines work on Linux and Windows, not here:", name)
}
