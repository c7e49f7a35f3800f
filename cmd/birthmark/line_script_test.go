package main

import (
	"encoding/pem"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/birthmark/birthmark/internal/edge/station/sim"
	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest/manifesttest"
	"github.com/birthmark/birthmark/internal/needs"
)

// TestLineScripts runs a whole line: our server, our station, simulated devices.
func TestLineScripts(t *testing.T) {
	needs.Unix(t)
	needs.Time(t)
	runLineScripts(t, "testdata/line", nil)
}

func runLineScripts(t *testing.T, dir string, more map[string]func(*testscript.TestScript, bool, []string)) {
	t.Helper()
	station := filepath.Join(t.TempDir(), "birthmark-station")
	build := exec.CommandContext(t.Context(), needs.Command(t, "go"), "build", "-o", station, "../birthmark-station")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	commands := map[string]func(*testscript.TestScript, bool, []string){
		"ready": scriptReady, "term": scriptTerm, "jsonfield": scriptJSONField, "reel": scriptReel, "sql": scriptSQL,
	}
	maps.Copy(commands, more)
	testscript.Run(t, testscript.Params{
		Dir: dir, RequireExplicitExec: true, Cmds: commands,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(station)+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("BIRTHMARK_STATION_STATE", e.WorkDir+"/station")
			e.Setenv("BIRTHMARK_STATION_ADAPTER", "sim")
			return scriptSetup(e)
		},
	})
}

// scriptReel is "reel FIRST COUNT MANIFEST SIGNER": the maker's signed list of the
// simulated chips with these numbers, and the certificate of its signer.
func scriptReel(ts *testscript.TestScript, _ bool, args []string) {
	first, err := strconv.Atoi(args[0])
	ts.Check(err)
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	made := time.Now().Add(-24 * time.Hour)
	maker, err := manifesttest.New("Simulated Chips", made)
	ts.Check(err)
	f, err := os.Create(ts.MkAbs(args[2]))
	ts.Check(err)
	defer f.Close()
	w, err := manifest.NewWriter(f, manifest.Header{
		Maker: "Simulated Chips", Created: made.UTC().Truncate(time.Second), Vendor: sim.Vendor, ChipType: sim.ChipType,
	}, maker.Signer(), maker.SignerKey())
	ts.Check(err)
	for i := range count {
		chip, err := sim.NewChip("birthmark", first+i)
		ts.Check(err)
		ts.Check(w.Write(&manifest.Entry{UID: chip.UID, Keys: []manifest.Key{{Slot: "0", SPKI: chip.SPKI}}}))
	}
	ts.Check(w.Close())
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: maker.Signer()})
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), text, 0o600))
}
