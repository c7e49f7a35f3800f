package storetest

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/store"
)

func testConcurrentLines(t *testing.T, open Open) { Lines(t, open(t)) }

// Lines lets 64 stations work at two orders through all nodes of one database:
// units, retries, rework, confirmations, scraps, revocations, first use, while a
// planner amends, closes and opens. Whatever the interleaving, no limit is
// passed, and the account is what a full count says.
func Lines(t *testing.T, nodes ...*store.Store) {
	const stations, rounds = 64, 14
	f := &floorModel{shop: newShop(t, nodes[0], 20, 200, 500), outcomes: map[string]int{}, nonces: map[int]device.CredentialID{}, chips: map[int64]device.ID{}}
	f.orders = []int64{f.order, f.addOrder("PO-2", 60, 5)}
	f.blocks = []factory.NonceBlock{f.block, f.drawBlock(f.orders[1], f.station, 4096)}
	workers := make([]*worker, stations)
	for n := range workers {
		workers[n] = &worker{floorModel: f, s: nodes[n/2%len(nodes)], r: rand.New(rand.NewPCG(uint64(n), 11)), line: n % 2}
	}
	planner := &worker{floorModel: f, s: nodes[len(nodes)-1], r: rand.New(rand.NewPCG(99, 11))}
	// What happens is for the scheduler to say: they go on until everything has
	// happened that the test is about.
	for range maxShifts {
		var wg sync.WaitGroup
		for _, w := range workers {
			wg.Go(func() {
				for range rounds {
					w.act()
				}
			})
		}
		for range rounds {
			planner.plan()
		}
		wg.Wait()
		if len(f.missing()) == 0 {
			break
		}
	}
	t.Logf("outcomes %v", f.outcomes)
	for _, what := range f.missing() {
		t.Errorf("nothing was %q: the stations did not meet", what)
	}
	f.check()
	f.verifies()
}

// maxShifts bounds how often the stations of Lines go on.
const maxShifts = 10

// missing are the outcomes that did not occur yet.
func (f *floorModel) missing() (list []string) {
	for _, what := range []string{"issued", "replaced", "confirmed", "ended", "revoked", "activated", "order full", "nonce used", "chip used", "stale", "spares used", "serial taken"} {
		if f.outcomes[what] == 0 {
			list = append(list, what)
		}
	}
	return list
}

// floorModel is what the stations know together.
type floorModel struct {
	*shop
	orders []int64
	blocks []factory.NonceBlock

	mu       sync.Mutex
	outcomes map[string]int
	live     []device.Credential // acknowledged; some have ended since
	nonces   map[int]device.CredentialID
	chips    map[int64]device.ID
}

func (f *floorModel) note(what string) {
	f.mu.Lock()
	f.outcomes[what]++
	f.mu.Unlock()
}

// worker is one station, or the planner.
type worker struct {
	*floorModel
	s    *store.Store
	r    *rand.Rand
	line int
}

func (w *worker) act() {
	switch n := w.r.IntN(20); {
	case n < 9:
		w.issue()
	case n < 12:
		w.rework()
	case n < 16:
		w.confirmSome()
	case n < 17:
		w.activate()
	case n < 19:
		w.end()
	default:
		w.revoke()
	}
}

// issue asks for a unit, and sometimes for the same again, or with a chip or
// nonce that another may have taken.
func (w *worker) issue() {
	w.mu.Lock()
	i := w.shop.unit()
	i.Unit.Order, i.Unit.Nonce.Block = w.orders[w.line], w.blocks[w.line].ID
	w.mu.Unlock()
	i.Unit.Chip = w.shop.chips[w.r.IntN(300)]
	if w.r.IntN(10) == 0 {
		i.Unit.Nonce.Index = w.r.IntN(200)
	}
	i = w.recorded(i)
	again := i
	w.outcome(i, false)
	if w.r.IntN(4) == 0 { // a retry with another certificate, as after a lost answer
		w.mu.Lock()
		fresh := w.shop.unit()
		w.mu.Unlock()
		fresh.Credential.Device, fresh.Unit.New, fresh.Unit.Nonce = again.Credential.Device, again.Unit.New, again.Unit.Nonce
		fresh.Unit.Order, fresh.Unit.Chip = again.Unit.Order, again.Unit.Chip
		w.outcome(w.recorded(fresh), false)
	}
}

func (w *worker) outcome(i device.Issuance, replaces bool) {
	c, err := w.s.StoreIssuance(w.Context(), i)
	for range 20 { // the planner changes the control plane meanwhile
		if !errors.Is(err, device.ErrStale) {
			break
		}
		now, controlErr := w.s.Control(w.Context())
		if controlErr != nil || now.Epoch == i.ControlEpoch {
			break
		}
		i.ControlEpoch = now.Epoch
		c, err = w.s.StoreIssuance(w.Context(), i)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	known, _ := errors.AsType[*fault.Error](err)
	switch {
	case err == nil:
		key := i.Unit.Nonce.Index<<1 | w.line
		if other, used := w.nonces[key]; used {
			w.Errorf("nonce %d of line %d was used for %d and %d", i.Unit.Nonce.Index, w.line, other, c.ID)
		}
		w.nonces[key] = c.ID
		if holder, used := w.chips[i.Unit.Chip]; used && holder != c.Device && i.Unit.Chip != 0 {
			w.Errorf("chip %d is in devices %v and %v", i.Unit.Chip, holder, c.Device)
		}
		w.chips[i.Unit.Chip] = c.Device
		w.live = append(w.live, c)
		w.outcomes[map[bool]string{true: "replaced", false: "issued"}[replaces]]++
	case errors.Is(err, device.ErrStale):
		w.outcomes["stale"]++
	case known != nil:
		names := map[fault.Code]string{
			fault.OrderFull: "order full", fault.SparesUsed: "spares used", fault.OrderState: "order closed", fault.ChipUsed: "chip used",
			fault.NonceUsed: "nonce used", fault.UnitSerialTaken: "serial taken",
		}
		if names[known.Code] == "" {
			w.Error(err)
		}
		w.outcomes[names[known.Code]]++
	default:
		w.Error(err)
	}
}

// some returns a unit that was acknowledged.
func (w *worker) some() (device.Credential, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.live) == 0 {
		return device.Credential{}, false
	}
	return w.live[w.r.IntN(len(w.live))], true
}

func (w *worker) unitNow(id device.CredentialID) factory.Unit {
	u, err := w.s.Unit(w.Context(), access.Everything(), id)
	if err != nil {
		w.Error(err)
	}
	return u
}

func (w *worker) rework() {
	c, ok := w.some()
	if !ok {
		return
	}
	w.mu.Lock()
	d, err := w.s.Device(w.Context(), access.Everything(), c.Device)
	if err != nil {
		w.Error(err)
		w.mu.Unlock()
		return
	}
	i := w.shop.issuance(&d, "idevid", "")
	last := d.Current[device.IDevIDSlot]
	nonce := w.shop.nonce()
	w.mu.Unlock()
	u := w.unitNow(last)
	nonce.Block = w.blocks[w.line].ID
	i.Change.State, i.Change.Supersedes = d.State, 0
	i.Unit = &device.UnitIssue{Order: w.orders[w.line], Station: w.station, Nonce: nonce, Chip: d.Chip, Replaces: last, ReplacesReason: 4}
	if w.r.IntN(2) == 0 {
		i.Unit.Chip = w.shop.chips[w.r.IntN(300)]
	}
	if u.State != factory.UnitIssued && u.State != factory.UnitConfirmed {
		i.Unit.Replaces = 0
	}
	w.outcome(w.recorded(i), true)
}

func (w *worker) confirmSome() {
	c, ok := w.some()
	if !ok {
		return
	}
	k := factory.Confirmation{ID: c.ID, Device: c.Device, Order: w.unitNow(c.ID).Order, At: w.now.Add(time.Minute), CycleTime: time.Second}
	switch err := w.s.ConfirmUnit(w.Context(), k, w.confirmed(k)); {
	case err == nil:
		w.note("confirmed")
	case fault.Has(err, fault.UnitState):
		w.note("ended before")
	default:
		w.Error(err)
	}
}

func (w *worker) activate() {
	c, ok := w.some()
	if !ok {
		return
	}
	d, err := w.s.Device(w.Context(), access.Everything(), c.Device)
	if err != nil {
		w.Error(err)
		return
	}
	w.mu.Lock()
	i := w.shop.issuance(&d, "ldevid", "cloud")
	w.mu.Unlock()
	i.Change.State = d.State
	b := &ledger.Issued{
		Credential: int64(i.Credential.ID), CertSerial: i.Credential.CertSerial, Authority: 1, Profile: 1, Kind: "ldevid", Purpose: "cloud", Device: int64(d.ID),
		DeviceVersion: d.Version + 1, DeviceState: uint8(d.State), Slot: "ldevid/cloud", Supersedes: int64(i.Change.Supersedes), Product: d.Product, Site: d.Site,
		KeyKind: uint8(i.Credential.KeyKind), NotBefore: i.Credential.NotBefore, NotAfter: i.Credential.NotAfter, SPKI: i.Credential.SPKIDigest,
		DER: digestOf(i.Credential.DER), Idempotency: i.Credential.Idempotency, Previous: int64(i.Credential.Previous),
	}
	i.Entries[0].Body = b
	switch _, err := w.s.StoreIssuance(w.Context(), i); {
	case err == nil:
		w.note("activated")
	case errors.Is(err, device.ErrStale):
		w.note("stale")
	default:
		w.Error(err)
	}
}

func (w *worker) end() {
	c, ok := w.some()
	if !ok {
		return
	}
	e := factory.Ending{ID: c.ID, At: w.now, State: factory.UnitScrapped, Reason: "x", CRL: 5}
	err := w.s.EndUnit(w.Context(), e, ledger.Entry{Kind: ledger.UnitScrapped, At: e.At, Actor: "system", Body: &ledger.EndedUnit{
		Credential: int64(c.ID), Order: w.unitNow(c.ID).Order, Device: int64(c.Device), State: uint8(e.State),
	}})
	if err != nil {
		w.Error(err)
	}
	w.note("ended")
}

func (w *worker) revoke() {
	c, ok := w.some()
	if !ok {
		return
	}
	err := w.s.Revoke(w.Context(), access.Everything(), status.Revocation{Credential: c.ID, At: w.now, Reason: 1}, ledger.Entry{
		Kind: ledger.CertificateRevoked, At: w.now, Actor: "system", Body: &ledger.Revoked{
			Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Device: int64(c.Device), Reason: 1, RevokedAt: w.now, NotAfter: c.NotAfter,
		},
	})
	if err != nil && !fault.Has(err, fault.AlreadyRevoked) {
		w.Error(err)
	}
	w.note("revoked")
}

// plan amends an order's quantity and spares, or closes it for a moment.
func (w *worker) plan() {
	id := w.orders[w.r.IntN(2)]
	o, err := w.s.Order(w.Context(), access.Everything(), id)
	if err != nil {
		w.Error(err)
		return
	}
	o.Quantity = max(10, o.Quantity+int64(w.r.IntN(9)-4))
	o.Spares = max(0, o.Spares+int64(w.r.IntN(5)-2))
	if w.r.IntN(4) == 0 {
		o.State = factory.OrderClosed
	}
	err = w.s.UpdateOrder(w.Context(), o, w.entry("amended"))
	if err == nil && o.State == factory.OrderClosed {
		o.Version++
		o.State = factory.OrderOpen
		err = w.s.UpdateOrder(w.Context(), o, w.entry("opened"))
	}
	if err != nil && !errors.Is(err, device.ErrStale) && !fault.Has(err, fault.OrderTerms) {
		w.Error(err)
	}
}

// check counts everything anew.
func (f *floorModel) check() {
	f.Helper()
	units, _, err := walked(f.Context(), func(after string) ([]factory.Unit, string, error) {
		return f.s.Units(f.Context(), access.Everything(), factory.UnitQuery{Page: factory.Page{After: after, Limit: 1000}})
	})
	f.ok(err)
	if len(units) != len(f.live) {
		f.Errorf("%d units, %d were acknowledged", len(units), len(f.live))
	}
	counts := map[int64]*factory.Counts{f.orders[0]: {}, f.orders[1]: {}}
	lives, chips := map[device.ID]device.CredentialID{}, map[int64]device.CredentialID{}
	for _, u := range units {
		c := counts[u.Order]
		c.Issued++
		if !u.ActivatedAt.IsZero() {
			c.Activated++
		}
		switch u.State {
		case factory.UnitConfirmed:
			c.Confirmed++
			fallthrough
		case factory.UnitIssued:
			c.Live++
			if lives[u.Device] != 0 || chips[u.Chip] != 0 && u.Chip != 0 {
				f.Errorf("units %d, %d and %d live in one device or with one chip", u.ID, lives[u.Device], chips[u.Chip])
			}
			lives[u.Device], chips[u.Chip] = u.ID, u.ID
		default:
			c.Scrapped++
		}
		if cert := f.credential(u.ID); (cert.State == device.Revoked) == (u.State == factory.UnitIssued || u.State == factory.UnitConfirmed) {
			f.Errorf("unit %d is %d and its certificate %v", u.ID, u.State, cert.State)
		}
	}
	for n, id := range f.orders {
		o, err := f.s.Order(f.Context(), access.Everything(), id)
		f.ok(err)
		f.same(*counts[id], o.Counts)
		if o.Counts.Live > o.Quantity || o.Counts.Issued > o.Quantity+o.Spares {
			f.Errorf("order %+v", o)
		}
		m := f.measures(id)
		if m[factory.MeasureIssued] != o.Counts.Issued || m[factory.MeasureScrapped] != o.Counts.Scrapped {
			f.Errorf("counters %v, counts %+v", m, o.Counts)
		}
		b, err := f.s.NonceBlock(f.Context(), f.blocks[n].ID)
		f.ok(err)
		for index := range b.Count {
			if used := b.Used[index/8]&(1<<(index%8)) != 0; used != (f.nonces[index<<1|n] != 0) {
				f.Errorf("nonce %d of line %d: used %v, by %d", index, n, used, f.nonces[index<<1|n])
			}
		}
	}
	for _, id := range f.shop.chips {
		c, err := f.s.Chip(f.Context(), id)
		f.ok(err)
		if c.Device != f.chips[id] || (c.State == factory.ChipUsed) != (f.chips[id] != 0) {
			f.Errorf("chip %+v, used by %v", c, f.chips[id])
		}
	}
	f.tallies()
}

// tallies counts devices and credentials anew.
func (f *floorModel) tallies() {
	f.Helper()
	want := device.Counts{Devices: map[device.State]int64{}, Credentials: map[device.CredentialState]int64{}}
	devices, _, err := walked(f.Context(), func(after string) ([]device.Device, string, error) {
		return f.s.Devices(f.Context(), access.Everything(), device.DeviceQuery{After: after, Limit: 1000})
	})
	f.ok(err)
	credentials, _, err := walked(f.Context(), func(after string) ([]device.Credential, string, error) {
		return f.s.Credentials(f.Context(), access.Everything(), device.CredentialQuery{After: after, Limit: 1000})
	})
	f.ok(err)
	for _, d := range devices {
		want.Devices[d.State]++
	}
	for _, c := range credentials {
		want.Credentials[c.State]++
	}
	got, err := f.s.Counts(f.Context(), access.Everything())
	f.ok(err)
	f.same(want, got)
	if len(devices) == 0 {
		f.Error("no devices")
	}
}
