package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/birthmark/birthmark/internal/fault"
)

// devices are where Linux has a TPM: first the resource manager, which lets many
// programs share it.
var devices = []string{"/dev/tpmrm0", "/dev/tpm0"}

// find returns the path to use.
func find(path string) (string, error) {
	if path != "" {
		return path, nil
	}
	for _, one := range devices {
		if _, err := os.Stat(one); err == nil {
			return one, nil
		}
	}
	return "", fault.New(fault.TPMUnreachable, "there is none at", strings.Join(devices, " or "))
}

// channel carries commands to a TPM, one at a time.
type channel struct {
	rw      io.ReadWriteCloser
	timeout time.Duration
	broken  error // what the next answer would be is not known any more
}

// busyPause is how long to wait for somebody who has the device open.
const busyPause = 20 * time.Millisecond

// dial opens the way to a TPM: a Unix socket or device file by what is at the path,
// HOST:PORT else.
func dial(ctx context.Context, path string, timeout time.Duration) (*channel, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		rw, err := open(ctx, path)
		if err == nil {
			return &channel{rw: rw, timeout: timeout}, nil
		}
		// /dev/tpm0 has one user at a time; a socket has a queue of its own, which is
		// short.
		if !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.EAGAIN) || !pause(ctx, busyPause) {
			return nil, unreachable(path, err)
		}
	}
}

func open(ctx context.Context, path string) (io.ReadWriteCloser, error) {
	info, err := os.Stat(path)
	var d net.Dialer
	switch {
	case err == nil && info.Mode()&fs.ModeSocket != 0:
		return d.DialContext(ctx, "unix", path)
	case err == nil && info.Mode()&fs.ModeCharDevice != 0:
		return os.OpenFile(path, os.O_RDWR, 0)
	case err == nil:
		return nil, errors.New("neither a device file nor a socket")
	}
	if _, _, splitErr := net.SplitHostPort(path); splitErr == nil && !strings.Contains(path, "/") {
		return d.DialContext(ctx, "tcp", path)
	}
	return nil, err
}

// unreachable says why in words that a person can act on.
func unreachable(path string, err error) error {
	detail := path
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrNotExist):
		detail += ": there is no such file"
	case errors.Is(err, fs.ErrPermission):
		detail += ": this user may not open it; on most systems the group tss may"
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EAGAIN):
		detail += ": another program has it open"
	case errors.Is(err, syscall.ECONNREFUSED):
		detail += ": nobody listens there"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		detail += ": it does not answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		detail += ": it ended the connection"
	}
	return fault.Wrap(fault.TPMUnreachable, err, detail)
}

// Close closes the way to the TPM.
func (c *channel) Close() error { return c.rw.Close() }

// pause reports whether d has passed before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A TPM that is busy with itself asks to be asked again (Part 1, section 38.4.4).
const (
	againTimes = 6
	againPause = 20 * time.Millisecond // and twice as long each time
)

// Send implements transport.TPM: it sends a command and returns the answer.
func (c *channel) Send(command []byte) ([]byte, error) {
	wait := againPause
	for try := 1; ; try++ {
		answer, err := c.exchange(command)
		if err != nil {
			return nil, err
		}
		switch tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:])) {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting:
		default:
			return answer, nil
		}
		if try == againTimes {
			return answer, nil
		}
		pause(context.Background(), wait)
		wait *= 2
	}
}

// headerLen is the length of an answer's head: tag, size, code. maxAnswer is more
// than any TPM sends.
const (
	headerLen = 10
	maxAnswer = 64 << 10
)

func (c *channel) exchange(command []byte) ([]byte, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	if d, ok := c.rw.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(time.Now().Add(c.timeout)) // device files have none
	}
	answer, err := c.roundTrip(command)
	if err != nil {
		c.broken = unreachable("the TPM", err)
		return nil, c.broken
	}
	return answer, nil
}

func (c *channel) roundTrip(command []byte) ([]byte, error) {
	if _, err := c.rw.Write(command); err != nil {
		return nil, err
	}
	// A device file hands out an answer in one piece, a socket perhaps in several.
	answer := make([]byte, 4096)
	n := 0
	for {
		more, err := c.rw.Read(answer[n:])
		n += more
		if n >= headerLen {
			size := int(binary.BigEndian.Uint32(answer[2:]))
			switch {
			case size < headerLen || size > maxAnswer || n > size:
				return nil, fmt.Errorf("an answer of %d octets that says %d", n, size)
			case n == size:
				return answer[:n], nil
			case size > len(answer):
				answer = append(answer, make([]byte, size-len(answer))...)
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}
