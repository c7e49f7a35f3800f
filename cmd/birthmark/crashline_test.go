package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/edge/station/sim"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/store"
)

// The crash test of the factory: the server is killed while four stations work
// on one order that is too small for them, and scrap now and then. What a
// station passed is in a file of its own before the next unit; afterwards
// register, order and ledger must agree with it.
const (
	lineKills    = 25
	lineStations = 4
	lineNests    = 8
	lineQuantity = 1500
	lineSpares   = 120
	linePerReel  = 900 // chips for each station
)

func TestLineCrashSQLite(t *testing.T) {
	needs.Unix(t)
	needs.Time(t)
	dir := t.TempDir()
	newLineCrash(t, dir, "").run(lineKills)
}

func TestLineCrashTwoNodesOnPostgreSQL(t *testing.T) {
	dsn := needs.Postgres(t)
	needs.Time(t)
	l := newLineCrash(t, t.TempDir(), newDatabase(t, dsn))
	second := filepath.Join(l.dir, "second")
	copyFolder(t, l.folder, second)
	if err := os.Remove(filepath.Join(second, "node")); err != nil {
		t.Fatal(err)
	}
	l.nodes = append(l.nodes, newCrashNode(t, second))
	l.startNode(1)
	l.run(lineKills)
}

// lineCrash is a crash test whose clients are stations.
type lineCrash struct {
	*crash
	passed  sync.Map // DER by device serial
	scraped atomic.Int64
	full    atomic.Int64 // units refused because the order was full
}

func newLineCrash(t *testing.T, dir, database string) *lineCrash {
	t.Helper()
	c := &crash{t: t, dir: dir, folder: filepath.Join(dir, "data"), database: database, seed: mathrand.Uint64()}
	t.Logf("seed %d", c.seed)
	c.nodes = []*crashNode{newCrashNode(t, c.folder)}
	c.command(nil, "init", "--org", "Crash", "--json")
	var err error
	if c.acks, err = os.Create(filepath.Join(dir, "acks")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.acks.Close() })
	var list bytes.Buffer
	for i := range lineStations * linePerReel {
		chip, err := sim.NewChip("crash", i)
		if err != nil {
			t.Fatal(err)
		}
		line, err := json.Marshal(map[string]any{"uid": chip.UID, "vendor": sim.Vendor, "chip_type": sim.ChipType, "spki": chip.SPKI, "slot": "0"})
		if err != nil {
			t.Fatal(err)
		}
		list.Write(append(line, '\n'))
	}
	reel := filepath.Join(dir, "reel.ndjson")
	if err := os.WriteFile(reel, list.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c.command(nil, "manifest", "import", reel, "--format", "ndjson", "--json")
	c.command(nil, "product", "add", "--name", "unit", "--chip-type", sim.ChipType, "--key-model", "on-device", "--idevid-profile", "idevid",
		"--least-evidence", "chip", "--json")
	c.command(nil, "site", "add", "Brno", "--json")
	create := []string{
		"order", "create", "--number", "PO", "--product", "unit", "--site", "Brno",
		"--quantity", fmt.Sprint(lineQuantity), "--spares", fmt.Sprint(lineSpares), "--json",
	}
	codes := make([]string, lineStations)
	for i := range codes {
		name := fmt.Sprintf("line-%d", i)
		var added struct{ Code string }
		c.command(&added, "station", "add", name, "--site", "Brno", "--json")
		codes[i] = added.Code
		create = append(create, "--stations", name)
	}
	c.command(nil, create...)
	l := &lineCrash{crash: c}
	c.startNode(0)
	for i, code := range codes {
		l.enroll(i, code)
	}
	return l
}

func (l *lineCrash) home(i int) string { return filepath.Join(l.dir, fmt.Sprintf("line-%d", i)) }

func (l *lineCrash) enroll(i int, code string) {
	l.t.Helper()
	trust, err := os.ReadFile(filepath.Join(l.folder, "bundle.pem"))
	if err == nil {
		_, err = station.Enroll(l.t.Context(), station.Enrollment{Dir: l.home(i), Server: "https://" + l.nodes[0].device, Code: code, Trust: trust})
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// run works the order while nodes are killed, until it is full and every
// station has heard so, and then looks at what is there.
func (l *lineCrash) run(kills int) {
	l.t.Helper()
	ctx, stop := context.WithTimeout(l.t.Context(), 8*time.Minute)
	defer stop()
	var lines sync.WaitGroup
	for i := range lineStations {
		lines.Go(func() { l.work(ctx, i) })
	}
	done := make(chan struct{})
	go func() {
		lines.Wait()
		close(done)
	}()
	random := mathrand.New(mathrand.NewPCG(l.seed, 1))
	killed := 0
	for working := true; working && killed < kills; killed++ {
		select {
		case <-done:
			working = false
			continue
		case <-time.After(time.Duration(50+random.IntN(400)) * time.Millisecond):
		}
		i := killed % len(l.nodes)
		l.nodes[i].kill()
		l.startNode(i)
	}
	<-done
	if ctx.Err() != nil {
		l.t.Fatal("the order was not full in time")
	}
	for _, n := range l.nodes {
		n.kill()
	}
	l.compare()
	l.command(nil, "ledger", "verify", "--json")
	l.t.Logf("%d kills; %d scrapped, %d units beyond the order refused", killed, l.scraped.Load(), l.full.Load())
}

// work is one station: it provisions until the order is full, and scraps one
// unit in twenty.
func (l *lineCrash) work(ctx context.Context, i int) {
	fail := func(err error) bool {
		if err != nil && ctx.Err() == nil {
			l.t.Errorf("line-%d: %v", i, err)
		}
		return err != nil
	}
	home, err := station.OpenHome(l.home(i))
	if fail(err) {
		return
	}
	client, err := home.ConnectTo("https://" + l.nodes[i%len(l.nodes)].device)
	if fail(err) {
		return
	}
	defer client.Close()
	q, err := queue.Open(queue.Config{Dir: l.home(i)})
	if fail(err) {
		return
	}
	defer q.Close()
	adapter, err := sim.New(sim.Config{Seed: "crash", First: i * linePerReel, Count: linePerReel, SerialPrefix: "U", Random: rand.Reader})
	if fail(err) {
		return
	}
	line, err := station.New(station.Config{
		Link: client, Queue: q, Adapter: adapter, Now: time.Now, Ahead: lineNests, Attempts: 20, Patience: time.Minute, ConfirmPatience: time.Minute,
	})
	if fail(err) {
		return
	}
	random := mathrand.New(mathrand.NewPCG(l.seed, uint64(i+2)))
	var mu sync.Mutex
	line.Provision(ctx, station.Loop{Order: "PO", Nests: lineNests, Tell: func(o station.Outcome) {
		mu.Lock()
		scrap := random.IntN(20) == 0
		mu.Unlock()
		switch {
		case o.Passed(): // or queued on the station's disk, which is flushed below
			l.acknowledge(&o)
			if scrap {
				fail(line.Scrap(ctx, format.Scrap{ID: "s", Order: "PO", DeviceSerial: o.DeviceSerial, Reason: "test"}))
				l.scraped.Add(1)
				l.passed.Store(o.DeviceSerial, []byte(nil))
			}
		case o.Code == fault.OrderFull.String() || o.Code == fault.SparesUsed.String():
			l.full.Add(1)
		case ctx.Err() == nil:
			l.t.Errorf("line-%d: %s %s: %s %s %s", i, o.Result, o.DeviceSerial, o.Code, o.Message, o.Detail)
		}
	}})
	for left := 1; left > 0 && ctx.Err() == nil; { // what a dead server did not hear
		if _, err := line.Flush(ctx); err != nil {
			time.Sleep(50 * time.Millisecond)
		}
		if left, err = q.Len(); fail(err) {
			return
		}
	}
}

func (l *lineCrash) acknowledge(o *station.Outcome) {
	l.passed.Store(o.DeviceSerial, o.Certificate)
	text, err := json.Marshal(ack{Act: "issue", Serial: o.DeviceSerial, DER: o.Certificate})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		_, err = l.acks.Write(append(text, '\n'))
	}
	if err == nil {
		err = l.acks.Sync()
	}
	if err != nil {
		l.t.Error(err)
	}
}

// compare holds the record against what the stations were told.
func (l *lineCrash) compare() {
	l.t.Helper()
	dsn := l.database
	if dsn == "" {
		dsn = "sqlite:" + filepath.Join(l.folder, "birthmark.db")
	}
	ctx := l.t.Context()
	s, err := store.Open(ctx, store.Config{DSN: dsn, Node: "check"})
	if err != nil {
		l.t.Fatal(err)
	}
	defer s.Close()
	all := access.Everything()
	o, err := s.OrderByNumber(ctx, all, "PO")
	if err != nil {
		l.t.Fatal(err)
	}
	var counted factory.Counts
	live, chips := map[string]int{}, map[int64]string{}
	q := factory.UnitQuery{Order: o.ID, Page: factory.Page{Limit: 500}}
	for {
		page, next, err := s.Units(ctx, all, q)
		if err != nil {
			l.t.Fatal(err)
		}
		for i := range page {
			u := &page[i]
			counted.Issued++
			if u.State == factory.UnitIssued || u.State == factory.UnitConfirmed {
				counted.Live++
				live[u.DeviceSerial]++
			} else {
				counted.Scrapped++
			}
			if u.State == factory.UnitConfirmed {
				counted.Confirmed++
			}
			if other := chips[u.Chip]; other != "" && other != u.DeviceSerial {
				l.t.Errorf("one chip in %s and %s", other, u.DeviceSerial)
			}
			chips[u.Chip] = u.DeviceSerial
			l.checkUnit(s, u)
		}
		if next == "" {
			break
		}
		q.After = next
	}
	if counted != o.Counts {
		l.t.Errorf("the order counts %+v, its units are %+v", o.Counts, counted)
	}
	if o.Counts.Live > lineQuantity || o.Counts.Issued > lineQuantity+lineSpares {
		l.t.Errorf("more than ordered: %+v", o.Counts)
	}
	if l.full.Load() == 0 {
		l.t.Error("nobody was refused: the order was never full")
	}
	for name, n := range live {
		if n != 1 {
			l.t.Errorf("%s has %d live units", name, n)
		}
	}
	l.passed.Range(func(name, der any) bool {
		if len(der.([]byte)) > 0 && live[name.(string)] == 0 {
			l.t.Errorf("%s passed and has no live unit", name)
		}
		return true
	})
}

// checkUnit holds one unit against what its station was told.
func (l *lineCrash) checkUnit(s *store.Store, u *factory.Unit) {
	told, ok := l.passed.Load(u.DeviceSerial)
	der, _ := told.([]byte)
	switch {
	case !ok:
		return // issued, and the station never heard: a unit of nobody, in the account
	case len(der) == 0:
		if u.State != factory.UnitScrapped {
			l.t.Errorf("%s was scrapped and is %v", u.DeviceSerial, u.State)
		}
	case u.State != factory.UnitConfirmed:
		l.t.Errorf("%s passed and is %v", u.DeviceSerial, u.State)
	default:
		c, err := s.Credential(l.t.Context(), access.Everything(), u.ID)
		if err != nil || !bytes.Equal(c.DER, der) {
			l.t.Errorf("%s has another certificate than its station was told: %v", u.DeviceSerial, err)
		}
	}
}
