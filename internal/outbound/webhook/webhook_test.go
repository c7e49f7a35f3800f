package webhook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/outbound/egress"
	"github.com/birthmark/birthmark/internal/outbound/webhook"
	"github.com/birthmark/birthmark/internal/store"
)

var secret = []byte("a secret of 32 octets, more or less")

// world is a record, and a clock that the test moves.
type world struct {
	*store.Store
	timeout time.Duration // of requests

	mu  sync.Mutex
	now time.Time // guarded by mu
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{timeout: time.Minute, now: time.Date(2027, 3, 1, 8, 0, 0, 0, time.UTC)}
	var err error
	w.Store, err = store.Open(t.Context(), store.Config{
		DSN: "sqlite:" + filepath.Join(t.TempDir(), "birthmark.db"), Node: "a", Now: w.Now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()) })
	must(t, w.Install(t.Context(), authority.Installation{ID: [16]byte{1}, Organization: "Acme", CreatedAt: w.Now()},
		ledger.Entry{Kind: ledger.Installed, At: w.Now(), Actor: "system", Body: ledger.JSON(struct{}{})}))
	return w
}

func (w *world) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// raise writes alarms FIRST..LAST, each an event whose key is its number.
func (w *world) raise(t *testing.T, first, last int) {
	t.Helper()
	for i := first; i <= last; i++ {
		key := strconv.Itoa(i)
		_, _, err := w.RaiseAlarm(context.Background(), factory.Alarm{
			Kind: factory.AlarmChipReused, Key: key, State: factory.AlarmRaised, Message: "m", Count: 1, RaisedAt: w.Now(), LastAt: w.Now(),
		}, ledger.Entry{Kind: ledger.AlarmRaised, At: w.Now(), Actor: "system", Body: ledger.JSON(map[string]string{"key": key})})
		must(t, err)
	}
}

// noise writes entries that are no events.
func (w *world) noise(t *testing.T, n int) {
	t.Helper()
	for range n {
		must(t, w.Count(context.Background(), nil, ledger.Entry{Kind: ledger.KeysErased, At: w.Now(), Actor: "system", Body: ledger.JSON(struct{}{})}))
	}
}

func (w *world) hook(t *testing.T, h factory.Webhook) int64 {
	t.Helper()
	h.Secret, h.CreatedAt, h.ChangedAt = slices.Concat([]byte("sealed "), secret), w.Now(), w.Now()
	id, err := w.SetWebhook(t.Context(), h, ledger.Entry{Kind: ledger.WebhookChanged, At: w.Now(), Actor: "system", Body: ledger.JSON(struct{}{})})
	must(t, err)
	return id
}

func (w *world) row(t *testing.T, name string) factory.Webhook {
	t.Helper()
	all, err := w.Webhooks(context.Background())
	must(t, err)
	for _, h := range all {
		if h.Name == name {
			return h
		}
	}
	t.Fatalf("there is no webhook %s", name)
	return factory.Webhook{}
}

// start runs a deliverer until stop is called or the test ends.
func start(t *testing.T, s webhook.Store, w *world, node string) (stop func()) {
	t.Helper()
	guard, err := egress.New(egress.Config{Allow: []string{"127.0.0.1"}, Timeout: w.timeout})
	must(t, err)
	d, err := webhook.New(webhook.Config{
		Store: s, Sender: guard, Secret: opened, Node: node, Now: w.Now, Logger: slog.New(slog.DiscardHandler), Pause: 2 * time.Millisecond, Retry: time.Millisecond,
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		guard.Close()
	})
	t.Cleanup(stop)
	return stop
}

// opened stands for the data key: what lies in the record is not what signs.
func opened(w *factory.Webhook) ([]byte, error) {
	key, ok := bytes.CutPrefix(w.Secret, []byte("sealed "))
	if !ok {
		return nil, errors.New("not sealed")
	}
	return key, nil
}

// receiver takes deliveries and keeps them if answer says so.
type receiver struct {
	*httptest.Server
	t      *testing.T
	answer func(request int, w http.ResponseWriter) (taken bool) // nil: takes all
	count  atomic.Int64
	taken  chan webhook.Event
}

func receive(t *testing.T, answer func(request int, w http.ResponseWriter) bool) *receiver {
	t.Helper()
	r := &receiver{t: t, answer: answer, taken: make(chan webhook.Event, 1<<16)}
	r.Server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) serve(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	if q.Header.Get("Content-Type") != "application/json" || !signed(q.Header.Get(webhook.SignatureHeader), body) {
		r.t.Errorf("unsigned: %v", q.Header)
	}
	if r.answer != nil && !r.answer(int(r.count.Add(1)), w) {
		return
	}
	var d webhook.Delivery
	if err := json.Unmarshal(body, &d); err != nil || len(d.Events) == 0 || len(d.Events) > 100 {
		r.t.Errorf("%v: %d events", err, len(d.Events))
	}
	for _, e := range d.Events {
		r.taken <- e
	}
}

// signed checks a signature as a receiver would, from the words of
// docs/protocols/webhooks.md.
func signed(header string, body []byte) bool {
	at, mac, ok := strings.Cut(header, ",v1=")
	at, found := strings.CutPrefix(at, "t=")
	if !ok || !found {
		return false
	}
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(at + "."))
	h.Write(body)
	got, err := hex.DecodeString(mac)
	return err == nil && hmac.Equal(got, h.Sum(nil))
}

// keys returns the keys of the next n events, and wants ids that never fall
// back further than a delivery that is sent again.
func (r *receiver) keys(n int) (keys []int) {
	r.t.Helper()
	timeout := time.After(time.Minute)
	for range n {
		select {
		case e := <-r.taken:
			var data struct{ Key string }
			must(r.t, json.Unmarshal(e.Data, &data))
			key, err := strconv.Atoi(data.Key)
			must(r.t, err)
			keys = append(keys, key)
		case <-timeout:
			r.t.Fatalf("%d of %d events came", len(keys), n)
		}
	}
	return keys
}

func numbers(first, last int) (all []int) {
	for i := first; i <= last; i++ {
		all = append(all, i)
	}
	return all
}

func TestInOrderAndWhole(t *testing.T) {
	w := newWorld(t)
	r := receive(t, nil)
	w.raise(t, 1, 150)
	w.hook(t, factory.Webhook{Name: "erp", URL: r.URL, Events: []string{"alarm.raised"}})
	w.noise(t, 20)
	start(t, w, w, "a")
	w.raise(t, 151, 400)
	if got := r.keys(400); !slices.Equal(got, numbers(1, 400)) {
		t.Errorf("%v", got)
	}
}

// Whatever a receiver does, in the end it has got each event, in order.
func TestBadReceivers(t *testing.T) {
	for name, answer := range map[string]func(int, http.ResponseWriter, chan struct{}) bool{
		"500s": func(n int, w http.ResponseWriter, _ chan struct{}) bool {
			if n%3 != 0 {
				w.WriteHeader(http.StatusInternalServerError)
				return false
			}
			return true
		},
		"redirects": func(n int, w http.ResponseWriter, _ chan struct{}) bool {
			if n < 4 {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(http.StatusTemporaryRedirect)
				return false
			}
			return true
		},
		"cuts": func(n int, _ http.ResponseWriter, _ chan struct{}) bool {
			if n%2 == 0 {
				panic(http.ErrAbortHandler)
			}
			return true
		},
		"hangs": func(n int, _ http.ResponseWriter, gone chan struct{}) bool {
			if n < 3 {
				<-gone
			}
			return n >= 3
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if name == "hangs" {
				w.timeout = 50 * time.Millisecond
			}
			gone := make(chan struct{})
			defer close(gone)
			r := receive(t, func(n int, w http.ResponseWriter) bool { return answer(n, w, gone) })
			w.hook(t, factory.Webhook{Name: "erp", URL: r.URL, Events: []string{"alarm.raised"}})
			w.raise(t, 1, 120)
			start(t, w, w, "a")
			w.raise(t, 121, 300)
			if got := r.keys(300); !slices.Equal(got, numbers(1, 300)) {
				t.Errorf("%v", got)
			}
		})
	}
}

// While a receiver is down its webhook says so; what happened meanwhile comes
// when it is back.
func TestDownForAWhile(t *testing.T) {
	w := newWorld(t)
	var up atomic.Bool
	tried := make(chan struct{}, 1<<16)
	r := receive(t, func(_ int, w http.ResponseWriter) bool {
		tried <- struct{}{}
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return up.Load()
	})
	w.hook(t, factory.Webhook{Name: "erp", URL: r.URL})
	w.raise(t, 1, 10)
	start(t, w, w, "a")
	for range 5 {
		<-tried
	}
	if row := w.row(t, "erp"); row.Failure != "the receiver answered 503" || row.Cursor != 0 {
		t.Errorf("%q at %d", row.Failure, row.Cursor)
	}
	w.raise(t, 11, 20)
	up.Store(true)
	if got := r.keys(20); !slices.Equal(got, numbers(1, 20)) {
		t.Errorf("%v", got)
	}
}

// forgetful loses the first words about what was delivered, as a crash between
// sending and noting does.
type forgetful struct {
	*world
	left atomic.Int64
}

func (f *forgetful) MoveCursor(ctx context.Context, id, from, to int64, failure string) error {
	if f.left.Add(-1) >= 0 {
		return errors.New("cut off")
	}
	return f.world.MoveCursor(ctx, id, from, to, failure)
}

// What was taken but not noted is sent again, with the same ids and content.
func TestAtLeastOnce(t *testing.T) {
	w := newWorld(t)
	r := receive(t, nil)
	w.hook(t, factory.Webhook{Name: "erp", URL: r.URL, Events: []string{"alarm.raised"}})
	w.raise(t, 1, 5)
	f := &forgetful{world: w}
	f.left.Store(2)
	start(t, f, w, "a")
	var first []webhook.Event
	for round := range 3 {
		for i := range 5 {
			e := <-r.taken
			if round == 0 {
				first = append(first, e)
				continue
			}
			if fmt.Sprint(first[i]) != fmt.Sprint(e) {
				t.Errorf("again: %v, was %v", e, first[i])
			}
		}
	}
	w.raise(t, 6, 6)
	if got := r.keys(1); got[0] != 6 {
		t.Errorf("then %v", got)
	}
}

// However often the node is restarted in the middle, nothing is skipped and
// nothing overtakes.
func TestRestartsInTheMiddle(t *testing.T) {
	w := newWorld(t)
	r := receive(t, nil)
	w.hook(t, factory.Webhook{Name: "erp", URL: r.URL, Events: []string{"alarm.raised"}})
	const all = 600
	w.raise(t, 1, all/2)
	highest := 0
	for round := 0; highest < all; round++ {
		stop := start(t, w, w, "a")
		if round == 0 {
			w.raise(t, all/2+1, all)
		}
		for _, key := range r.keys(1) {
			if key > highest+1 {
				t.Fatalf("%d after %d", key, highest)
			}
			highest = max(highest, key)
		}
		stop()
		for {
			select {
			case e := <-r.taken:
				var data struct{ Key string }
				must(t, json.Unmarshal(e.Data, &data))
				key, err := strconv.Atoi(data.Key)
				must(t, err)
				if key > highest+1 {
					t.Fatalf("%d after %d", key, highest)
				}
				highest = max(highest, key)
				continue
			default:
			}
			break
		}
	}
}

// An operator sets the cursor back: all is told again, also when a delivery is
// under way at that moment.
func TestReplay(t *testing.T) {
	w := newWorld(t)
	var h factory.Webhook
	var once sync.Once
	r := receive(t, func(int, http.ResponseWriter) bool {
		once.Do(func() {
			h.ChangedAt = h.ChangedAt.Add(time.Second)
			h.Cursor = 0
			_, err := w.SetWebhook(context.Background(), h)
			if err == nil {
				err = w.MoveCursor(context.Background(), h.ID, 0, 1, "") // as a replay to 1
			}
			if err != nil {
				t.Error(err)
			}
		})
		return true
	})
	w.hook(t, factory.Webhook{Name: "erp", URL: r.URL, Events: []string{"alarm.raised"}})
	w.raise(t, 1, 50)
	size, err := w.LedgerSize(t.Context())
	must(t, err)
	w.raise(t, 51, 60)
	h = w.row(t, "erp")
	must(t, w.MoveCursor(t.Context(), h.ID, 0, size, ""))
	start(t, w, w, "a")
	if got := r.keys(70); !slices.Equal(got, append(numbers(51, 60), numbers(1, 60)...)) {
		t.Errorf("%v", got)
	}
}

// A receiver that hangs keeps no other waiting; one that is removed or disabled
// hears no more.
func TestEachForItself(t *testing.T) {
	w := newWorld(t)
	gone := make(chan struct{})
	defer close(gone)
	hangs := receive(t, func(int, http.ResponseWriter) bool { <-gone; return false })
	good := receive(t, nil)
	idle := receive(t, nil)
	w.hook(t, factory.Webhook{Name: "hangs", URL: hangs.URL})
	w.hook(t, factory.Webhook{Name: "good", URL: good.URL, Events: []string{"alarm.raised"}})
	w.hook(t, factory.Webhook{Name: "idle", URL: idle.URL, Disabled: true})
	w.hook(t, factory.Webhook{Name: "other", URL: idle.URL, Events: []string{"unit.confirmed"}})
	start(t, w, w, "a")
	w.raise(t, 1, 30)
	good.keys(30)
	if n := len(idle.taken); n > 0 {
		t.Errorf("%d events to a webhook that does not want them", n)
	}
	must(t, w.RemoveWebhook(t.Context(), w.row(t, "good").ID))
}

// watched tells how often somebody looked for webhooks.
type watched struct {
	*world
	looks chan struct{}
}

func (s *watched) Webhooks(ctx context.Context) ([]factory.Webhook, error) {
	select {
	case s.looks <- struct{}{}:
	default:
	}
	return s.world.Webhooks(ctx)
}

// One node of several sends; when it is gone another goes on.
func TestOneNodeSends(t *testing.T) {
	w := newWorld(t)
	r := receive(t, nil)
	w.hook(t, factory.Webhook{Name: "erp", URL: r.URL, Events: []string{"alarm.raised"}})
	_, ok, err := w.AcquireLease(t.Context(), "webhooks", "b", 30)
	must(t, err)
	if !ok {
		t.Fatal("no lease")
	}
	w.raise(t, 1, 5)
	watch := &watched{w, make(chan struct{})}
	start(t, watch, w, "a")
	w.raise(t, 6, 10)
	for range 100 {
		<-watch.looks
	}
	if n := len(r.taken); n > 0 {
		t.Errorf("%d events from a node without the lease", n)
	}
	w.pass(time.Minute)
	if got := r.keys(10); !slices.Equal(got, numbers(1, 10)) {
		t.Errorf("%v", got)
	}
}

// Names stand beside numbers, and of orders only the closing is told.
func TestEvents(t *testing.T) {
	w := newWorld(t)
	r := receive(t, nil)
	site, err := w.AddSite(t.Context(), factory.Site{Name: "lodz", CreatedAt: w.Now()})
	must(t, err)
	product, err := w.AddProduct(t.Context(), device.Product{Name: "sensor", CreatedAt: w.Now()})
	must(t, err)
	order, err := w.AddOrder(t.Context(), factory.Order{
		Number: "PO-7", Product: product, Site: site, State: factory.OrderOpen, Quantity: 10, CreatedAt: w.Now(), OpenedAt: w.Now(),
	})
	must(t, err)
	entry := func(k ledger.Kind, body string) {
		must(t, w.Count(t.Context(), nil, ledger.Entry{Kind: k, At: w.Now(), Actor: "station:ST-1", Body: ledger.JSON(json.RawMessage(body))}))
	}
	entry(ledger.OrderChanged, fmt.Sprintf(`{"order":%d,"state":"open"}`, order))
	entry(ledger.OrderChanged, fmt.Sprintf(`{"order":%d,"state":"closed"}`, order))
	entry(ledger.UnitFailed, fmt.Sprintf(`{"order":%d,"station":77,"device":"0000000000000009","device_serial":"SN-1","code":"BM-8092"}`, order))
	w.hook(t, factory.Webhook{Name: "erp", URL: r.URL})
	start(t, w, w, "a")
	closing, failed := <-r.taken, <-r.taken
	if closing.Kind != "order.changed" || !bytes.Contains(closing.Data, []byte(`"order_number":"PO-7"`)) || !bytes.Contains(closing.Data, []byte(`closed`)) {
		t.Errorf("%+v %s", closing, closing.Data)
	}
	if failed.Kind != "unit.failed" || failed.Actor != "station:ST-1" || !bytes.Contains(failed.Data, []byte(`"device_serial":"SN-1"`)) || !failed.At.Equal(w.Now()) {
		t.Errorf("%+v %s", failed, failed.Data)
	}
}

func TestNewWantsEverything(t *testing.T) {
	if _, err := webhook.New(webhook.Config{}); err == nil {
		t.Error("a deliverer without a record")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
