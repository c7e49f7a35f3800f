package serialline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/fault"
)

// AdapterConfig says which serial line leads to which nest.
type AdapterConfig struct {
	// Ports maps a nest to its line ("/dev/ttyUSB0", "COM7"). A single line under
	// the name "" serves every nest, one unit after the other.
	Ports  map[string]string
	Baud   int // 0: 115200
	Random io.Reader
	Timing Timing
	// Open opens a line; nil: the function Open.
	Open func(name string, baud int) (io.ReadWriteCloser, error)
}

// Adapter reaches the devices of a line through serial lines.
type Adapter struct {
	config AdapterConfig

	mu   sync.Mutex // guards busy
	busy map[string]bool
}

var _ fixture.Adapter = (*Adapter)(nil)

// NewAdapter refuses a configuration without a line.
func NewAdapter(c AdapterConfig) (*Adapter, error) {
	if len(c.Ports) == 0 || c.Random == nil {
		return nil, errors.New("serial lines: ports and random are needed")
	}
	if c.Baud == 0 {
		c.Baud = 115200
	}
	if c.Open == nil {
		c.Open = Open
	}
	return &Adapter{config: c, busy: map[string]bool{}}, nil
}

// Close has nothing to let go of: units close their lines.
func (a *Adapter) Close() error { return nil }

// Open begins a session with the device in a nest.
func (a *Adapter) Open(ctx context.Context, job fixture.Job) (fixture.Unit, error) {
	name, ok := a.config.Ports[job.Nest]
	if !ok {
		name, ok = a.config.Ports[""]
	}
	if !ok {
		return nil, fault.New(fault.FixtureFailed, "no serial line is known for nest", job.Nest)
	}
	if !a.take(name) {
		return nil, fault.New(fault.FixtureFailed, "the serial line", name, "works on another unit")
	}
	d, err := a.connect(ctx, name)
	if err != nil {
		a.release(name)
		return nil, err
	}
	return &unit{Device: d, job: job, release: func() { a.release(name) }}, nil
}

func (a *Adapter) connect(ctx context.Context, name string) (*Device, error) {
	port, err := a.config.Open(name, a.config.Baud)
	if err != nil {
		return nil, err
	}
	return Connect(ctx, Config{Port: port, Random: a.config.Random, Timing: a.config.Timing})
}

func (a *Adapter) take(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy[name] {
		return false
	}
	a.busy[name] = true
	return true
}

func (a *Adapter) release(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.busy, name)
}

// unit is the device in a nest as a station wants it.
type unit struct {
	*Device
	job     fixture.Job
	release func()
	once    sync.Once
}

// Identify also asks for what the product's key model needs.
func (u *unit) Identify(ctx context.Context) (fixture.Identity, error) {
	id, err := u.Device.Identify(ctx)
	if err != nil {
		return fixture.Identity{}, err
	}
	out := fixture.Identity{DeviceSerial: id.DeviceSerial, ChipUID: id.UID, ChipVendor: id.Vendor, ChipSlot: id.Slot}
	switch u.job.KeyModel {
	case "pre-provisioned", "adopted":
		out.SPKI, err = u.PublicKey(ctx)
	case "injected":
		out.Recipient, err = u.Recipient(ctx)
		if errors.Is(err, errCannot) { // then the key comes under a password
			err = nil
		}
	}
	return out, err
}

func (u *unit) Request(ctx context.Context) ([]byte, error) {
	return u.Device.Request(ctx, u.job.DeviceSerial)
}

func (u *unit) Prove(ctx context.Context, s fixture.Statement) ([]byte, error) {
	return u.Device.Prove(ctx, s.Digest)
}

func (u *unit) Confirm(ctx context.Context, s fixture.Statement) ([]byte, error) {
	return u.Device.Confirm(ctx, s.Digest)
}

// Install stores the certificate last: a device that has it has everything. A
// device without room for the authorities' certificates does without them.
func (u *unit) Install(ctx context.Context, c fixture.Credential) error {
	if chain := bytes.Join(c.Chain, nil); len(chain) > 0 && len(chain) <= u.room {
		if err := u.Device.Install(ctx, Chain, chain); err != nil {
			return fmt.Errorf("install the chain: %w", err)
		}
	}
	if len(c.Wrapped) > 0 && c.Form == fixture.FormPKCS12 {
		if err := u.Device.Install(ctx, Password, []byte(c.Password)); err != nil {
			return fmt.Errorf("install the password: %w", err)
		}
	}
	if len(c.Wrapped) > 0 {
		if err := u.Device.Install(ctx, WrappedKey, c.Wrapped); err != nil {
			return fmt.Errorf("install the wrapped key: %w", err)
		}
	}
	return u.Device.Install(ctx, Certificate, c.Certificate)
}

// Close tells a device whose identity is in place. One that failed keeps its key:
// the next attempt gets the certificate that was issued for it already.
func (u *unit) Close(passed bool) error {
	var err error
	u.once.Do(func() {
		if passed {
			ctx, cancel := context.WithTimeout(context.Background(), u.link.timing.Line)
			defer cancel()
			if err = u.Done(ctx); errors.Is(err, errCannot) {
				err = nil
			}
		}
		err = errors.Join(err, u.Device.Close())
		u.release()
	})
	return err
}
