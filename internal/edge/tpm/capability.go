package tpm

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/birthmark/birthmark/internal/fault"
)

// defaultNVBuffer is what every TPM can do.
const defaultNVBuffer = 512

// identify asks the TPM who it is.
func (u *turn) identify() (Info, error) {
	values, err := u.properties(tpm2.TPMPTFamilyIndicator, 64)
	if err != nil {
		return Info{}, err
	}
	if family := text(values[tpm2.TPMPTFamilyIndicator]); family != "2.0" {
		return Info{}, fault.New(fault.TPMUnreachable, u.t.c.Path, "is not a TPM 2.0")
	}
	i := Info{Path: u.t.c.Path, Manufacturer: text(values[tpm2.TPMPTManufacturer]), NVBuffer: int(values[tpm2.TPMPTNVBufferMax])}
	for n := range tpm2.TPMPT(4) {
		i.Vendor += text(values[tpm2.TPMPTVendorString1+n])
	}
	i.Vendor = strings.Join(strings.Fields(i.Vendor), " ")
	first, second := values[tpm2.TPMPTFirmwareVersion1], values[tpm2.TPMPTFirmwareVersion2]
	i.Firmware = fmt.Sprintf("%d.%d.%d.%d", first>>16, first&0xFFFF, second>>16, second&0xFFFF)
	if i.NVBuffer == 0 {
		i.NVBuffer = defaultNVBuffer
	}
	return i, nil
}

// text reads the four characters of a property.
func text(v uint32) string {
	b := binary.BigEndian.AppendUint32(nil, v)
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b))
}

func (u *turn) properties(first tpm2.TPMPT, count uint32) (map[tpm2.TPMPT]uint32, error) {
	values := map[tpm2.TPMPT]uint32{}
	err := u.capability(tpm2.TPMCapTPMProperties, uint32(first), count, func(c *tpm2.TPMUCapabilities) (uint32, int, error) {
		list, err := c.TPMProperties()
		if err != nil || len(list.TPMProperty) == 0 {
			return 0, 0, err
		}
		for _, p := range list.TPMProperty {
			values[p.Property] = p.Value
		}
		return uint32(list.TPMProperty[len(list.TPMProperty)-1].Property) + 1, len(list.TPMProperty), nil
	})
	return values, err
}

// capability asks page by page: a TPM may send fewer values than asked for.
func (u *turn) capability(c tpm2.TPMCap, first, count uint32, read func(*tpm2.TPMUCapabilities) (next uint32, n int, err error)) error {
	for {
		got, err := tpm2.GetCapability{Capability: c, Property: first, PropertyCount: count}.Execute(u)
		if err != nil {
			return failed("TPM2_GetCapability", err)
		}
		next, n, err := read(&got.CapabilityData.Data)
		if err != nil {
			return failed("TPM2_GetCapability", err)
		}
		if !got.MoreData || n == 0 || n >= int(count) {
			return nil
		}
		first, count = next, count-uint32(n)
	}
}

// Ranges of handles (Part 2, section 7.4).
const (
	rangeNV         = 0x01000000
	rangeLoaded     = 0x02000000 // loaded sessions
	rangeTransient  = 0x80000000
	rangePersistent = 0x81000000
	maxHandles      = 254
)

// handles lists the handles of a range.
func (u *turn) handles(first uint32) ([]uint32, error) {
	var all []uint32
	err := u.capability(tpm2.TPMCapHandles, first, maxHandles, func(c *tpm2.TPMUCapabilities) (uint32, int, error) {
		list, err := c.Handles()
		if err != nil || len(list.Handle) == 0 {
			return 0, 0, err
		}
		for _, h := range list.Handle {
			all = append(all, uint32(h))
		}
		return all[len(all)-1] + 1, len(list.Handle), nil
	})
	return all, err
}

// Handles is what a TPM holds.
type Handles struct {
	Objects    []uint32 // loaded, of all its users; behind a resource manager: ours alone
	Sessions   []uint32 // loaded
	Persistent []uint32
	NV         []uint32
}

// Handles lists what the TPM holds.
func (t *TPM) Handles(ctx context.Context) (h Handles, err error) {
	err = t.turn(ctx, func(u *turn) error {
		for _, one := range []struct {
			first uint32
			list  *[]uint32
		}{
			{rangeTransient, &h.Objects}, {rangeLoaded, &h.Sessions}, {rangePersistent, &h.Persistent}, {rangeNV, &h.NV},
		} {
			if *one.list, err = u.handles(one.first); err != nil {
				return err
			}
		}
		return nil
	})
	return h, err
}
