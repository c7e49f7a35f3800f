package factory_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/statement"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/store"
)

var serverSecret = keystore.Secret("server passphrase")

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// world is a factory service with everything real behind it: SQLite, keystore,
// authorities, approvals.
type world struct {
	*factory.Service
	t           testing.TB
	store       *store.Store
	authorities *authority.Service
	approvals   *access.Service
	planes      *factory.Planes
	statements  *statement.Signer
	secrets     factory.Sealer
	clock       *clock
	folder      string
	key         crypto.Signer     // of the certificates that units get
	issuer      *x509.Certificate // whose key it is

	planner, second, lead access.Caller
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, folder: t.TempDir(), clock: &clock{t: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}}
	ctx := t.Context()
	var err error
	w.store, err = store.Open(context.Background(), store.Config{
		DSN: "sqlite:" + filepath.Join(w.folder, "birthmark.db"), Node: "n1", Now: w.clock.now, Rand: rand.Reader,
	})
	w.ok(err)
	t.Cleanup(func() { w.store.Close() })
	w.ok(w.store.Install(ctx, authority.Installation{
		ID: [16]byte{1}, Organization: "Acme Devices", StatusURL: "http://pki.example.com", CreatedAt: w.clock.now(),
	}, ledger.Entry{Kind: ledger.Installed, At: w.clock.now(), Actor: "system", Body: ledger.JSON(struct{}{})}))
	keys, err := keystore.Open(keystore.Config{Dir: filepath.Join(w.folder, "keys"), Rand: rand.Reader, Iterations: 1000})
	w.ok(err)
	w.authorities, err = authority.New(authority.Config{
		Store: w.store, Register: w.store, Keys: keys, Now: w.clock.now, Rand: rand.Reader, Node: "n1", Block: 512,
		Secret: func(string) (keystore.Secret, error) { return serverSecret, nil },
	})
	w.ok(err)
	w.approvals, err = access.New(access.Config{Store: w.store, Now: w.clock.now, Rand: rand.Reader, SecondOperator: []string{factory.ApprovalKind}})
	w.ok(err)
	w.statements, err = statement.Open(ctx, statement.Config{
		Keys: keys, Secret: serverSecret, Certificate: filepath.Join(w.folder, "statement.pem"), Organization: "Acme Devices",
		Now: w.clock.now, Rand: rand.Reader,
	})
	w.ok(err)
	w.secrets, err = factory.NewSealer([32]byte{7})
	w.ok(err)
	w.planes, err = factory.NewPlanes(w.store)
	w.ok(err)
	w.Service = w.service("n1", w.planes)
	w.planner = operator("operator:planner", access.Planner, access.RAOfficer)
	w.second = operator("operator:second", access.Planner)
	w.lead = operator("operator:lead", access.LineLead)
	w.line()
	return w
}

// service returns another factory service over the same record.
func (w *world) service(node string, planes *factory.Planes) *factory.Service {
	w.t.Helper()
	return w.serviceOver(w.store, node, planes)
}

func (w *world) serviceOver(record factory.Store, node string, planes *factory.Planes) *factory.Service {
	w.t.Helper()
	s, err := factory.New(factory.Config{
		Store: record, Register: w.store, Authorities: w.authorities, Approvals: w.approvals, Ledger: w.store, Planes: planes,
		Statements: w.statements, Now: w.clock.now, Rand: rand.Reader, Node: node, Secrets: w.secrets,
	})
	w.ok(err)
	return s
}

// serviceWith returns the service under another rule of approvals.
func (w *world) serviceWith(approvals factory.Approvals) *factory.Service {
	w.t.Helper()
	s, err := factory.New(factory.Config{
		Store: w.store, Register: w.store, Authorities: w.authorities, Approvals: approvals, Ledger: w.store, Planes: w.planes,
		Statements: w.statements, Now: w.clock.now, Rand: rand.Reader, Node: "n1",
	})
	w.ok(err)
	return s
}

func operator(name string, roles ...access.Role) access.Caller {
	c := access.Caller{Name: name, Operator: name, Actions: map[access.Action]bool{}, Scope: access.Everything()}
	for _, r := range roles {
		actions, _ := access.ActionsOf(r)
		for _, a := range actions {
			c.Actions[a] = true
		}
	}
	return c
}

// line makes two sites with stations, and a product with two chip types.
func (w *world) line() {
	w.t.Helper()
	ctx := w.t.Context()
	for _, p := range []device.Product{
		{
			Name: "sensor", Profiles: []string{"idevid"}, IDevIDProfile: "idevid", KeyModel: device.KeyModelOnDevice, LeastEvidence: "chip",
			ChipTypes: []string{"ECC608", "SE050"}, SerialPattern: "SN[0-9]{4}",
		},
		{Name: "gateway", Profiles: []string{"idevid"}, IDevIDProfile: "idevid", KeyModel: device.KeyModelOnDevice},
		{Name: "manual", Profiles: []string{"idevid"}},
	} {
		_, err := w.store.AddProduct(ctx, p, ledger.Entry{
			Kind: ledger.ProductAdded, At: w.clock.now(), Actor: "system", Body: ledger.JSON(map[string]any{
				"name": p.Name, "description": "", "part_numbers": nil, "profiles": p.Profiles, "least_evidence": p.LeastEvidence,
				"chip_types": p.ChipTypes, "key_model": p.KeyModel, "idevid_profile": p.IDevIDProfile, "serial_pattern": p.SerialPattern,
			}),
		})
		w.ok(err)
	}
	for _, site := range []string{"brno", "penang"} {
		_, err := w.AddSite(ctx, w.planner, site)
		w.ok(err)
	}
	for _, x := range [][2]string{{"b1", "brno"}, {"b2", "brno"}, {"p1", "penang"}} {
		_, _, err := w.AddStation(ctx, w.planner, x[0], x[1])
		w.ok(err)
	}
	w.refresh()
}

// refresh brings the process up to the record, as the change feed does.
func (w *world) refresh() {
	w.t.Helper()
	_, err := w.authorities.Refresh(w.t.Context())
	w.ok(err)
}

// terms are acceptable terms of an order.
func terms() factory.OrderTerms {
	return factory.OrderTerms{
		Number: "PO-1", Product: "sensor", Site: "brno", Quantity: 10, Spares: 5, Stations: []string{"b1"},
		SerialFrom: "SN0001", SerialTo: "SN0100", ExternalRef: "ERP/1", Takt: time.Minute, Grace: time.Hour,
	}
}

func (w *world) create(t factory.OrderTerms) factory.Order {
	w.t.Helper()
	o, created, err := w.CreateOrder(w.t.Context(), w.planner, t)
	w.ok(err)
	if !created {
		w.t.Fatalf("order %s was there", o.Number)
	}
	return o
}

// opened returns an open order.
func (w *world) opened(t factory.OrderTerms) factory.Order {
	w.t.Helper()
	o := w.create(t)
	o, err := w.OpenOrder(w.t.Context(), w.planner, o.Number, "")
	w.ok(err)
	w.refresh()
	return o
}

func (w *world) station(name string) factory.StationRef {
	w.t.Helper()
	x, err := w.Station(w.t.Context(), w.planner, name)
	w.ok(err)
	return factory.StationRef{ID: x.ID, Name: x.Name, Site: x.Site, Version: x.Version}
}

// approve decides on the approval that an error names.
func (w *world) approve(err error) {
	w.t.Helper()
	w.refused(err, fault.ApprovalWaiting)
	waiting, _, err := w.approvals.Approvals(w.t.Context(), access.Waiting, "", 10)
	w.ok(err)
	if len(waiting) != 1 {
		w.t.Fatalf("%d acts wait", len(waiting))
	}
	_, err = w.approvals.Decide(w.t.Context(), w.second, waiting[0].ID, access.Verdict{Approve: true})
	w.ok(err)
}

// alarmed returns the alarms of a kind that are on record.
func (w *world) alarmed(kind factory.AlarmKind) []factory.Alarm {
	w.t.Helper()
	w.ok(w.Flush(w.t.Context()))
	list, _, err := w.Alarms(w.t.Context(), w.planner, factory.AlarmQuery{Kind: kind, Page: factory.Page{Limit: 100}})
	w.ok(err)
	return list
}

func (w *world) wantAlarm(kind factory.AlarmKind, count int64) {
	w.t.Helper()
	list := w.alarmed(kind)
	if len(list) != 1 || list[0].Count != count {
		w.t.Fatalf("alarms of kind %s: %+v, want one, %d times", kind, list, count)
	}
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) refused(err error, code fault.Code) {
	w.t.Helper()
	if !fault.Has(err, code) {
		w.t.Fatalf("got %v, want %v", err, code)
	}
}
