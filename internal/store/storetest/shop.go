package storetest

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

// shop is a fixture with an order, a station and a reel of chips.
type shop struct {
	*fixture
	product, site, station int64
	order                  int64
	block                  factory.NonceBlock
	nonces                 int
	chips                  []int64
	serials                int
}

func newShop(t *testing.T, s *store.Store, quantity, spares int64, chips int) *shop {
	x := &shop{fixture: newFixture(t, s)}
	var err error
	x.product, err = s.AddProduct(t.Context(), device.Product{Name: "sensor", CreatedAt: x.now}, x.entry(""))
	x.ok(err)
	x.site, err = s.AddSite(t.Context(), factory.Site{Name: "Graz", CreatedAt: x.now}, x.entry(""))
	x.ok(err)
	x.station, err = s.AddStation(t.Context(), factory.Station{
		Name: "line-1", Site: x.site, State: factory.StationActive, Version: 1, CreatedAt: x.now, ChangedAt: x.now,
		Code: factory.Code{Hash: sha256.Sum256([]byte("code")), ExpiresAt: x.now.Add(time.Hour)},
	}, x.entry(""))
	x.ok(err)
	x.order = x.addOrder("PO-1", quantity, spares)
	x.block = x.drawBlock(x.order, x.station, 4096)
	x.chips = x.reel("reel", chips)
	return x
}

func (x *shop) addOrder(number string, quantity, spares int64) int64 {
	x.Helper()
	id, err := x.s.AddOrder(x.Context(), factory.Order{
		Number: number, Product: x.product, Site: x.site, State: factory.OrderOpen, Quantity: quantity, Spares: spares,
		Stations: []int64{x.station}, Grace: time.Hour, CreatedAt: x.now, OpenedAt: x.now,
	}, x.entry(""))
	x.ok(err)
	return id
}

func (x *shop) drawBlock(order, station int64, count int) factory.NonceBlock {
	x.Helper()
	b := factory.NonceBlock{Order: order, Station: station, Count: count, Key: [32]byte{7}, ExpiresAt: x.now.Add(time.Hour)}
	var err error
	b.ID, err = x.s.AddNonceBlock(x.Context(), b, x.entry("nonces"))
	x.ok(err)
	return b
}

// reel imports n chips.
func (x *shop) reel(name string, n int) []int64 {
	x.Helper()
	ids := x.stage(name, n)
	x.publish(name)
	return ids
}

func (x *shop) stage(name string, n int) (ids []int64) {
	x.Helper()
	m, err := x.s.BeginManifest(x.Context(), factory.Manifest{Name: name, Format: "csv", Digest: sha256.Sum256([]byte(name)), ImportedAt: x.now}, x.entry(""))
	x.ok(err)
	for from := 0; from < n; from += 500 {
		var some []factory.Chip
		for i := from; i < min(from+500, n); i++ {
			uid := fmt.Sprintf("%s-%06d", name, i)
			key := sha256.Sum256([]byte(uid))
			some = append(some, factory.Chip{
				ID: x.s.ChipID("acme", uid), Vendor: "acme", UID: uid, ChipType: "A1", Manifest: m.ID, Entry: int64(i + 1), State: factory.ChipListed,
				Keys: []factory.ChipKey{{Slot: "0", SPKI: key[:]}},
			})
			ids = append(ids, x.s.ChipID("acme", uid))
		}
		duplicates, err := x.s.StageChips(x.Context(), m.ID, some)
		x.ok(err)
		if len(duplicates) > 0 {
			x.Fatal(duplicates)
		}
	}
	return ids
}

func (x *shop) publish(name string) {
	x.Helper()
	m, err := x.s.BeginManifest(x.Context(), factory.Manifest{Name: name, Format: "csv", Digest: sha256.Sum256([]byte(name)), ImportedAt: x.now})
	x.ok(err)
	x.ok(x.s.PublishManifest(x.Context(), m, x.entry("")))
}

// unit is the issuance of a new device's identity, with a chip, a nonce and the
// entries that the one road writes.
func (x *shop) unit() device.Issuance {
	x.Helper()
	x.serials++
	d := device.Device{
		DeviceSerial: fmt.Sprintf("SN-%06d", x.serials), Product: x.product, Site: x.site, State: device.Registered, Version: 2,
		RegisteredAt: x.now, ChangedAt: x.now,
	}
	d.ID = x.s.DeviceID(d.DeviceSerial)
	i := x.issuance(nil, "idevid", "")
	i.Credential.Device, i.Credential.Product, i.Credential.Site = d.ID, d.Product, d.Site
	i.Unit = &device.UnitIssue{
		Order: x.order, Station: x.station, New: &d, Nonce: x.nonce(), Evidence: "chip", IssueTime: 3 * time.Millisecond,
		ConfirmNonce: sha256.Sum256([]byte(d.DeviceSerial)),
	}
	if len(x.chips) >= x.serials {
		i.Unit.Chip = x.chips[x.serials-1]
	}
	return x.recorded(i)
}

func (x *shop) nonce() device.NonceRef {
	x.nonces++
	return device.NonceRef{Block: x.block.ID, Index: x.nonces - 1}
}

// another is the issuance of a device's next identity.
func (x *shop) another(id device.ID, replaces device.CredentialID) device.Issuance {
	x.Helper()
	d := x.load(id)
	i := x.issuance(&d, "idevid", "")
	i.Change.State, i.Change.Supersedes = d.State, 0
	i.Unit = &device.UnitIssue{
		Order: x.order, Station: x.station, Nonce: x.nonce(), Chip: d.Chip, Replaces: replaces, ReplacesReason: 4, ReplacesNote: "a new board", Evidence: "chip",
	}
	return x.recorded(i)
}

// recorded sets the entries as they follow from an issuance.
func (x *shop) recorded(i device.Issuance) device.Issuance {
	c, u := &i.Credential, i.Unit
	body := &ledger.Issued{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Profile: c.Profile, Kind: c.Kind, Device: int64(c.Device),
		Slot: string(device.IDevIDSlot), Product: c.Product, Site: c.Site, Owner: c.Owner, KeyKind: uint8(c.KeyKind),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, SPKI: c.SPKIDigest, DER: sha256.Sum256(c.DER), Idempotency: c.Idempotency, Previous: int64(c.Previous),
	}
	entry := func(k ledger.Kind, b ledger.Body) ledger.Entry {
		return ledger.Entry{Kind: k, At: x.now, Actor: "station:line-1", Body: b}
	}
	i.Entries = nil
	if d := u.New; d != nil {
		body.DeviceVersion, body.DeviceState = d.Version, uint8(d.State)
		i.Entries = append(i.Entries, entry(ledger.DeviceRegistered, &ledger.Registered{
			Device: int64(d.ID), DeviceSerial: d.DeviceSerial, Product: d.Product, Version: d.Version - 1, State: uint8(d.State), Site: d.Site,
		}))
	} else {
		body.DeviceVersion, body.DeviceState = i.Change.Version+1, uint8(i.Change.State)
	}
	i.Entries = append(i.Entries, entry(ledger.CertificateIssued, body), entry(ledger.UnitIssued, &ledger.IssuedUnit{
		Credential: int64(c.ID), Order: u.Order, Device: int64(c.Device), Station: u.Station, Chip: u.Chip, Spare: c.Previous != 0, Replaces: int64(u.Replaces),
		Reference: u.Reference, Evidence: u.Evidence, NonceBlock: u.Nonce.Block, NonceIndex: int64(u.Nonce.Index), ConfirmNonce: u.ConfirmNonce,
	}))
	return i
}

func (x *shop) store(i device.Issuance) device.Credential {
	x.Helper()
	if i.Unit != nil {
		i = x.recorded(i)
	}
	c, err := x.s.StoreIssuance(x.Context(), i)
	x.ok(err)
	return c
}

func (x *shop) confirmation(c *device.Credential) factory.Confirmation {
	return factory.Confirmation{ID: c.ID, Device: c.Device, Order: x.order, At: x.now.Add(time.Minute), CycleTime: 4 * time.Second, FirstPass: true}
}

func (x *shop) confirmed(c factory.Confirmation) ledger.Entry {
	return ledger.Entry{Kind: ledger.UnitConfirmed, At: c.At, Actor: "station:line-1", Body: &ledger.ConfirmedUnit{
		Credential: int64(c.ID), Order: c.Order, Device: int64(c.Device), FirstPass: c.FirstPass, CycleTime: c.CycleTime.Milliseconds(),
	}}
}

func (x *shop) confirm(c device.Credential) {
	x.Helper()
	k := x.confirmation(&c)
	x.ok(x.s.ConfirmUnit(x.Context(), k, x.confirmed(k)))
}

func (x *shop) end(c device.Credential, state factory.UnitState, after device.State) error {
	e := factory.Ending{ID: c.ID, At: x.now.Add(time.Hour), State: state, Reason: "solder", CRL: 5, Device: after}
	return x.s.EndUnit(x.Context(), e, ledger.Entry{Kind: ledger.UnitScrapped, At: e.At, Actor: "local:ann", Body: &ledger.EndedUnit{
		Credential: int64(c.ID), Order: x.order, Device: int64(c.Device), State: uint8(state), DeviceState: uint8(after),
	}})
}

func (x *shop) unitOf(id device.CredentialID) factory.Unit {
	x.Helper()
	u, err := x.s.Unit(x.Context(), access.Everything(), id)
	x.ok(err)
	return u
}

func (x *shop) tallied(order int64) factory.Counts {
	x.Helper()
	o, err := x.s.Order(x.Context(), access.Everything(), order)
	x.ok(err)
	return o.Counts
}

// measures are the counters of an order, without those of durations.
func (x *shop) measures(order int64) map[factory.Measure]int64 {
	x.Helper()
	all, err := x.s.Tallies(x.Context(), access.Everything(), factory.TallyQuery{Order: order})
	x.ok(err)
	sum := make(map[factory.Measure]int64)
	for _, t := range all {
		if t.N != 0 {
			sum[t.Measure] += t.N
		}
		if t.Product != x.product || t.Site != x.site || t.Station != x.station || t.Day != x.now.Unix()/86400 {
			x.Errorf("counter %+v", t)
		}
	}
	return sum
}
