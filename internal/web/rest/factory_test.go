package rest_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// floor is what the acts of factory.txt know.
type floor struct {
	*world
	session *enroll.StationSession
	chips   map[string]*webtest.Chip
}

func TestFactoryAPI(t *testing.T) {
	f := &floor{world: newWorld(t), chips: map[string]*webtest.Chip{}}
	lead, _ := access.ActionsOf(access.LineLead)
	products, err := f.Store.Products(t.Context(), access.Everything())
	must(t, err)
	s := &webtest.Script{
		Network: "tcp", Address: f.network.Address, Bodies: map[string][]byte{},
		Vars: map[string]string{
			"root": f.token(t, access.Everything(), access.Actions()...),
			"lead": f.token(t, access.Everything(), lead...), "reader": f.token(t, access.Everything(), access.FactoryRead),
			"sensor": f.token(t, access.Limited([]int64{products[0].ID}, nil, nil), access.Actions()...),
		},
		Acts: map[string]func(*testing.T, *webtest.Script, []string){
			"station": f.actStation, "reel": f.actReel, "unit": f.actUnit, "refused": f.actRefused, "approve": f.actApprove,
		},
	}
	s.Run(t, "testdata/factory.txt")
	log := f.network.Log.String()
	for _, name := range []string{"code", "secret", "root"} {
		if secret := s.Vars[name]; secret == "" || strings.Contains(log, secret) {
			t.Errorf("%s is in the log, or was never seen", name)
		}
	}
}

// approve ID: a second operator approves.
func (f *floor) actApprove(t *testing.T, _ *webtest.Script, args []string) {
	id, err := strconv.ParseInt(args[0], 10, 64)
	must(t, err)
	alice, err := f.Access.LocalCaller(t.Context(), "alice")
	must(t, err)
	must(t, f.Access.AddOperator(t.Context(), alice, access.Operator{Name: "local:bob", Roles: []string{string(access.Planner)}, All: true}))
	bob, err := f.Access.LocalCaller(t.Context(), "bob")
	must(t, err)
	_, err = f.Access.Decide(t.Context(), bob, id, access.Verdict{Approve: true})
	must(t, err)
}

// station NAME CODE: it enrolls.
func (f *floor) actStation(t *testing.T, _ *webtest.Script, args []string) {
	f.Follow(t)
	r, err := f.Enroller.EnrollStation(t.Context(), args[1], webtest.NewCSR(t, webtest.NewKey(t), nil))
	must(t, err)
	f.Follow(t)
	leaf, err := x509.ParseCertificate(r.Credential.DER)
	must(t, err)
	f.session, err = f.Enroller.Station(t.Context(), []*x509.Certificate{leaf})
	must(t, err)
}

// reel NAME COUNT: a body that lists chips c000000000000001 and so on.
func (f *floor) actReel(t *testing.T, s *webtest.Script, args []string) {
	n, err := strconv.Atoi(args[1])
	must(t, err)
	var file bytes.Buffer
	for i := range n {
		c := &webtest.Chip{UID: fmt.Sprintf("c%015x", i+1), Key: webtest.NewKey(t)}
		spki, err := x509.MarshalPKIXPublicKey(c.Key.Public())
		must(t, err)
		f.chips[c.UID] = c
		fmt.Fprintf(&file, "{\"uid\":%q,\"chip_type\":\"ATECC608B\",\"vendor\":\"microchip\",\"spki\":%q}\n", c.UID, base64.StdEncoding.EncodeToString(spki))
	}
	s.Bodies[args[0]] = file.Bytes()
}

// unit ORDER SERIAL CHIP: the station provisions it; ${certificate} is what it
// got. Unit B-0001 is confirmed once it was looked at.
func (f *floor) actUnit(t *testing.T, s *webtest.Script, args []string) {
	f.Follow(t)
	nonces, err := f.Factory.DrawNonces(t.Context(), f.session.Ref(), station.NoncesRequest{Order: args[0], Count: 1})
	must(t, err)
	made := webtest.Unit(t, args[0], args[1], nonces.Nonces[0], f.chips[args[2]])
	r, err := f.Enroller.EnrollUnit(t.Context(), f.session, &made.Unit)
	must(t, err)
	s.Vars["certificate"] = base64.StdEncoding.EncodeToString(r.Credential.DER)
}

// refused ORDER SERIAL: a new order that the station is not assigned to refuses
// it, which raises an alarm.
func (f *floor) actRefused(t *testing.T, _ *webtest.Script, args []string) {
	_, _, err := f.Factory.CreateOrder(t.Context(), *f.Operator, factory.OrderTerms{Number: args[0], Product: "board", Site: "lodz", Quantity: 1})
	must(t, err)
	f.Follow(t)
	if _, err := f.Factory.DrawNonces(t.Context(), f.session.Ref(), station.NoncesRequest{Order: args[0], Count: 1}); err == nil {
		t.Error("nonces of another's order")
	}
	must(t, f.Factory.Flush(t.Context()))
}

// slowReel lists chips without end, or breaks off.
type slowReel struct {
	left int
	fail error
}

func (r *slowReel) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, r.fail
	}
	r.left--
	return copy(b, fmt.Sprintf("{\"uid\":\"d%015x\",\"chip_type\":\"ATECC608B\",\"vendor\":\"microchip\"}\n", r.left)), nil
}

// A manifest is a stream of any length; one that breaks off leaves nothing.
func TestManifestStreams(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, access.Everything(), access.ManifestImport, access.ManifestManage)
	post := func(body io.Reader) (*http.Response, string, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+w.network.Address+"/api/v1/manifests?name=reel&format=ndjson", body)
		must(t, err)
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Accept", "application/x-ndjson")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return nil, "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return resp, string(text), err
	}
	const n = 30_000 // beyond what is read of an ordinary body
	resp, text, err := post(&slowReel{left: n, fail: io.EOF})
	must(t, err)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if resp.StatusCode != http.StatusOK || !strings.Contains(lines[len(lines)-1], fmt.Sprintf(`"chips":%d`, n)) {
		t.Errorf("%s %s", resp.Status, lines[len(lines)-1])
	}
	if _, text, err := post(&slowReel{left: 100, fail: io.ErrUnexpectedEOF}); err == nil && !strings.Contains(text, "problem") {
		t.Errorf("a file that broke off: %s", text)
	}
	// The server may be at clearing away what it had when the answer broke off.
	for {
		changed := w.Store.Changed()
		all, _, err := w.Store.Manifests(t.Context(), factory.Page{Limit: 10})
		must(t, err)
		if len(all) == 1 && all[0].Visible {
			return
		}
		<-changed
	}
}
