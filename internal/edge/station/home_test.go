package station_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	edge "github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/stationtest"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/needs"
)

func enroll(t *testing.T, s *stationtest.Server, dir string) (*edge.Home, error) {
	t.Helper()
	return edge.Enroll(t.Context(), edge.Enrollment{Dir: dir, Server: s.URL(), Code: stationtest.Code, Trust: s.TrustPEM()})
}

func TestStationRenewsAfterTwoThirds(t *testing.T) {
	s := stationtest.New(t)
	dir := t.TempDir()
	if _, err := enroll(t, s, dir); err != nil {
		t.Fatal(err)
	}
	h, err := edge.OpenHome(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	leaf := h.Credential().Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	if done, err := h.Renew(t.Context(), c, leaf.NotBefore.Add(life/2)); done || err != nil {
		t.Fatalf("renewed at half of its life: %v, %v", done, err)
	}
	if done, err := h.Renew(t.Context(), c, leaf.NotBefore.Add(life*3/4)); !done || err != nil {
		t.Fatalf("not renewed at three quarters: %v, %v", done, err)
	}
	if h.Credential().Leaf.Equal(leaf) {
		t.Error("the certificate is the old one")
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("with the new certificate: %v", err)
	}
	again, err := edge.OpenHome(dir)
	if err != nil || !again.Credential().Leaf.Equal(h.Credential().Leaf) {
		t.Errorf("the folder holds another certificate, %v", err)
	}
}

func TestKeysAreForTheirOwnerAlone(t *testing.T) {
	needs.Unix(t)
	s := stationtest.New(t)
	dir := t.TempDir()
	if _, err := enroll(t, s, dir); err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(all) < 3 {
		t.Fatal(all, err)
	}
	for _, one := range all {
		if info, err := os.Stat(one); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", one, info.Mode(), err)
		}
	}
}

// TestLostAnswerToEnrollingUsesTheSameKey, and a certificate for another key is
// refused.
func TestLostAnswerToEnrollingUsesTheSameKey(t *testing.T) {
	s := stationtest.New(t)
	dir := t.TempDir()
	foreign := s.Credential()
	var keys []string
	s.Hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != station.EnrollPath || len(keys) == 2 {
			return false
		}
		var in station.EnrollRequest
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		keys = append(keys, string(in.CSR[3:90])) // behind the length, before the signature
		if len(keys) == 1 {
			panic(http.ErrAbortHandler)
		}
		_ = json.NewEncoder(w).Encode(station.Enrolled{Station: "x", Certificate: foreign.Certificate[0]})
		return true
	}
	for i := range 2 {
		if _, err := enroll(t, s, dir); !fault.Has(err, fault.StationLink) {
			t.Errorf("try %d: %v", i, err)
		}
	}
	if len(keys) != 2 || keys[0] != keys[1] {
		t.Errorf("%d requests, with other keys", len(keys))
	}
	if _, err := enroll(t, s, dir); err != nil {
		t.Error(err)
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	s := stationtest.New(t)
	s.AddOrder(station.Order{Number: "PO-1", State: "closed", Quantity: 1})
	s.Lifetime = 24 * time.Hour
	h, err := enroll(t, s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s.Now = func() time.Time { return time.Now().Add(time.Hour) }
	want := map[string]string{"clock": "BM-8094", "certificate": "BM-8015", "order": "BM-8022", "link": "", "queue": "", "left": ""}
	for _, f := range edge.Check(t.Context(), edge.CheckConfig{Home: h, Link: c, Now: time.Now, Order: "PO-1"}) {
		if code, ok := want[f.What]; !ok || code != f.Code || f.OK != (code == "") || !f.OK && (f.Remedy == "" || f.Who == "") {
			t.Errorf("%+v", f)
		}
		delete(want, f.What)
	}
	if len(want) > 0 {
		t.Errorf("nothing was said of %v", want)
	}
}

// TestCertificateForAnotherKeyIsRefused before it reaches the device.
func TestCertificateForAnotherKeyIsRefused(t *testing.T) {
	r := newRig(t, rigConfig{chips: 3, line: edge.Config{Attempts: 1}})
	foreign := r.server.Root.Raw
	r.server.Spoil = func(path string, in *station.Result) {
		if path == station.UnitsPath {
			in.Certificate = foreign
		}
	}
	o := r.line.Do(t.Context(), edge.Job{DeviceSerial: "SN1"})
	if o.Result != edge.Fail || o.Code != fault.ReadBackWrong.String() {
		t.Errorf("%+v", o)
	}
	if got := r.server.Failures(); len(got) != 1 || got[0].Code != fault.ReadBackWrong.String() {
		t.Errorf("the server heard of %+v", got)
	}
}

// TestDiskThatTakesNothingIsAFailure: no link and no queue is no pass.
func TestDiskThatTakesNothingIsAFailure(t *testing.T) {
	r := newRig(t, rigConfig{chips: 3})
	r.server.Hook = func(w http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path == station.ConfirmPath {
			stationtest.Refuse(w, http.StatusServiceUnavailable, fault.IssuanceBusy, "")
			return true
		}
		return false
	}
	r.queue.Close()
	if o := r.line.Do(t.Context(), edge.Job{DeviceSerial: "SN1"}); o.Result != edge.Fail || o.Code != fault.StationQueue.String() {
		t.Errorf("%+v", o)
	}
}
