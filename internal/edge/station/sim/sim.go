// Package sim simulates the devices of a line: each has a chip whose key a
// manifest lists, makes its own key, signs, keeps its certificate, and fails now
// and then as often as it is told to. All chips follow from a seed, so that the
// manifest and the devices need nothing but the same seed. It does no more work
// than a real device's signatures, so that what is measured is the line.
package sim

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/fault"
)

// Step is a step of a unit that may fail.
type Step string

// The steps.
const (
	StepOpen     Step = "open"
	StepIdentify Step = "identify"
	StepRequest  Step = "request"
	StepProve    Step = "prove"
	StepInstall  Step = "install"
	StepReadBack Step = "readback" // returns a damaged certificate
	StepConfirm  Step = "confirm"
)

var steps = []Step{StepOpen, StepIdentify, StepRequest, StepProve, StepInstall, StepReadBack, StepConfirm}

// Config says what is simulated.
type Config struct {
	Seed string
	// First is the number of the first chip that is used; Count is how many there
	// are, 0: no end.
	First, Count int
	// SerialPrefix begins the device serials of units that the job does not name.
	SerialPrefix string
	// Failures is how often a step fails, from 0 to 1.
	Failures map[Step]float64
	Random   io.Reader // for signatures
}

// ParseFailures reads "install=0.01,prove=0.002".
func ParseFailures(text string) (map[Step]float64, error) {
	failures := map[Step]float64{}
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		rate, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil || rate < 0 || rate > 1 || !slices.Contains(steps, Step(name)) {
			return nil, fault.New(fault.ParameterInvalid, part, "is not a step and its failure rate from 0 to 1, such as install=0.01")
		}
		failures[Step(name)] = rate
	}
	return failures, nil
}

// Adapter is a line of simulated devices.
type Adapter struct {
	c Config

	mu      sync.Mutex
	next    int                // chip of the next new device; guarded by mu
	devices map[string]*device // not passed yet, by device serial; guarded by mu
}

// New returns an adapter.
func New(c Config) (*Adapter, error) {
	if c.Seed == "" || c.Random == nil {
		return nil, errors.New("simulation: seed and randomness are required")
	}
	if c.SerialPrefix == "" {
		c.SerialPrefix = "SIM"
	}
	return &Adapter{c: c, next: c.First, devices: map[string]*device{}}, nil
}

// device is one simulated device. Its steps come one after the other.
type device struct {
	a            *Adapter
	number       int
	chip         *Chip
	deviceSerial string
	model        string
	key          crypto.Signer // of the certificate
	csr          []byte
	certificate  []byte
}

// Open returns the device with the job's serial, a new one unless it failed
// before.
func (a *Adapter) Open(_ context.Context, job fixture.Job) (fixture.Unit, error) {
	d, err := a.take(job)
	if err != nil {
		return nil, err
	}
	d.model = job.KeyModel
	if err := d.fail(StepOpen); err != nil {
		return nil, err
	}
	return d, nil
}

func (a *Adapter) take(job fixture.Job) (*device, error) {
	a.mu.Lock()
	if d := a.devices[job.DeviceSerial]; d != nil {
		a.mu.Unlock()
		return d, nil
	}
	if a.c.Count > 0 && a.next >= a.c.First+a.c.Count {
		a.mu.Unlock()
		return nil, fault.New(fault.FixtureFailed, "the reel is empty")
	}
	number, named := a.numberOf(job.DeviceSerial)
	if !named {
		number = a.next
		a.next++
	}
	d := &device{a: a, number: number, deviceSerial: job.DeviceSerial}
	if d.deviceSerial == "" {
		d.deviceSerial = a.c.SerialPrefix + fmt.Sprintf("%08d", number)
	}
	a.devices[d.deviceSerial] = d
	a.mu.Unlock()
	chip, err := NewChip(a.c.Seed, number)
	d.chip = chip
	return d, err
}

// numberOf returns the chip that a device serial of our own names, so that the
// same device is met again by another process.
func (a *Adapter) numberOf(deviceSerial string) (int, bool) {
	digits, ok := strings.CutPrefix(deviceSerial, a.c.SerialPrefix)
	n, err := strconv.ParseUint(digits, 10, 31)
	return int(n), ok && err == nil && len(digits) == 8
}

// Close forgets all devices.
func (a *Adapter) Close() error { return nil }

// fail fails as often as the step is meant to.
func (d *device) fail(s Step) error {
	if rate := d.a.c.Failures[s]; rate > 0 && rand.Float64() < rate {
		return fault.New(fault.FixtureFailed, "simulated failure of", string(s))
	}
	return nil
}

// Identify implements fixture.Unit.
func (d *device) Identify(context.Context) (fixture.Identity, error) {
	if err := d.fail(StepIdentify); err != nil {
		return fixture.Identity{}, err
	}
	return fixture.Identity{DeviceSerial: d.deviceSerial, ChipUID: d.chip.UID, SPKI: d.chip.SPKI}, nil
}

// Request implements fixture.Unit. A device keeps its key, which follows from the
// seed, too.
func (d *device) Request(context.Context) ([]byte, error) {
	if err := d.fail(StepRequest); err != nil {
		return nil, err
	}
	if d.csr == nil {
		key, err := derive(d.a.c.Seed, "device", d.number)
		if err != nil {
			return nil, err
		}
		if d.csr, err = request(key, d.a.c.Random); err != nil {
			return nil, err
		}
		d.key = key
	}
	return d.csr, nil
}

// Prove implements fixture.Unit.
func (d *device) Prove(_ context.Context, s fixture.Statement) ([]byte, error) {
	if err := d.fail(StepProve); err != nil {
		return nil, err
	}
	if s.Held {
		d.key = d.chip.Key
	}
	return sign(d.chip.Key, s.Digest, d.a.c.Random)
}

// Install implements fixture.Unit.
func (d *device) Install(_ context.Context, c fixture.Credential) error {
	if err := d.fail(StepInstall); err != nil {
		return err
	}
	if c.Wrapped != nil {
		if c.Form != fixture.FormPKCS12 {
			return fault.New(fault.FixtureFailed, "simulated devices take wrapped keys as pkcs12 only")
		}
		key, _, _, err := pkcs12.DecodeChain(c.Wrapped, c.Password)
		if err != nil {
			return fault.Wrap(fault.FixtureFailed, err, "the wrapped key does not open")
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return fault.New(fault.FixtureFailed, "the wrapped key cannot sign")
		}
		d.key = signer
	}
	d.certificate = c.Certificate
	return nil
}

// ReadBack implements fixture.Unit.
func (d *device) ReadBack(context.Context) ([]byte, error) {
	if d.certificate == nil && d.model == "adopted" {
		maker, err := d.chip.MakerCertificate()
		if err != nil {
			return nil, err
		}
		d.certificate = maker
	}
	if d.fail(StepReadBack) != nil && len(d.certificate) > 0 {
		damaged := slices.Clone(d.certificate)
		damaged[len(damaged)-1] ^= 1
		return damaged, nil
	}
	return d.certificate, nil
}

// Confirm implements fixture.Unit.
func (d *device) Confirm(_ context.Context, s fixture.Statement) ([]byte, error) {
	if err := d.fail(StepConfirm); err != nil {
		return nil, err
	}
	if d.key == nil {
		if err := d.recall(); err != nil {
			return nil, err
		}
	}
	return sign(d.key, s.Digest, d.a.c.Random)
}

// recall finds the key of a device that made it under another process.
func (d *device) recall() error {
	switch d.model {
	case "on-device":
		key, err := derive(d.a.c.Seed, "device", d.number)
		d.key = key
		return err
	case "injected":
		return fault.New(fault.FixtureFailed, "the device has no key")
	}
	d.key = d.chip.Key
	return nil
}

// Close implements fixture.Unit: a device that passed leaves the line.
func (d *device) Close(passed bool) error {
	if passed {
		d.a.mu.Lock()
		delete(d.a.devices, d.deviceSerial)
		d.a.mu.Unlock()
	}
	return nil
}

func sign(key crypto.Signer, digest [32]byte, random io.Reader) ([]byte, error) {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		return ecdsa.SignASN1(random, key, digest[:])
	case *rsa.PrivateKey:
		return key.Sign(random, digest[:], crypto.SHA256)
	case ed25519.PrivateKey:
		return key.Sign(random, digest[:], crypto.Hash(0))
	}
	return nil, errors.New("simulation: a key that cannot sign")
}

func spkiOf(key *ecdsa.PrivateKey) ([]byte, error) { return x509.MarshalPKIXPublicKey(&key.PublicKey) }
