package serialline

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/sys/windows"

	"github.com/birthmark/birthmark/internal/fault"
)

// Open opens a COM port for this program alone: 8 data bits, no parity, one stop
// bit, no flow control.
func Open(name string, baud int) (io.ReadWriteCloser, error) {
	if baud <= 0 {
		return nil, fault.New(fault.FixtureFailed, "no serial line has the speed", baud)
	}
	path := name
	if !strings.HasPrefix(path, `\\.\`) {
		path = `\\.\` + name // COM10 and above have no other name
	}
	utf16, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, fault.Wrap(fault.FixtureFailed, err, "the serial line's name is malformed")
	}
	handle, err := windows.CreateFile(utf16, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		return nil, fault.Wrap(fault.FixtureFailed, fmt.Errorf("open %s: %w", name, err), "the serial line", name, "cannot be opened")
	}
	if err := raw(handle, uint32(baud)); err != nil {
		_ = windows.CloseHandle(handle)
		return nil, fault.Wrap(fault.FixtureFailed, fmt.Errorf("set up %s: %w", name, err), name, "is no free serial line")
	}
	return &comPort{handle: handle}, nil
}

// Bits of DCB.Flags: binary mode, which Windows demands, with DTR and RTS on, as
// many USB adapters power the device's line driver from them.
const (
	dcbLength = 28 // octets of the structure, the same on every processor
	dcbBinary = 0x0001
	dcbDTR    = 0x0010
	dcbRTS    = 0x1000
)

func raw(handle windows.Handle, baud uint32) error {
	dcb := windows.DCB{DCBlength: dcbLength}
	if err := windows.GetCommState(handle, &dcb); err != nil {
		return err
	}
	dcb.BaudRate = baud
	dcb.Flags = dcbBinary | dcbDTR | dcbRTS
	dcb.ByteSize, dcb.Parity, dcb.StopBits = 8, windows.NOPARITY, windows.ONESTOPBIT
	if err := windows.SetCommState(handle, &dcb); err != nil {
		return err
	}
	// A read returns what there is, or nothing after 20 ms, so that Close need
	// not wait longer for it.
	timeouts := windows.CommTimeouts{
		ReadIntervalTimeout:         ^uint32(0),
		ReadTotalTimeoutMultiplier:  ^uint32(0),
		ReadTotalTimeoutConstant:    20,
		WriteTotalTimeoutMultiplier: 10,
		WriteTotalTimeoutConstant:   1000,
	}
	if err := windows.SetCommTimeouts(handle, &timeouts); err != nil {
		return err
	}
	return windows.PurgeComm(handle, windows.PURGE_RXCLEAR|windows.PURGE_TXCLEAR)
}

// comPort is a handle without overlapped calls: reads and writes may not wait
// for one another, and reads never wait long.
type comPort struct {
	mu     sync.Mutex // guards handle and closed; held for one call at most
	handle windows.Handle
	closed bool
}

func (p *comPort) Read(b []byte) (int, error) {
	for {
		n, err := p.readOnce(b)
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (p *comPort) readOnce(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, io.EOF
	}
	var n uint32
	err := windows.ReadFile(p.handle, b, &n, nil)
	return int(n), err
}

func (p *comPort) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	var n uint32
	err := windows.WriteFile(p.handle, b, &n, nil)
	if err == nil && int(n) < len(b) {
		err = io.ErrShortWrite
	}
	return int(n), err
}

func (p *comPort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	return windows.CloseHandle(p.handle)
}
