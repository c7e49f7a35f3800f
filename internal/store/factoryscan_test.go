//go:build unix

package store

import (
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// heard notes the statements that a store runs.
type heard struct {
	mu    sync.Mutex
	texts map[string]bool
}

func (h *heard) note(text string) {
	h.mu.Lock()
	h.texts[text] = true
	h.mu.Unlock()
}

type heardQuerier struct {
	querier
	h *heard
}

func (q heardQuerier) query(ctx context.Context, text string, args ...any) (rows, error) {
	q.h.note(text)
	return q.querier.query(ctx, text, args...)
}

func (q heardQuerier) row(ctx context.Context, text string, args ...any) row {
	q.h.note(text)
	return q.querier.row(ctx, text, args...)
}

func (q heardQuerier) exec(ctx context.Context, text string, args ...any) (int64, error) {
	q.h.note(text)
	return q.querier.exec(ctx, text, args...)
}

type heardTx struct {
	heardQuerier
	writeTx
}

func (t heardTx) query(ctx context.Context, text string, args ...any) (rows, error) {
	return t.heardQuerier.query(ctx, text, args...)
}

func (t heardTx) row(ctx context.Context, text string, args ...any) row {
	return t.heardQuerier.row(ctx, text, args...)
}

func (t heardTx) exec(ctx context.Context, text string, args ...any) (int64, error) {
	return t.heardQuerier.exec(ctx, text, args...)
}

type heardEngine struct {
	engine
	h *heard
}

func (e heardEngine) begin(ctx context.Context) (writeTx, error) {
	t, err := e.engine.begin(ctx)
	if err != nil {
		return nil, err
	}
	return heardTx{heardQuerier{t, e.h}, t}, nil
}

func (e heardEngine) snapshot(ctx context.Context, fn func(q querier) error) error {
	return e.engine.snapshot(ctx, func(q querier) error { return fn(heardQuerier{q, e.h}) })
}

// maySweep are the tables that are read whole because they are small: tens of
// rows, some thousand at most.
var maySweep = map[string]bool{
	"site": true, "station": true, "manifest_signer": true, "webhook": true, "chip_vendor": true, "product": true, "control": true,
	"installation": true, "tpm_roots": true, "tpm_policy": true,
}

// TestTheFactoryScansNoTable runs the factory's methods and looks at SQLite's
// plan for each statement.
func TestTheFactoryScansNoTable(t *testing.T) { scansNoTable(t, 60, (*Store).useTheFactory) }

// TestHardwareProofScansNoTable does so for evidence, TPMs and tickets.
func TestHardwareProofScansNoTable(t *testing.T) { scansNoTable(t, 15, (*Store).useHardwareProof) }

func scansNoTable(t *testing.T, statements int, use func(*Store, *testing.T)) {
	t.Helper()
	s := mustOpen(t, Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "birthmark.db"), Node: "one"})
	h := &heard{texts: make(map[string]bool)}
	plain := s.read
	s.read, s.engine = heardQuerier{s.read, h}, heardEngine{s.engine, h}
	use(s, t)
	h.note(selectFloorTPM) // of the group commit, which is not heard
	scan := regexp.MustCompile(`^SCAN (\w+)`)
	// One end of the key alone, where another index leads to the rows: a scan too.
	open, filter := regexp.MustCompile(`\(rowid[<>]\?\)`), regexp.MustCompile(`(manifest|order_id) = \$|product IN`)
	looked := 0
	for text := range h.texts {
		if strings.HasPrefix(text, "BEGIN") || strings.HasPrefix(text, "COMMIT") {
			continue
		}
		looked++
		err := each(plain.query(t.Context(), "EXPLAIN QUERY PLAN "+text, make([]any, 600)...))(func(r row) error {
			var id, parent, notUsed int64
			var step string
			if err := r.Scan(&id, &parent, &notUsed, &step); err != nil {
				return err
			}
			switch m := scan.FindStringSubmatch(step); {
			case m == nil || maySweep[m[1]]:
			case strings.Contains(step, "USING") && strings.Contains(text, "LIMIT"), strings.Contains(text, "MAX(id)"):
			case strings.Contains(step, "CONSTANT ROW"), strings.Contains(step, "VALUES CLAUSE"):
			default:
				t.Errorf("%s\n\tin %s", step, text)
			}
			fewTPMs := strings.Contains(text, "t.device = $1") // of one device
			if strings.Contains(step, "TEMP B-TREE FOR ORDER") && !fewTPMs || open.MatchString(step) && filter.MatchString(text) {
				t.Errorf("%s\n\tin %s", step, text)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if looked < statements {
		t.Errorf("only %d statements were looked at", looked)
	}
}

// useHardwareProof calls what reads and writes what hardware showed.
func (s *Store) useHardwareProof(t *testing.T) {
	ctx := t.Context()
	k := device.Ticket{ExpiresAt: time.Now()}
	_, err := s.AddRoots(ctx, attest.Roots{Name: "r", Version: 1}, act())
	errs := []error{err, s.SpendTicket(ctx, k, act()), s.PruneTickets(ctx, time.Now())}
	_, err = s.SetPolicy(ctx, attest.Policy{Product: 1, Version: 1}, act())
	errs = append(errs, err)
	_, err = s.AttestPlane(ctx)
	errs = append(errs, err)
	for _, name := range []string{"", "r"} {
		_, err = s.RootsHistory(ctx, name)
		errs = append(errs, err)
	}
	_, err = s.EvidenceRows(ctx, 0, 10)
	errs = append(errs, err)
	_, err = s.TPMRows(ctx, 0, 10)
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
	refused(t, s.ResetTPM(ctx, 1, act()), fault.DeviceUnknown)
	for _, scope := range []access.Scope{access.Everything(), access.Limited([]int64{1}, []int64{1}, nil)} {
		_, err = s.Evidence(ctx, scope, 1)
		refused(t, err, fault.CredentialUnknown)
		_, err = s.TPMOf(ctx, scope, 1)
		refused(t, err, fault.DeviceUnknown)
	}
}

// useTheFactory calls what reads and writes the factory's larger tables, with and
// without each limit.
func (s *Store) useTheFactory(t *testing.T) {
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	product, err := s.AddProduct(ctx, device.Product{Name: "p"}, act())
	ok(err)
	site, err := s.AddSite(ctx, factory.Site{Name: "s"}, act())
	ok(err)
	_, err = s.AddStation(ctx, factory.Station{Name: "l", Site: site}, act())
	ok(err)
	o := factory.Order{Number: "1", Product: product, Site: site, State: factory.OrderOpen, ExternalRef: "e"}
	o.ID, err = s.AddOrder(ctx, o, act())
	ok(err)
	o.Version = 1
	ok(s.UpdateOrder(ctx, o, act()))
	m, err := importAll(ctx, s, 50)
	ok(err)
	given, err := s.BeginManifest(ctx, factory.Manifest{Name: "g", Digest: [32]byte{9}}, act())
	ok(err)
	c := madeUpChip(100)
	c.Entry = 1
	_, err = s.StageChips(ctx, given.ID, []factory.Chip{c})
	ok(err)
	ok(s.DiscardManifest(ctx, given.ID, act()))
	chip := madeUpChip(1)
	chip.ID, chip.State, chip.Order = s.ChipID(chip.Vendor, chip.UID), factory.ChipAllotted, o.ID
	ok(s.UpdateChip(ctx, chip, factory.ChipListed, act()))
	_, _, err = s.RaiseAlarm(ctx, factory.Alarm{Kind: factory.AlarmSpares, Key: "k"}, act())
	ok(err)
	ok(s.Count(ctx, []factory.Tally{{Order: 1, N: 1}}, act()))
	for _, scope := range []access.Scope{
		access.Everything(), access.Limited([]int64{product}, nil, nil), access.Limited(nil, []int64{site}, nil),
		access.Limited([]int64{product}, []int64{site}, nil),
	} {
		s.readTheFactory(t, scope, o, m.ID)
	}
	_, err = s.LapseAllotted(ctx, o.ID, 10, time.Time{}, func([]int64) []ledger.Entry { return []ledger.Entry{act()} })
	ok(err)
}

func (s *Store) readTheFactory(t *testing.T, scope access.Scope, o factory.Order, manifest int64) {
	t.Helper()
	ctx := t.Context()
	var errs []error
	for _, state := range []uint8{0, 1} {
		for _, limit := range []int64{0, 1} {
			for _, after := range []string{"", "5"} {
				p := factory.Page{After: after, Limit: 10}
				_, _, err := s.Orders(ctx, scope, factory.OrderQuery{Page: p, Product: limit, Site: limit, State: factory.OrderState(state)})
				errs = append(errs, err)
				for _, kind := range []factory.AlarmKind{"", factory.AlarmSpares} {
					_, _, err = s.Alarms(ctx, scope, factory.AlarmQuery{Page: p, State: factory.AlarmState(state), Kind: kind})
					errs = append(errs, err)
				}
				for _, order := range []int64{0, o.ID} {
					_, _, err = s.Chips(ctx, factory.ChipQuery{Page: p, Manifest: limit * manifest, State: factory.ChipState(state), Order: order})
					errs = append(errs, err)
				}
				_, _, err = s.Manifests(ctx, p)
				errs = append(errs, err)
			}
			_, err := s.Tallies(ctx, scope, factory.TallyQuery{Order: limit, Station: limit, Site: int64(state), Product: limit, FromDay: limit})
			errs = append(errs, err)
		}
	}
	_, err := s.OrderByReference(ctx, scope, o.ExternalRef)
	errs = append(errs, err)
	_, err = s.OrderByNumber(ctx, scope, o.Number)
	errs = append(errs, err)
	_, err = s.FindChips(ctx, madeUpChip(1).UID)
	errs = append(errs, err)
	_, err = s.Plane(ctx)
	errs = append(errs, err)
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
