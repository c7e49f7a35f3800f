package station_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/status"
	protocol "github.com/birthmark/birthmark/internal/protocol/station"
	"github.com/birthmark/birthmark/internal/store"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// floor is a production line with its device listener.
type floor struct {
	*webtest.Line
	*webtest.Listener
	handlers *protocol.Handlers
	roots    *x509.CertPool
	clients  map[string]*http.Client
	tls      map[string]*tls.Certificate
}

func newFloor(t testing.TB) *floor {
	t.Helper()
	f := &floor{clients: map[string]*http.Client{}, tls: map[string]*tls.Certificate{}}
	f.Line = webtest.NewLine(t, webtest.NewWorld(t, webtest.Config{Open: func(path string, now func() time.Time) (webtest.Store, func() error, error) {
		s, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + path, Node: "test", Now: now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}}))
	var err error
	f.handlers, err = protocol.New(protocol.Config{Enroller: f.Enroller, Factory: f.Factory, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	var routes []server.Route
	for _, o := range f.handlers.Operations() {
		routes = append(routes, server.Route{Method: o.Method, Path: o.Path, Action: o.Action, MaxBody: o.MaxBody, Stream: o.Stream, Handler: o.Handler})
	}
	f.Listener = webtest.Listen(t, server.Config{Name: "device", Routes: routes, TLS: server.DeviceTLS(f.ServerCertificate(t)), Limits: server.DefaultLimits()})
	f.roots = f.Roots(t)
	return f
}

// station adds a station that enrolls, and connects as it from then on.
func (f *floor) station(t testing.TB, name string) {
	t.Helper()
	f.as(t, name, f.Station(t, name))
}

// as connects with a certificate under a name.
func (f *floor) as(t testing.TB, name string, cert *tls.Certificate) {
	t.Helper()
	c := &tls.Config{RootCAs: f.roots, ServerName: "localhost"}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	f.tls[name] = cert
	f.clients[name] = &http.Client{Transport: &http.Transport{TLSClientConfig: c}, Timeout: time.Minute}
	t.Cleanup(f.clients[name].CloseIdleConnections)
}

// call sends one object and reads one, or the refusal's code.
func (f *floor) call(t testing.TB, as, method, path string, in, out any) (code string) {
	t.Helper()
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		must(t, err)
		body = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+f.Address+path, body)
	must(t, err)
	r.Header.Set("Content-Type", "application/json")
	resp, err := f.clients[as].Do(r)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var p server.Problem
		must(t, json.NewDecoder(resp.Body).Decode(&p))
		return p.Code
	}
	must(t, json.NewDecoder(resp.Body).Decode(out))
	return ""
}

// send streams items and returns the results in their order.
func send[T any](t testing.TB, f *floor, as, path string, items ...T) []station.Result {
	t.Helper()
	var body bytes.Buffer
	for i := range items {
		must(t, json.NewEncoder(&body).Encode(&items[i]))
	}
	return f.lines(t, as, path, &body)
}

func (f *floor) lines(t testing.TB, as, path string, body io.Reader) []station.Result {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+f.Address+path, body)
	must(t, err)
	r.Header.Set("Content-Type", station.LinesType)
	resp, err := f.clients[as].Do(r)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s %s", path, resp.Status, text)
	}
	all := results(t, resp.Body)
	slices.SortStableFunc(all, func(a, b station.Result) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// nonces draws nonces of an order.
func (f *floor) nonces(t testing.TB, as, order string, n int) [][]byte {
	t.Helper()
	var out station.Nonces
	if code := f.call(t, as, http.MethodPost, station.NoncesPath, station.NoncesRequest{Order: order, Count: n}, &out); code != "" {
		t.Fatalf("no nonces: %s", code)
	}
	return out.Nonces
}

// made makes n units with chips and nonces of their own.
func (f *floor) made(t testing.TB, as, order string, first, n int) []*webtest.Made {
	t.Helper()
	nonces, chips := f.nonces(t, as, order, n), f.Chips(t, n)
	units := make([]*webtest.Made, n)
	for i := range units {
		units[i] = webtest.Unit(t, order, serialOf(first+i), nonces[i], chips[i])
	}
	return units
}

func serialOf(i int) string { return "SN-" + strconv.Itoa(100_000+i) }

func wire(units []*webtest.Made) []station.Unit {
	out := make([]station.Unit, len(units))
	for i, u := range units {
		out[i] = u.Unit
	}
	return out
}

func (f *floor) counts(t testing.TB, number string) factory.Counts {
	t.Helper()
	o, err := f.Store.OrderByNumber(t.Context(), access.Everything(), number)
	must(t, err)
	return o.Counts
}

// The whole road of a line: the station enrolls with its code, sees its order,
// provisions by streams, confirms, scraps, renews itself.
func TestLine(t *testing.T) {
	f := newFloor(t)
	code := f.Code(t, "ST-1")
	f.as(t, "nobody", nil)
	key := webtest.NewKey(t)
	var enrolled station.Enrolled
	request := station.EnrollRequest{Code: code, CSR: webtest.NewCSR(t, key, nil)}
	if code := f.call(t, "nobody", http.MethodPost, station.EnrollPath, request, &enrolled); code != "" {
		t.Fatal(code)
	}
	if enrolled.Station != "ST-1" || enrolled.Site != "lodz" || len(enrolled.Chain) != 2 ||
		!bytes.Equal(enrolled.Chain[1], f.Certificate(t, "root").Raw) {
		t.Fatalf("%s at %s, %d in the chain", enrolled.Station, enrolled.Site, len(enrolled.Chain))
	}
	f.Follow(t)
	leaf, err := x509.ParseCertificate(enrolled.Certificate)
	must(t, err)
	f.as(t, "ST-1", &tls.Certificate{Certificate: [][]byte{enrolled.Certificate}, PrivateKey: key, Leaf: leaf})
	f.Order(t, "PO-1", 20, 5, "ST-1")

	var status station.Status
	if code := f.call(t, "ST-1", http.MethodGet, station.StatusPath, nil, &status); code != "" || len(status.Orders) != 1 || status.Orders[0].Left != 20 || !status.Orders[0].Proof {
		t.Fatalf("%s %+v", code, status)
	}
	units := f.made(t, "ST-1", "PO-1", 0, 10)
	issued := send(t, f, "ST-1", station.UnitsPath, wire(units)...)
	confirms := make([]*station.Confirm, len(units))
	for i := range issued {
		if !issued[i].OK || issued[i].ID != units[i].ID || len(issued[i].Chain) == 0 {
			t.Fatalf("%+v", issued[i])
		}
		confirms[i] = units[i].Confirm(t, &issued[i])
	}
	// The same request again: the same certificate, whatever became of the answer.
	again := send(t, f, "ST-1", station.UnitsPath, units[3].Unit)
	if !again[0].OK || !again[0].Replayed || !bytes.Equal(again[0].Certificate, issued[3].Certificate) || !bytes.Equal(again[0].ConfirmNonce, issued[3].ConfirmNonce) {
		t.Errorf("%+v", again[0])
	}
	for _, r := range append(send(t, f, "ST-1", station.ConfirmPath, confirms...), send(t, f, "ST-1", station.ConfirmPath, confirms[0])...) {
		if !r.OK {
			t.Errorf("%+v", r)
		}
	}
	scraps := []station.Scrap{{ID: "a", Order: "PO-1", DeviceSerial: serialOf(0), Reason: "cracked"}, {ID: "b", Order: "PO-1", DeviceSerial: "SN-0", Reason: "never was"}}
	if r := send(t, f, "ST-1", station.ScrapPath, scraps...); !r[0].OK || r[1].Code != "BM-8062" || r[1].Who == "" {
		t.Errorf("%+v", r)
	}
	failures := []station.Failed{{ID: "a", Order: "PO-1", DeviceSerial: serialOf(11), Code: "BM-8092", Detail: "no contact"}, {ID: "b", Order: "PO-1", Code: "nonsense"}}
	if r := send(t, f, "ST-1", station.FailedPath, failures...); !r[0].OK || r[1].OK {
		t.Errorf("%+v", r)
	}
	if got, want := f.counts(t, "PO-1"), (factory.Counts{Issued: 10, Live: 9, Confirmed: 9, Scrapped: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	c, err := f.Store.CredentialBySerial(t.Context(), access.Everything(), serialNumber(t, issued[0].Certificate))
	must(t, err)
	if c.State != device.Revoked {
		t.Errorf("the scrapped unit's certificate is %v", c.State)
	}
	f.renews(t, leaf)
}

func serialNumber(t testing.TB, der []byte) []byte {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c.SerialNumber.Bytes()
}

func (f *floor) renews(t *testing.T, old *x509.Certificate) {
	t.Helper()
	key := webtest.NewKey(t)
	var enrolled station.Enrolled
	if code := f.call(t, "ST-1", http.MethodPost, station.RenewPath, station.RenewRequest{CSR: webtest.NewCSR(t, key, old.RawSubject)}, &enrolled); code != "" {
		t.Fatal(code)
	}
	f.Follow(t)
	f.as(t, "ST-1 renewed", &tls.Certificate{Certificate: [][]byte{enrolled.Certificate}, PrivateKey: key})
	var status station.Status
	if code := f.call(t, "ST-1 renewed", http.MethodGet, station.StatusPath, nil, &status); code != "" || status.Station != "ST-1" {
		t.Errorf("%s %+v", code, status)
	}
}

// Whoever is no station of ours gets nothing, on any path.
func TestStrangers(t *testing.T) {
	f := newFloor(t)
	f.station(t, "ST-1")
	f.Order(t, "PO-1", 5, 0, "ST-1")
	f.as(t, "nobody", nil)
	f.as(t, "self-signed", webtest.SelfSigned(t, "ST-1", time.Now().Add(time.Hour)))
	f.as(t, "a device", f.Enrolled(t, "sensor", "SN-DEVICE"))
	f.Follow(t)
	for _, who := range []string{"nobody", "self-signed", "a device"} {
		for _, o := range f.handlers.Operations() {
			if o.Path == station.EnrollPath {
				continue
			}
			var in any = struct{}{}
			if o.Method == http.MethodGet {
				in = nil
			}
			if code := f.call(t, who, o.Method, o.Path, in, &struct{}{}); code == "" {
				t.Errorf("%s may %s", who, o.Path)
			}
		}
	}
	for _, code := range []string{"", "wrong", f.Code(t, "ST-2") + "x"} {
		if got := f.call(t, "nobody", http.MethodPost, station.EnrollPath, station.EnrollRequest{Code: code, CSR: webtest.NewCSR(t, webtest.NewKey(t), nil)}, &struct{}{}); got != "BM-8013" {
			t.Errorf("code %q: %s", code, got)
		}
	}
}

// What a station, or whoever took it over, may try.
func TestHostileStation(t *testing.T) {
	f := newFloor(t)
	f.station(t, "ST-1")
	f.station(t, "ST-2")
	f.Order(t, "PO-1", 4, 1, "ST-1")
	f.Order(t, "PO-2", 50, 0, "ST-2")
	refused := func(name, as, code string, u *station.Unit) {
		t.Helper()
		r := send(t, f, as, station.UnitsPath, *u)[0]
		if r.OK || r.Code != code || r.Message == "" || r.Remedy == "" || r.Who == "" || r.ID != u.ID {
			t.Errorf("%s: %+v", name, r)
		}
	}
	first := f.Chips(t, 1)[0]
	one := webtest.Unit(t, "PO-1", serialOf(0), f.nonces(t, "ST-1", "PO-1", 1)[0], first)

	other := *one
	other.Order = "PO-2"
	refused("another's order", "ST-1", "BM-8014", &other.Unit)
	refused("another station's nonce", "ST-2", "BM-8014", &one.Unit)
	unknown := *one
	unknown.Order = "PO-9"
	refused("no order", "ST-1", "BM-8020", &unknown.Unit)

	spliced := *one
	spliced.CSR = webtest.NewCSR(t, webtest.NewKey(t), nil)
	refused("the proof on another request", "ST-1", "BM-8046", &spliced.Unit)
	renamed := *one
	renamed.DeviceSerial = serialOf(77)
	refused("the proof on another serial", "ST-1", "BM-8046", &renamed.Unit)
	silent := *one
	silent.Proof = nil
	refused("no proof", "ST-1", "BM-8047", &silent.Unit)
	stranger := webtest.Unit(t, "PO-1", serialOf(0), one.Nonce, &webtest.Chip{UID: "ffffffffffffffff", Key: webtest.NewKey(t)})
	refused("a chip of no manifest", "ST-1", "BM-8040", &stranger.Unit)
	forged := *one
	forged.Nonce = bytes.Repeat([]byte{7}, 32)
	refused("no nonce of ours", "ST-1", "BM-8050", &forged.Unit)

	if r := send(t, f, "ST-1", station.UnitsPath, one.Unit)[0]; !r.OK {
		t.Fatalf("the good one: %+v", r)
	}
	chips := f.Chips(t, 10)
	replayed := webtest.Unit(t, "PO-1", serialOf(1), one.Nonce, chips[0])
	refused("a used nonce", "ST-1", "BM-8051", &replayed.Unit)
	fresh := f.nonces(t, "ST-1", "PO-1", 4)
	twice := webtest.Unit(t, "PO-1", serialOf(2), fresh[0], first)
	refused("a used chip", "ST-1", "BM-8041", &twice.Unit)

	// Full: four live units and no more, whatever is tried at once.
	var body []station.Unit
	for i := range 4 {
		body = append(body, webtest.Unit(t, "PO-1", serialOf(10+i), fresh[i], chips[1+i]).Unit)
	}
	good := 0
	for _, r := range send(t, f, "ST-1", station.UnitsPath, body...) {
		if r.OK {
			good++
			continue
		}
		if r.Code != "BM-8023" {
			t.Errorf("%+v", r)
		}
	}
	if c := f.counts(t, "PO-1"); good != 3 || c.Live != 4 || c.Issued != 4 {
		t.Errorf("%d more units, %+v", good, c)
	}

	if _, err := f.Factory.CloseOrder(t.Context(), *f.Operator, "PO-1", "done"); err != nil {
		t.Fatal(err)
	}
	f.Follow(t)
	late := webtest.Unit(t, "PO-1", serialOf(20), fresh[3], chips[6])
	refused("a closed order", "ST-1", "BM-8022", &late.Unit)
	if kinds := f.Alarms(t); !slices.Contains(kinds, factory.AlarmStation) || !slices.Contains(kinds, factory.AlarmOrderFull) {
		t.Errorf("alarms: %v", kinds)
	}
}

// A station that is suspended while it is connected is refused at its next item,
// and works again once it is resumed.
func TestSuspendedOnALiveStream(t *testing.T) {
	f := newFloor(t)
	f.station(t, "ST-1")
	f.Order(t, "PO-1", 10, 0, "ST-1")
	units := f.made(t, "ST-1", "PO-1", 0, 3)
	in, out := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+f.Address+station.UnitsPath, in)
	must(t, err)
	r.Header.Set("Content-Type", station.LinesType)
	resp, err := f.clients["ST-1"].Do(r)
	must(t, err)
	defer resp.Body.Close()
	answers := json.NewDecoder(resp.Body)
	next := func(i int) (got station.Result) {
		must(t, json.NewEncoder(out).Encode(units[i].Unit))
		must(t, answers.Decode(&got))
		return got
	}
	if got := next(0); !got.OK {
		t.Fatalf("%+v", got)
	}
	_, err = f.Factory.SuspendStation(t.Context(), *f.Operator, "ST-1", "stolen")
	must(t, err)
	f.Follow(t)
	if got := next(1); got.OK || got.Code != "BM-8012" {
		t.Errorf("suspended: %+v", got)
	}
	_, err = f.Factory.ResumeStation(t.Context(), *f.Operator, "ST-1", "found")
	must(t, err)
	f.Follow(t)
	if got := next(2); !got.OK {
		t.Errorf("resumed: %+v", got)
	}
	must(t, out.Close())
}

// A station whose certificate is revoked is refused on every stream that is
// open, and on every new request of the same connection.
func TestRevokedOnLiveStreams(t *testing.T) {
	f := newFloor(t)
	f.station(t, "ST-1")
	f.Order(t, "PO-1", 10, 0, "ST-1")
	units := f.made(t, "ST-1", "PO-1", 0, 3)
	issued := send(t, f, "ST-1", station.UnitsPath, wire(units[:2])...)
	for path, items := range map[string][2]any{
		station.UnitsPath:   {units[0].Unit, units[2].Unit},
		station.ConfirmPath: {units[0].Confirm(t, &issued[0]), units[1].Confirm(t, &issued[1])},
		station.ScrapPath:   {station.Scrap{ID: "a", Order: "PO-1", DeviceSerial: "SN-0", Reason: "r"}, station.Scrap{ID: "b", Order: "PO-1", DeviceSerial: serialOf(1), Reason: "r"}},
		station.FailedPath:  {station.Failed{ID: "a", Order: "PO-1", Code: "BM-8092"}, station.Failed{ID: "b", Order: "PO-1", Code: "BM-8092"}},
	} {
		t.Run(path, func(t *testing.T) {
			name := "ST-" + path[len(station.Prefix)+1:]
			f.station(t, name)
			_, err := f.Factory.AssignStations(t.Context(), *f.Operator, "PO-1", []string{"ST-1", name})
			must(t, err)
			f.Follow(t)
			in, out := io.Pipe()
			defer out.Close()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+f.Address+path, in)
			must(t, err)
			r.Header.Set("Content-Type", station.LinesType)
			resp, err := f.clients[name].Do(r)
			must(t, err)
			defer resp.Body.Close()
			answers := json.NewDecoder(resp.Body)
			next := func(item any) (got station.Result) {
				must(t, json.NewEncoder(out).Encode(item))
				must(t, answers.Decode(&got))
				return got
			}
			if got := next(items[0]); strings.HasPrefix(got.Code, "BM-2") {
				t.Fatalf("before: %+v", got)
			}
			_, err = f.Status.Revoke(t.Context(), *f.Operator, status.Act{CertSerial: f.tls[name].Leaf.SerialNumber.Bytes(), Reason: "keyCompromise"})
			must(t, err)
			f.Follow(t)
			f.Pass(2 * time.Second) // a look at the record may be a second old
			if got := next(items[1]); got.OK || got.Code != "BM-2019" {
				t.Errorf("after: %+v", got)
			}
			if code := f.call(t, name, http.MethodGet, station.StatusPath, nil, &station.Status{}); code == "" {
				t.Error("a new request is answered")
			}
		})
	}
}

// Confirmations that are not of the unit, or not by its key, are refused one by
// one.
func TestHostileConfirmations(t *testing.T) {
	f := newFloor(t)
	f.station(t, "ST-1")
	f.Order(t, "PO-1", 10, 0, "ST-1")
	units := f.made(t, "ST-1", "PO-1", 0, 2)
	issued := send(t, f, "ST-1", station.UnitsPath, wire(units)...)
	good, other := units[0].Confirm(t, &issued[0]), units[1].Confirm(t, &issued[1])
	bad := map[string]station.Confirm{}
	alter := func(name string, change func(*station.Confirm)) {
		c := *good
		c.ID = name
		change(&c)
		bad[name] = c
	}
	alter("another's signature", func(c *station.Confirm) { c.Signature = other.Signature })
	alter("another's certificate", func(c *station.Confirm) { c.Certificate = other.Certificate })
	alter("another's all", func(c *station.Confirm) { c.Certificate, c.Signature = other.Certificate, other.Signature })
	alter("half a certificate", func(c *station.Confirm) { c.Certificate = c.Certificate[:100] })
	alter("nothing", func(c *station.Confirm) { c.Certificate, c.Signature = nil, nil })
	alter("another serial", func(c *station.Confirm) { c.DeviceSerial = "SN-0" })
	alter("another order", func(c *station.Confirm) { c.Order = "PO-9" })
	var all []station.Confirm
	for _, c := range bad {
		all = append(all, c)
	}
	for _, r := range send(t, f, "ST-1", station.ConfirmPath, append(all, *good)...) {
		if r.OK != (r.ID == good.ID) {
			t.Errorf("%+v", r)
		}
	}
	if c := f.counts(t, "PO-1"); c.Confirmed != 1 {
		t.Errorf("%+v", c)
	}
}

// Two stations with the same chips at once: one of each pair wins, and the order
// is never exceeded.
func TestManyStationsAtOnce(t *testing.T) {
	f := newFloor(t)
	const stations, quantity = 4, 60
	names := make([]string, stations)
	for i := range names {
		names[i] = "ST-" + strconv.Itoa(i)
		f.station(t, names[i])
	}
	f.Order(t, "PO-1", quantity, 0, names...)
	chips := f.Chips(t, quantity+20)
	streams := make([][]station.Unit, stations)
	for s, name := range names {
		for i, nonce := range f.nonces(t, name, "PO-1", len(chips)) {
			// Each chip comes up at two stations, under two serials.
			if i%stations == s || (i+1)%stations == s {
				streams[s] = append(streams[s], webtest.Unit(t, "PO-1", serialOf(s*1000+i), nonce, chips[i]).Unit)
			}
		}
	}
	var mu sync.Mutex
	won := map[string]int{}
	var running sync.WaitGroup
	for s, name := range names {
		running.Go(func() {
			for _, r := range send(t, f, name, station.UnitsPath, streams[s]...) {
				if r.OK {
					mu.Lock()
					i, _ := strconv.Atoi(strings.TrimPrefix(r.DeviceSerial, "SN-"))
					won[chips[i%1000].UID]++
					mu.Unlock()
				}
			}
		})
	}
	running.Wait()
	for uid, n := range won {
		if n > 1 {
			t.Errorf("chip %s won %d times", uid, n)
		}
	}
	if c := f.counts(t, "PO-1"); c.Issued != quantity || c.Live != quantity || len(won) != quantity {
		t.Errorf("%+v, %d winners", c, len(won))
	}
}
