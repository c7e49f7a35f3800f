package device

import (
	"encoding/hex"

	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// record is what the ledger keeps of a registered or changed device: the whole
// row after the act, so that it can be derived anew.
type record struct {
	Device       string            `json:"device"`
	DeviceSerial string            `json:"device_serial"`
	Version      int64             `json:"version"`
	State        string            `json:"state"`
	Product      int64             `json:"product"`
	Site         int64             `json:"site"`
	Owner        int64             `json:"owner"`
	Region       string            `json:"region"`
	Labels       map[string]string `json:"labels"`
	Secret       string            `json:"secret"` // "none", or SHA-256 of the secret's SHA-256, so that the leaf tells nothing about it
}

func registeredBody(d *Device) ledger.Body { return changedBody(d) }

func changedBody(d *Device) ledger.Body {
	r := record{
		Device: d.ID.String(), DeviceSerial: d.DeviceSerial, Version: d.Version, State: d.State.String(),
		Product: d.Product, Site: d.Site, Owner: d.Owner, Region: d.Region, Labels: d.Labels, Secret: "none",
	}
	if d.Secret.Set {
		twice := HashSecret(d.Secret.Hash[:])
		r.Secret = hex.EncodeToString(twice[:])
	}
	return ledger.JSON(r)
}
