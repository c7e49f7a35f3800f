// Package serialline talks to a device at the end of a serial line: it asks who
// the device is, has it make a key and prove its chip, installs the certificate
// in short lines and reads it back. Lines are lost, doubled and garbled on a
// fixture's cable, so each carries a number and a CRC and is sent until it is
// answered; the device does each piece of work once. What the device side looks
// like is in internal/edge/c, the protocol in docs/protocols/serial.md.
package serialline

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Config says what a device is reached by.
type Config struct {
	Port   io.ReadWriteCloser // from Open
	Random io.Reader          // names sessions; need not be secret
	Timing Timing
}

// Device is a device at the end of a serial line. Its methods may be called by
// one goroutine at a time.
type Device struct {
	link *link
	room int // octets of the largest object that the device takes
}

// Identity is what a device says about itself. Empty fields it does not know.
type Identity struct {
	DeviceSerial string
	Vendor       string // of the chip, as its manifest names it
	UID          string // of the chip
	Slot         string // of the chip's key
	Hardware     string // version
	Firmware     string // version
}

// Object is what a device stores.
type Object string

// The objects.
const (
	Certificate Object = "CERT"     // DER
	Chain       Object = "CHAIN"    // DER of the authorities, one after another
	WrappedKey  Object = "KEY"      // CMS or PKCS #12
	Password    Object = "PASSWORD" // of the PKCS #12 that follows
)

// Connect begins a session with the device behind a port. The port is the
// device's from now on: Close closes it, and so does a failure.
func Connect(ctx context.Context, c Config) (*Device, error) {
	if c.Port == nil || c.Random == nil {
		return nil, fmt.Errorf("serial line: port and random are needed")
	}
	var session [10]byte
	if _, err := io.ReadFull(c.Random, session[:]); err != nil {
		_ = c.Port.Close()
		return nil, fmt.Errorf("name a session: %w", err)
	}
	seq := uint16(session[8])<<8 | uint16(session[9])
	d := &Device{link: newLink(c.Port, c.Timing, seq)}
	if err := d.hello(ctx, session[:8]); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Device) hello(ctx context.Context, session []byte) error {
	fields, err := d.ask(ctx, d.link.timing.Line, 2, "HELLO", fmt.Sprintf("%02x", version), encode(session))
	if err != nil {
		return err
	}
	theirs, ok := parseHex(fields[0], 2)
	room, ok2 := parseHex(fields[1], 4)
	if !ok || !ok2 || theirs != version || room == 0 {
		return fault.New(fault.FixtureProtocol, "the device speaks version", fields[0])
	}
	d.room = int(room)
	return nil
}

// Close ends the session and closes the port.
func (d *Device) Close() error { return d.link.close() }

// Resent says how many requests had to be sent again: how good the cable is.
func (d *Device) Resent() int {
	d.link.mu.Lock()
	defer d.link.mu.Unlock()
	return d.link.resent
}

// Identify asks who the device is.
func (d *Device) Identify(ctx context.Context) (Identity, error) {
	text, err := d.fetch(ctx, "IDENT")
	if err != nil {
		return Identity{}, err
	}
	return parseIdentity(string(text))
}

// Request has the device make its key and returns the certificate request
// (DER). deviceSerial is for a device that does not know its own.
func (d *Device) Request(ctx context.Context, deviceSerial string) ([]byte, error) {
	return d.fetch(ctx, "CSR", encode([]byte(deviceSerial)))
}

// PublicKey returns the key of the device's chip (DER SubjectPublicKeyInfo).
func (d *Device) PublicKey(ctx context.Context) ([]byte, error) { return d.fetch(ctx, "KEY") }

// Recipient returns the certificate (DER) to which a key for this device is to
// be wrapped.
func (d *Device) Recipient(ctx context.Context) ([]byte, error) { return d.fetch(ctx, "RECIPIENT") }

// Prove has the chip's own key sign a digest of package proof.
func (d *Device) Prove(ctx context.Context, digest [32]byte) ([]byte, error) {
	return d.fetch(ctx, "PROVE", encode(digest[:]))
}

// Confirm has the key of the identity sign a digest of package proof.
func (d *Device) Confirm(ctx context.Context, digest [32]byte) ([]byte, error) {
	return d.fetch(ctx, "CONFIRM", encode(digest[:]))
}

// ReadBack returns the certificate (DER) from where the device stores it.
func (d *Device) ReadBack(ctx context.Context) ([]byte, error) { return d.fetch(ctx, "READBACK") }

// Done tells the device that its unit is confirmed.
func (d *Device) Done(ctx context.Context) error {
	_, err := d.ask(ctx, d.link.timing.Work, 0, "DONE")
	return err
}

// Abort has the device forget what was installed and not confirmed.
func (d *Device) Abort(ctx context.Context) error {
	_, err := d.ask(ctx, d.link.timing.Work, 0, "ABORT")
	return err
}

// Install sends an object in short lines and has the device store it.
func (d *Device) Install(ctx context.Context, what Object, content []byte) error {
	if len(content) > d.room {
		return fault.New(fault.FixtureFailed, "the device has room for", d.room, "octets, the object has", len(content))
	}
	for offset := 0; offset == 0 || offset < len(content); {
		piece := content[offset:min(len(content), offset+maxChunk)]
		fields, err := d.ask(ctx, d.link.timing.Line, 1, "DATA", fmt.Sprintf("%04x", offset), encode(piece))
		if err != nil {
			return err
		}
		offset += len(piece)
		if fields[0] != fmt.Sprintf("%04x", offset) {
			return fault.New(fault.FixtureProtocol, "the device counts other octets than were sent")
		}
		if len(piece) == 0 {
			break
		}
	}
	_, err := d.ask(ctx, d.link.timing.Work, 0, "INSTALL", string(what),
		fmt.Sprintf("%04x", len(content)), fmt.Sprintf("%08x", crc32.ChecksumIEEE(content)))
	return err
}

// fetch has the device make or find an object and reads it in short lines.
func (d *Device) fetch(ctx context.Context, verb string, args ...string) ([]byte, error) {
	fields, err := d.ask(ctx, d.link.timing.Work, 2, verb, args...)
	if err != nil {
		return nil, err
	}
	length, ok := parseHex(fields[0], 4)
	check, ok2 := parseHex(fields[1], 8)
	if !ok || !ok2 {
		return nil, fault.New(fault.FixtureProtocol, "the answer to", verb, "is malformed")
	}
	content := make([]byte, 0, length)
	for len(content) < int(length) {
		piece, err := d.read(ctx, len(content))
		if err != nil {
			return nil, err
		}
		if len(piece) == 0 || len(content)+len(piece) > int(length) {
			return nil, fault.New(fault.FixtureProtocol, "the answer to", verb, "has another length than was said")
		}
		content = append(content, piece...)
	}
	if uint32(check) != crc32.ChecksumIEEE(content) {
		return nil, fault.New(fault.FixtureProtocol, "the answer to", verb, "has another CRC than was said")
	}
	return content, nil
}

func (d *Device) read(ctx context.Context, offset int) ([]byte, error) {
	at := fmt.Sprintf("%04x", offset)
	fields, err := d.ask(ctx, d.link.timing.Line, 2, "READ", at)
	if err != nil {
		return nil, err
	}
	piece, err := decode(fields[1])
	if err != nil || fields[0] != at {
		return nil, fault.Wrap(fault.FixtureProtocol, err, "the answer to READ is malformed")
	}
	return piece, nil
}

// ask exchanges one request and returns the fields of a good answer.
func (d *Device) ask(ctx context.Context, patience time.Duration, want int, verb string, args ...string) ([]string, error) {
	answer, err := d.link.exchange(ctx, patience, verb, args...)
	if err != nil {
		return nil, err
	}
	switch {
	case answer.verb == "ERR" && len(answer.fields) > 0:
		return nil, refusal(verb, answer.fields)
	case answer.verb != "OK" || len(answer.fields) != want:
		return nil, fault.New(fault.FixtureProtocol, "the answer to", verb, "is malformed")
	}
	return answer.fields, nil
}

// errCannot is the cause when a device's firmware lacks a function.
var errCannot = errors.New("not in this firmware")

// refusal turns a device's ERR into a fault.
func refusal(verb string, fields []string) error {
	switch fields[0] {
	case "FAIL":
		number := "0000"
		if len(fields) > 1 {
			number = fields[1]
		}
		return fault.New(fault.FixtureFailed, "the device could not", does(verb), "and says why with", number)
	case "NONE", "VERB":
		return fault.Wrap(fault.FixtureFailed, errCannot, "the device's firmware cannot", does(verb))
	case "ROOM":
		return fault.New(fault.FixtureFailed, "the device has no room to", does(verb))
	case "SEQ":
		return fault.New(fault.FixtureFailed, "the device was restarted or is used by another program")
	}
	return fault.New(fault.FixtureProtocol, "the device answered", verb, "with", fields[0])
}

// does says a verb in words.
func does(verb string) string {
	words := map[string]string{
		"HELLO": "begin a session", "IDENT": "identify itself", "CSR": "make a key and a request",
		"KEY": "return its public key", "RECIPIENT": "return a certificate to wrap a key to",
		"PROVE": "sign with the chip's key", "CONFIRM": "sign with the new key", "INSTALL": "store what was sent",
		"DATA": "take what was sent", "READ": "return what it has", "READBACK": "read the certificate back",
		"DONE": "end the unit", "ABORT": "forget the unit",
	}
	return words[verb]
}

// parseIdentity reads lines of name=value. Names that are not known are for
// stations of a later day.
func parseIdentity(text string) (Identity, error) {
	var id Identity
	known := map[string]*string{
		"serial": &id.DeviceSerial, "vendor": &id.Vendor, "uid": &id.UID, "slot": &id.Slot,
		"hardware": &id.Hardware, "firmware": &id.Firmware,
	}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok || name == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return Identity{}, fault.New(fault.FixtureProtocol, "the device's identity is malformed")
		}
		field, ok := known[name]
		if !ok {
			continue
		}
		if *field != "" {
			return Identity{}, fault.New(fault.FixtureProtocol, "the device names its", name, "twice")
		}
		*field = value
	}
	return id, nil
}
