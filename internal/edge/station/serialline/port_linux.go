package serialline

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/birthmark/birthmark/internal/fault"
)

var speeds = map[int]uint32{
	9600: unix.B9600, 19200: unix.B19200, 38400: unix.B38400, 57600: unix.B57600, 115200: unix.B115200,
	230400: unix.B230400, 460800: unix.B460800, 921600: unix.B921600, 1000000: unix.B1000000, 2000000: unix.B2000000,
}

// Open opens a serial line for this program alone: raw, 8 data bits, no parity,
// one stop bit, no flow control.
func Open(name string, baud int) (io.ReadWriteCloser, error) {
	speed, ok := speeds[baud]
	if !ok {
		return nil, fault.New(fault.FixtureFailed, "no serial line has the speed", baud)
	}
	// Not blocking, so that the runtime waits for it and Close ends a Read.
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fault.Wrap(fault.FixtureFailed, fmt.Errorf("open %s: %w", name, err), "the serial line", name, "cannot be opened")
	}
	if err := raw(fd, speed); err != nil {
		_ = unix.Close(fd)
		return nil, fault.Wrap(fault.FixtureFailed, fmt.Errorf("set up %s: %w", name, err), name, "is no free serial line")
	}
	return os.NewFile(uintptr(fd), name), nil
}

func raw(fd int, speed uint32) error {
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return err
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag, t.Oflag, t.Lflag = unix.IGNBRK, 0, 0
	t.Cflag &^= unix.CSIZE | unix.PARENB | unix.CSTOPB | unix.CRTSCTS | unix.CBAUD
	t.Cflag |= unix.CS8 | unix.CREAD | unix.CLOCAL | speed
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return err
	}
	// What a device said before nobody asked for.
	return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
}
