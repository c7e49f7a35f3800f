package device

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Register is the service behind device commands and routes.
type Register struct {
	store Store
	now   func() time.Time
	rand  io.Reader
}

// RegisterConfig names what a Register needs; all fields are required.
type RegisterConfig struct {
	Store Store
	Now   func() time.Time
	Rand  io.Reader
}

// NewRegister returns the register's service.
func NewRegister(c RegisterConfig) (*Register, error) {
	if c.Store == nil || c.Now == nil || c.Rand == nil {
		return nil, errors.New("register: store, clock and randomness are required")
	}
	return &Register{store: c.Store, now: c.Now, rand: c.Rand}, nil
}

// NewDevice is what an operator says of a device that is to be registered.
type NewDevice struct {
	DeviceSerial string
	Product      string
	Site, Owner  int64
	Region       string
	Labels       map[string]string
	// WithoutSecret registers a device that enrolls by other proof only.
	WithoutSecret bool
}

// Added is a registered device and its one-time secret, which is shown once.
type Added struct {
	Device Device
	Secret string
}

// serialPattern keeps device serials to what is safe in names, topics, paths,
// CSV cells and log lines.
var serialPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$`)

var labelKeyPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$`)

const maxLabels = 32

// CheckSerial refuses device serials that could mean something else where they
// are shown or matched (fault.DeviceSerialInvalid).
func CheckSerial(deviceSerial string) error {
	if !serialPattern.MatchString(deviceSerial) {
		return fault.New(fault.DeviceSerialInvalid)
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fault.New(fault.LabelInvalid, "more than", maxLabels)
	}
	for k, v := range labels {
		if !labelKeyPattern.MatchString(k) || len(v) > 63 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
			return fault.New(fault.LabelInvalid, k)
		}
	}
	return nil
}

// Add registers devices, all or none, each with a one-time secret of 160 random
// bits. At most 2,000 at a time.
func (r *Register) Add(ctx context.Context, c *access.Caller, devices []NewDevice) ([]Added, error) {
	products, err := r.productsByName(ctx, c.Scope)
	if err != nil {
		return nil, err
	}
	now := r.now()
	added := make([]Added, 0, len(devices))
	rows := make([]Device, 0, len(devices))
	entries := make([]ledger.Entry, 0, len(devices))
	for _, n := range devices {
		a, err := r.prepare(n, products, now)
		if err != nil {
			return nil, err
		}
		if !c.Scope.Sees(a.Device.Product, a.Device.Site, a.Device.Owner) {
			return nil, fault.New(fault.ProductUnknown, n.Product)
		}
		added = append(added, a)
		rows = append(rows, a.Device)
		entries = append(entries, ledger.Entry{Kind: ledger.DeviceRegistered, At: now, Actor: c.Name, Body: registeredBody(&a.Device)})
	}
	if err := r.store.AddDevices(ctx, c.Scope, rows, entries...); err != nil {
		return nil, err
	}
	return added, nil
}

func (r *Register) productsByName(ctx context.Context, s access.Scope) (map[string]Product, error) {
	list, err := r.store.Products(ctx, s)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]Product, len(list))
	for _, p := range list {
		byName[p.Name] = p
	}
	return byName, nil
}

func (r *Register) prepare(n NewDevice, products map[string]Product, now time.Time) (Added, error) {
	if err := CheckSerial(n.DeviceSerial); err != nil {
		return Added{}, err
	}
	if err := checkLabels(n.Labels); err != nil {
		return Added{}, err
	}
	p, ok := products[n.Product]
	if !ok {
		return Added{}, fault.New(fault.ProductUnknown, n.Product)
	}
	a := Added{Device: Device{
		ID: r.store.DeviceID(n.DeviceSerial), DeviceSerial: n.DeviceSerial,
		Product: p.ID, Site: n.Site, Owner: n.Owner, Region: n.Region, Labels: n.Labels,
		State: Registered, Version: 1, RegisteredAt: now, ChangedAt: now,
	}}
	if n.WithoutSecret {
		return a, nil
	}
	secret, err := r.newSecret()
	if err != nil {
		return Added{}, err
	}
	a.Secret, a.Device.Secret = secret, Secret{Set: true, Hash: HashSecret([]byte(secret))}
	return a, nil
}

// secretText is lower-case base32 without digits that look like letters: a
// person may have to type it.
var secretText = base32.NewEncoding("abcdefghijkmnpqrstuvwxyz23456789").WithPadding(base32.NoPadding)

func (r *Register) newSecret() (string, error) { return NewSecret(r.rand) }

// NewSecret returns a one-time secret of 160 random bits in a form that a person
// can type.
func NewSecret(random io.Reader) (string, error) {
	var raw [20]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", fmt.Errorf("one-time secret: %w", err)
	}
	return secretText.EncodeToString(raw[:]), nil
}

// HashSecret returns what the register keeps of a one-time secret. The secret
// has at least 128 random bits, so a plain hash is enough.
func HashSecret(secret []byte) [32]byte { return sha256.Sum256(secret) }

// Device returns one device of the caller's scope.
func (r *Register) Device(ctx context.Context, c *access.Caller, id ID) (Device, error) {
	return r.store.Device(ctx, c.Scope, id)
}

// Find returns the device with a text id or, failing that, a device serial.
func (r *Register) Find(ctx context.Context, c *access.Caller, idOrSerial string) (Device, error) {
	d, err := r.store.Device(ctx, c.Scope, r.store.DeviceID(idOrSerial))
	if err == nil && d.DeviceSerial == idOrSerial || !fault.Has(err, fault.DeviceUnknown) && err != nil {
		return d, err
	}
	id, err := ParseID(idOrSerial)
	if err != nil {
		return Device{}, fault.New(fault.DeviceUnknown)
	}
	return r.store.Device(ctx, c.Scope, id)
}

// Devices returns a page of devices.
func (r *Register) Devices(ctx context.Context, c *access.Caller, q DeviceQuery) ([]Device, string, error) {
	return r.store.Devices(ctx, c.Scope, q)
}

// SetLabels merges labels into a device's; an empty value removes the key.
func (r *Register) SetLabels(ctx context.Context, c *access.Caller, id ID, labels map[string]string) (Device, error) {
	return r.change(ctx, c, id, ledger.DeviceChanged, func(d *Device) error {
		merged := maps.Clone(d.Labels)
		if merged == nil {
			merged = map[string]string{}
		}
		for k, v := range labels {
			if v == "" {
				delete(merged, k)
				continue
			}
			merged[k] = v
		}
		d.Labels = merged
		return checkLabels(merged)
	})
}

// Move takes a device to another state, if the table of transitions has it.
func (r *Register) Move(ctx context.Context, c *access.Caller, id ID, next State) (Device, error) {
	return r.change(ctx, c, id, ledger.DeviceChanged, func(d *Device) error {
		if !d.State.MayBecome(next) {
			return fault.New(fault.TransitionRefused, d.State.String(), "to", next.String())
		}
		d.State = next
		return nil
	})
}

// RenewSecret gives a device a new one-time secret; the old one is dead from
// then on, spent or not.
func (r *Register) RenewSecret(ctx context.Context, c *access.Caller, id ID) (Added, error) {
	secret, err := r.newSecret()
	if err != nil {
		return Added{}, err
	}
	d, err := r.change(ctx, c, id, ledger.SecretRenewed, func(d *Device) error {
		if !d.State.MayEnroll() {
			return fault.New(fault.DeviceState, d.State.String())
		}
		d.Secret = Secret{Set: true, Hash: HashSecret([]byte(secret))}
		return nil
	})
	return Added{Device: d, Secret: secret}, err
}

// changeTries bounds how often a change is redone when others change the same
// device meanwhile.
const changeTries = 8

func (r *Register) change(ctx context.Context, c *access.Caller, id ID, kind ledger.Kind, edit func(*Device) error) (Device, error) {
	for range changeTries {
		d, err := r.store.Device(ctx, c.Scope, id)
		if err != nil {
			return Device{}, err
		}
		if err := edit(&d); err != nil {
			return Device{}, err
		}
		now := r.now()
		d.ChangedAt = now
		after := d
		after.Version++
		err = r.store.UpdateDevice(ctx, c.Scope, d, ledger.Entry{Kind: kind, At: now, Actor: c.Name, Body: changedBody(&after)})
		if err == nil {
			return after, nil
		}
		if !errors.Is(err, ErrStale) {
			return Device{}, err
		}
	}
	return Device{}, fault.New(fault.IssuanceBusy)
}
