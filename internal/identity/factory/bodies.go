package factory

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// The bodies of the factory's entries that are not on the hot path. Each says
// all that its row holds after the act. Free text, which may name a person, is
// there by its digest only.

type siteBody struct {
	ID   int64  `json:"id,omitempty"` // known only once it is stored
	Name string `json:"name"`
}

type stationBody struct {
	Station   int64  `json:"station,omitempty"`
	Name      string `json:"name"`
	Site      int64  `json:"site"`
	State     string `json:"state"`
	Version   int64  `json:"version"`
	Code      string `json:"code_sha256,omitempty"`
	ExpiresAt string `json:"code_expires_at,omitempty"`
	Act       string `json:"act"`
	Reason    string `json:"reason_sha256,omitempty"`
}

func stationEntryBody(x *Station, act, reason string) ledger.Body {
	b := stationBody{
		Station: x.ID, Name: x.Name, Site: x.Site, State: x.State.String(), Version: x.Version,
		Act: act, Reason: digestOf(reason),
	}
	if !x.Code.ExpiresAt.IsZero() && x.Code.SpentAt.IsZero() {
		b.Code, b.ExpiresAt = hex.EncodeToString(x.Code.Hash[:]), text(x.Code.ExpiresAt)
	}
	return ledger.JSON(b)
}

type orderBody struct {
	Order       int64    `json:"order,omitempty"`
	Number      string   `json:"number"`
	Act         string   `json:"act"`
	Product     int64    `json:"product"`
	Site        int64    `json:"site"`
	State       string   `json:"state"`
	Version     int64    `json:"version"`
	Quantity    int64    `json:"quantity"`
	Spares      int64    `json:"spares"`
	Stations    []int64  `json:"stations"`
	ChipTypes   []string `json:"chip_types"`
	SerialFrom  string   `json:"serial_from,omitempty"`
	SerialTo    string   `json:"serial_to,omitempty"`
	ExternalRef string   `json:"external_ref,omitempty"`
	Takt        int64    `json:"takt_us,omitempty"`
	Grace       int64    `json:"grace_us"`
	Frozen      bool     `json:"frozen,omitempty"`
	CreatedAt   string   `json:"created_at"`
	OpenedAt    string   `json:"opened_at,omitempty"`
	ClosedAt    string   `json:"closed_at,omitempty"`
	Reason      string   `json:"reason_sha256,omitempty"`
}

func orderEntryBody(o *Order, act, reason string) ledger.Body {
	return ledger.JSON(orderBody{
		Order: o.ID, Number: o.Number, Act: act, Product: o.Product, Site: o.Site, State: o.State.String(), Version: o.Version,
		Quantity: o.Quantity, Spares: o.Spares, Stations: notNil(o.Stations), ChipTypes: notNil(o.ChipTypes),
		SerialFrom: o.SerialFrom, SerialTo: o.SerialTo, ExternalRef: o.ExternalRef,
		Takt: o.Takt.Microseconds(), Grace: o.Grace.Microseconds(), Frozen: o.Frozen,
		CreatedAt: text(o.CreatedAt), OpenedAt: text(o.OpenedAt), ClosedAt: text(o.ClosedAt), Reason: digestOf(reason),
	})
}

type signerBody struct {
	Signer      int64  `json:"signer,omitempty"`
	Name        string `json:"name"`
	Format      string `json:"format"`
	Fingerprint string `json:"fingerprint"`
	Reason      string `json:"reason_sha256,omitempty"`
}

func signerEntryBody(x *Signer, reason string) ledger.Body {
	return ledger.JSON(signerBody{
		Signer: x.ID, Name: x.Name, Format: x.Format, Fingerprint: hex.EncodeToString(x.Fingerprint[:]), Reason: digestOf(reason),
	})
}

type manifestBody struct {
	Manifest    int64  `json:"manifest,omitempty"`
	Name        string `json:"name"`
	Format      string `json:"format"`
	Digest      string `json:"sha256"`
	Signer      int64  `json:"signer,omitempty"`
	Product     int64  `json:"product,omitempty"`
	Chips       int64  `json:"chips,omitempty"`
	NotProvable int64  `json:"not_provable,omitempty"`
	Refused     string `json:"refused,omitempty"` // code of the refusal of a discarded one
}

func manifestEntryBody(m *Manifest, refused string) ledger.Body {
	return ledger.JSON(manifestBody{
		Manifest: m.ID, Name: m.Name, Format: m.Format, Digest: hex.EncodeToString(m.Digest[:]), Signer: m.Signer,
		Product: m.Product, Chips: m.Chips, NotProvable: m.NotProvable, Refused: refused,
	})
}

type chipBody struct {
	Chip   string `json:"chip"`
	State  string `json:"state"`
	Order  int64  `json:"order,omitempty"`
	Device string `json:"device,omitempty"`
	Reason string `json:"reason_sha256,omitempty"`
}

func chipEntryBody(c *Chip, reason string) ledger.Body {
	b := chipBody{Chip: chipName(c.ID), State: c.State.String(), Order: c.Order, Reason: digestOf(reason)}
	if c.Device != 0 {
		b.Device = c.Device.String()
	}
	return ledger.JSON(b)
}

// chipName is a chip's number as 16 hex digits, like a device's.
func chipName(id int64) string { return fmt.Sprintf("%016x", uint64(id)) }

type lapsedBody struct {
	Order int64    `json:"order"`
	Chips []string `json:"chips"` // allotted before, listed now
}

type noncesBody struct {
	Order     int64  `json:"order"`
	Station   int64  `json:"station"`
	Count     int    `json:"count"`
	Offline   bool   `json:"offline,omitempty"`
	ExpiresAt string `json:"expires_at"`
}

type shippedBody struct {
	Devices []string `json:"devices"`
}

func deviceNames(ids []device.ID) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = id.String()
	}
	return names
}

type builtInBody struct {
	System     string   `json:"system"`
	Components []string `json:"components"`
}

type failedBody struct {
	Order        int64  `json:"order"`
	Station      int64  `json:"station"`
	Product      int64  `json:"product,omitempty"`
	DeviceSerial string `json:"device_serial,omitempty"`
	Code         string `json:"code"`
	Count        int64  `json:"count,omitempty"` // of refusals by the server, several in one entry
}

type alarmBody struct {
	Alarm   int64  `json:"alarm,omitempty"`
	Kind    string `json:"kind"`
	Key     string `json:"key"`
	State   string `json:"state"`
	Message string `json:"message,omitempty"`
	Order   int64  `json:"order,omitempty"`
	Station int64  `json:"station,omitempty"`
	Product int64  `json:"product,omitempty"`
	Site    int64  `json:"site,omitempty"`
	Reason  string `json:"reason_sha256,omitempty"`
}

func alarmEntryBody(a *Alarm, reason string) ledger.Body {
	return ledger.JSON(alarmBody{
		Alarm: a.ID, Kind: string(a.Kind), Key: a.Key, State: a.State.String(), Message: a.Message,
		Order: a.Order, Station: a.Station, Product: a.Product, Site: a.Site, Reason: digestOf(reason),
	})
}

type webhookBody struct {
	Name     string   `json:"name"`
	URL      string   `json:"url,omitempty"`
	Events   []string `json:"events,omitempty"`
	Cursor   int64    `json:"cursor,omitempty"`
	Disabled bool     `json:"disabled,omitempty"`
	Act      string   `json:"act"`
}

// digest is what an entry says of free text; zero for none.
func digest(words string) (d [32]byte) {
	if words != "" {
		d = sha256.Sum256([]byte(words))
	}
	return d
}

func digestOf(words string) string {
	if words == "" {
		return ""
	}
	sum := digest(words)
	return hex.EncodeToString(sum[:])
}

func text(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
