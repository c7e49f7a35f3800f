package manifest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/manifest"
)

// birthmark reads our own format. The signature comes last: chips go to the caller
// before it is known to be good, and a bad one refuses them all.
func (im *importing) birthmark() error {
	in, err := format.NewReader(im.source)
	if err != nil {
		return err
	}
	h := in.Header()
	fingerprint := sha256.Sum256(h.Signer)
	signer, ok := im.signers[fingerprint]
	if !ok {
		return unpinned(fingerprint)
	}
	if err := signer.validAt(h.Created); err != nil {
		return err
	}
	if h.Created.After(im.Now().Add(futureTolerance)) {
		im.remark(0, "the manifest says that it was made in the future")
	}
	im.summary.Signer, im.summary.Maker, im.summary.Product, im.summary.Announced = fingerprint, h.Maker, h.Product, h.Count
	if h.Count > im.Limits.Entries {
		return fault.New(fault.ManifestLimit, "the file announces more than", im.Limits.Entries, "entries")
	}
	vendor, chipType := cmp.Or(h.Vendor, im.Vendor), cmp.Or(h.ChipType, im.ChipType)
	next := func() ([]byte, int, error) {
		line, err := in.Next()
		if err == nil && len(line) > im.Limits.Entry {
			err = fault.New(fault.ManifestLimit, "the line is longer than", im.Limits.Entry, "octets")
		}
		return bytes.Clone(line), len(line), err
	}
	return run(im, next, func(line []byte, remark func(string)) (Chip, error) {
		e, err := format.ParseEntry(line)
		if err != nil {
			return Chip{}, err
		}
		return im.chipOf(e, vendor, chipType, remark)
	})
}

// chipOf makes a chip of a line of our format, which the plain NDJSON shares.
func (im *importing) chipOf(e *format.Entry, vendor, chipType string, remark func(string)) (Chip, error) {
	c := Chip{Vendor: cmp.Or(e.Vendor, vendor), UID: e.UID, ChipType: cmp.Or(e.ChipType, chipType), DeviceSerial: e.DeviceSerial}
	if err := c.name(); err != nil {
		return c, err
	}
	for i := range e.Keys {
		k := Key{Slot: e.Keys[i].Slot, SPKI: e.Keys[i].SPKI, Chain: e.Keys[i].Chain}
		if err := im.admit(&k, remark); err != nil {
			return c, err
		}
		c.Keys = append(c.Keys, k)
	}
	return c, nil
}

// eof reports whether a reader came to its regular end.
func eof(err error) bool { return errors.Is(err, io.EOF) }
