package main

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/birthmark/birthmark/internal/edge/station/sim"
	"github.com/birthmark/birthmark/internal/edge/station/stationtest"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/needs"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"birthmark-station": main})
}

// TestScripts runs what a person, a fixture or an MES would type.
func TestScripts(t *testing.T) { runScripts(t, "testdata/script") }

// TestFixtureScripts runs the sample fixture in shell and openssl, and a master
// that speaks with curl.
func TestFixtureScripts(t *testing.T) {
	needs.Unix(t)
	needs.OpenSSL(t)
	needs.Curl(t)
	runScripts(t, "testdata/fixture")
}

// place is a script's server.
type place struct {
	*stationtest.Server
	down atomic.Bool
}

func runScripts(t *testing.T, dir string) {
	t.Helper()
	sample, err := os.ReadFile("testdata/fixture.sh")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir, RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			p := &place{Server: stationtest.New(t)}
			p.Hook = func(w http.ResponseWriter, _ *http.Request) bool {
				if p.down.Load() {
					stationtest.Refuse(w, http.StatusServiceUnavailable, fault.IssuanceBusy, "")
					return true
				}
				return false
			}
			e.Values["place"] = p
			e.Setenv("SERVER", p.URL())
			e.Setenv("CODE", stationtest.Code)
			e.Setenv("BIRTHMARK_STATION_STATE", e.WorkDir+"/state")
			if err := os.WriteFile(e.WorkDir+"/fixture.sh", sample, 0o755); err != nil {
				return err
			}
			return os.WriteFile(e.WorkDir+"/trust.pem", p.TrustPEM(), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"order": scriptOrder, "chips": scriptChips, "server": scriptServer, "account": scriptAccount, "batch": scriptBatch,
			"served": scriptServed, "term": scriptTerm,
		},
	})
}

func placeOf(ts *testscript.TestScript) *place { return ts.Value("place").(*place) }

// scriptOrder is "order NUMBER MODEL QUANTITY SPARES [STATE]"; the product demands
// the chip's proof where the model ends in "+proof".
func scriptOrder(ts *testscript.TestScript, _ bool, args []string) {
	quantity, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	spares, err := strconv.ParseInt(args[3], 10, 64)
	ts.Check(err)
	model, proof := strings.CutSuffix(args[1], "+proof")
	o := station.Order{Number: args[0], Product: "sensor", KeyModel: model, Proof: proof, Quantity: quantity, Spares: spares}
	if len(args) > 4 {
		o.State = args[4]
	}
	placeOf(ts).AddOrder(o)
}

// scriptChips is "chips COUNT": lists simulated chips.
func scriptChips(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	for i := range n {
		chip, err := sim.NewChip("birthmark", i)
		ts.Check(err)
		placeOf(ts).AddChip(chip.UID, chip.SPKI)
	}
}

// scriptServer is "server down" and "server up".
func scriptServer(ts *testscript.TestScript, _ bool, args []string) {
	placeOf(ts).down.Store(args[0] == "down")
}

// scriptAccount is "account NUMBER ISSUED LIVE CONFIRMED SCRAPPED".
func scriptAccount(ts *testscript.TestScript, _ bool, args []string) {
	a := placeOf(ts).Account(args[0])
	got := strings.Join([]string{
		strconv.FormatInt(a.Issued, 10), strconv.FormatInt(a.Live, 10), strconv.FormatInt(a.Confirmed, 10), strconv.FormatInt(a.Scrapped, 10),
	}, " ")
	if want := strings.Join(args[1:], " "); got != want {
		ts.Fatalf("account %s, want %s", got, want)
	}
}

// scriptBatch is "batch BUNDLE REPLY": the server's part of a batch.
func scriptBatch(ts *testscript.TestScript, neg bool, args []string) {
	bundle, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	reply, err := placeOf(ts).Batch(bundle)
	if neg {
		if err == nil {
			ts.Fatalf("the server took the bundle")
		}
		return
	}
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), reply, 0o600))
}
