package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// visibleDevice leaves out the rows of batches that are not complete yet.
const visibleDevice = " AND (batch = 0 OR EXISTS (SELECT 1 FROM device_batch b WHERE b.id = device.batch AND b.visible = 1))"

const selectDevice = "SELECT " + deviceColumns + " FROM device WHERE id = $1" + visibleDevice

// Device returns a device that is in scope.
func (s *Store) Device(ctx context.Context, scope access.Scope, id device.ID) (device.Device, error) {
	if scope.SeesEverything() {
		return s.gatheredDevice(ctx, id)
	}
	return readDevice(ctx, s.read, scope, id)
}

func readDevice(ctx context.Context, q querier, scope access.Scope, id device.ID) (device.Device, error) {
	var d device.Device
	err := scanDevice(q.row(ctx, selectDevice+scopeSQL(scope, ""), int64(id)), &d)
	if noRows(err) {
		return device.Device{}, fault.New(fault.DeviceUnknown)
	}
	return d, err
}

// maxAdd is how many devices one transaction registers.
const maxAdd = 2000

// AddDevices registers at most 2,000 devices, all or none.
func (s *Store) AddDevices(ctx context.Context, scope access.Scope, devices []device.Device, entries ...ledger.Entry) error {
	if err := checkNew(scope, devices); err != nil {
		return err
	}
	err := s.write(ctx, func(t *tx) error {
		for i := range devices {
			t.tallyDevice(&devices[i], 1)
		}
		return insertDevices(ctx, t, devices, 0)
	}, entries...)
	if fault.Has(err, fault.DeviceExists) {
		return s.firstTaken(ctx, devices, err)
	}
	return err
}

func checkNew(scope access.Scope, devices []device.Device) error {
	if len(devices) > maxAdd {
		return fault.New(fault.ParameterInvalid, "more than", maxAdd, "devices at once")
	}
	seen := make(map[device.ID]struct{}, len(devices))
	for i := range devices {
		d := &devices[i]
		if !scope.Sees(d.Product, d.Site, d.Owner) {
			return fault.New(fault.ProductUnknown)
		}
		if _, twice := seen[d.ID]; twice {
			return fault.New(fault.DeviceExists, d.DeviceSerial)
		}
		seen[d.ID] = struct{}{}
	}
	return nil
}

// insertedAtOnce is how many devices one statement inserts.
const insertedAtOnce = 40

// deviceInsert is the statement for n devices of a batch.
func deviceInsert(n int) string {
	const columns = 19
	var b strings.Builder
	b.WriteString("INSERT INTO device (" + deviceColumns + ", batch) VALUES ")
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		for c := range columns {
			b.WriteByte("(,"[min(c, 1)])
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(i*columns + c + 1))
		}
		b.WriteByte(')')
	}
	b.WriteString(" ON CONFLICT (id) DO NOTHING")
	return b.String()
}

// insertDevices goes in order of id: along the table, and never into a circle
// with another registration of the same devices.
func insertDevices(ctx context.Context, t *tx, devices []device.Device, batch int64) error {
	devices = slices.SortedFunc(slices.Values(devices), func(a, b device.Device) int { return cmp.Compare(a.ID, b.ID) })
	for len(devices) > 0 {
		n := min(insertedAtOnce, len(devices))
		args := make([]any, 0, 19*n)
		for i := range n {
			args = append(append(args, deviceValues(&devices[i])...), batch)
		}
		added, err := t.exec(ctx, deviceInsert(n), args...)
		if err != nil {
			return err
		}
		if added != int64(n) {
			return fault.New(fault.DeviceExists)
		}
		devices = devices[n:]
	}
	return nil
}

// firstTaken names the first device that is registered already.
func (s *Store) firstTaken(ctx context.Context, devices []device.Device, refused error) error {
	for i := range devices {
		var one int64
		err := s.read.row(ctx, "SELECT 1 FROM device WHERE id = $1", int64(devices[i].ID)).Scan(&one)
		if err == nil {
			return fault.New(fault.DeviceExists, devices[i].DeviceSerial)
		}
		if !noRows(err) {
			return err
		}
	}
	return refused
}

// UpdateDevice writes state, site, owner, region, labels and secret if the row
// still has d.Version, and raises the version; device.ErrStale otherwise. A new
// site or owner is also that of the device's credentials.
func (s *Store) UpdateDevice(ctx context.Context, scope access.Scope, d device.Device, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		old, err := readDevice(ctx, t, scope, d.ID)
		if err != nil {
			return err
		}
		if !scope.Sees(old.Product, d.Site, d.Owner) {
			return fault.New(fault.DeviceUnknown)
		}
		after := d
		after.Product = old.Product
		// The values by their places in deviceColumns.
		v := deviceValues(&after)
		n, err := t.exec(ctx, `UPDATE device SET site = $3, owner = $4, region = $5, labels = $6, state = $7, version = version + 1,
secret_hash = $8, secret_spent_at = $9, secret_spki = $10, changed_at = $11 WHERE id = $1 AND version = $2`,
			v[0], d.Version, v[3], v[4], v[5], v[6], v[7], v[10], v[11], v[12], v[14])
		if err != nil {
			return err
		}
		// The row was read before it was locked: only if both saw one version
		// is what was read what was replaced.
		if n == 0 || old.Version != d.Version {
			return device.ErrStale
		}
		t.tallyDevice(&old, -1)
		t.tallyDevice(&after, 1)
		if old.Site != d.Site || old.Owner != d.Owner {
			return moveCredentials(ctx, t, &old, &after)
		}
		return nil
	}, entries...)
}

// moveCredentials gives the credentials of a device its new site and owner.
func moveCredentials(ctx context.Context, t *tx, old, after *device.Device) error {
	f := newFrontier(old)
	for range walkWindow {
		c, err := f.step(ctx, t, old.ID)
		if err != nil || c == nil {
			return err
		}
		if _, err := t.exec(ctx, "UPDATE credential SET site = $2, owner = $3 WHERE id = $1", int64(c.ID), after.Site, after.Owner); err != nil {
			return err
		}
		t.tallyCredential(c, -1)
		c.Site, c.Owner = after.Site, after.Owner
		t.tallyCredential(c, 1)
	}
	return fmt.Errorf("device %s has too many credentials to move", old.ID)
}

// Devices returns a page of devices in order of id. Indexes: the primary key
// and device_product.
func (s *Store) Devices(ctx context.Context, scope access.Scope, q device.DeviceQuery) ([]device.Device, string, error) {
	if q.DeviceSerial != "" {
		return s.deviceBySerial(ctx, scope, q)
	}
	var after device.ID
	if q.After != "" {
		var err error
		if after, err = device.ParseID(q.After); err != nil {
			return nil, "", fault.New(fault.ParameterInvalid, "cursor")
		}
	}
	w := walk{table: "device", columns: deviceColumns, scope: scope, product: q.Product}
	if err := s.hideStaged(ctx, &w); err != nil {
		return nil, "", err
	}
	if q.State != 0 {
		w.where("state = ?", int64(q.State))
	}
	if q.Label[0] != "" {
		w.where("labels LIKE ? ESCAPE '!'", labelPattern(q.Label))
	}
	list, next, err := page(ctx, s.read, &w, int64(after), pageSize(q.Limit), func(r row) (device.Device, int64, error) {
		var d device.Device
		err := scanDevice(r, &d)
		return d, int64(d.ID), err
	})
	if err != nil || next == 0 {
		return matching(list, q), "", err
	}
	return matching(list, q), device.ID(next).String(), nil
}

// hideStaged leaves out staged rows, if there can be any.
func (s *Store) hideStaged(ctx context.Context, w *walk) error {
	var one int64
	err := s.read.row(ctx, "SELECT 1 FROM device_batch WHERE visible <> 1 LIMIT 1").Scan(&one)
	if noRows(err) {
		return nil
	}
	w.filter, w.skips = w.filter+visibleDevice, true
	return err
}

// where adds a condition with one parameter, written as a question mark.
func (w *walk) where(condition string, arg any) {
	w.args = append(w.args, arg)
	w.filter += " AND " + strings.Replace(condition, "?", "$"+strconv.Itoa(len(w.args)), 1)
	w.skips = true
}

// labelPattern finds a label in the stored JSON. LIKE does not mind case on
// SQLite, so matching looks again.
func labelPattern(label [2]string) string {
	text := toJSON(map[string]string{label[0]: label[1]})
	return "%" + strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(text[1:len(text)-1]) + "%"
}

func matching(list []device.Device, q device.DeviceQuery) []device.Device {
	if q.Label[0] == "" {
		return list
	}
	kept := list[:0]
	for _, d := range list {
		if v, ok := d.Labels[q.Label[0]]; ok && v == q.Label[1] {
			kept = append(kept, d)
		}
	}
	return kept
}

func (s *Store) deviceBySerial(ctx context.Context, scope access.Scope, q device.DeviceQuery) ([]device.Device, string, error) {
	d, err := s.Device(ctx, scope, s.DeviceID(q.DeviceSerial))
	if fault.Has(err, fault.DeviceUnknown) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	if d.DeviceSerial != q.DeviceSerial || q.After != "" || q.Product != 0 && d.Product != q.Product || q.State != 0 && d.State != q.State {
		return nil, "", nil
	}
	return matching([]device.Device{d}, q), "", nil
}
