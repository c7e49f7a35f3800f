package main

import (
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/needs"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"birthmark": main})
}

// TestScripts runs what a user would type, with Go alone.
func TestScripts(t *testing.T) {
	needs.Unix(t)
	runScripts(t, "testdata/script")
}

// TestForeignScripts runs the road with other people's programs.
func TestForeignScripts(t *testing.T) {
	needs.OpenSSL(t)
	needs.Curl(t)
	runScripts(t, "testdata/foreign")
}

// TestStrongSwanScripts enrolls with strongSwan's EST client.
func TestStrongSwanScripts(t *testing.T) {
	needs.OpenSSL(t)
	needs.Command(t, "pki")
	runScripts(t, "testdata/strongswan")
}

// TestTPM2ToolsScripts enrolls a key in a TPM with tpm2-tools.
func TestTPM2ToolsScripts(t *testing.T) {
	needs.OpenSSL(t)
	for _, program := range []string{"curl", "jq", "tpm2_activatecredential"} {
		needs.Command(t, program)
	}
	maker, chips := tpmtest.Start(t, 1)
	anchors := filepath.Join(t.TempDir(), "maker.pem")
	if err := os.WriteFile(anchors, maker.Anchors(), 0o600); err != nil {
		t.Fatal(err)
	}
	runScripts(t, "testdata/tpm2tools", "TCTI="+chips[0].TCTI(), "MAKER="+anchors)
}

func runScripts(t *testing.T, dir string, environment ...string) {
	t.Helper()
	setup := func(e *testscript.Env) error {
		e.Vars = append(e.Vars, environment...)
		return scriptSetup(e)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir, RequireExplicitExec: true, Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready": scriptReady, "term": scriptTerm, "kill9": scriptKill, "jsonfield": scriptJSONField,
			"certserial": scriptCertSerial, "sql": scriptSQL, "served": scriptServed,
			"unset": func(ts *testscript.TestScript, _ bool, args []string) { ts.Setenv(args[0], "") },
		},
	})
}

// scriptSetup gives each script free addresses and keeps the user's settings
// out.
func scriptSetup(e *testscript.Env) error {
	for _, name := range []string{"DEVICE", "CONSOLE", "STATUS"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		e.Setenv(name, l.Addr().String())
		if err := l.Close(); err != nil {
			return err
		}
	}
	e.Setenv("LISTEN", "")
	e.Setenv("XDG_RUNTIME_DIR", "")
	e.Setenv("BIRTHMARK_DATA", e.Cd+"/data")
	e.Setenv("BIRTHMARK_DEVICE_LISTEN", e.Getenv("DEVICE"))
	e.Setenv("BIRTHMARK_CONSOLE_LISTEN", e.Getenv("CONSOLE"))
	e.Setenv("BIRTHMARK_STATUS_LISTEN", e.Getenv("STATUS"))
	return nil
}

// scriptReady is "ready": waits until the status listener says so.
func scriptReady(ts *testscript.TestScript, _ bool, _ []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ts.Getenv("STATUS")+"/readyz", nil)
		ts.Check(err)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close() // nothing of it was read
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("the server is not ready")
		case <-ticker.C:
		}
	}
}

// scriptServed is "served FILE": waits until a background command has made it.
func scriptServed(ts *testscript.TestScript, _ bool, args []string) {
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
	}
	ts.Fatalf("%s does not come", args[0])
}

// scriptTerm is "term": tells the background commands to stop.
func scriptTerm(ts *testscript.TestScript, _ bool, _ []string) {
	for _, b := range ts.BackgroundCmds() {
		ts.Check(b.Process.Signal(syscall.SIGTERM))
	}
}

// scriptKill is "kill9": ends the background commands at once.
func scriptKill(ts *testscript.TestScript, _ bool, _ []string) {
	for _, b := range ts.BackgroundCmds() {
		ts.Check(b.Process.Kill())
	}
}

// scriptJSONField is "jsonfield FILE FIELD VARIABLE".
func scriptJSONField(ts *testscript.TestScript, _ bool, args []string) {
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &object))
	value, ok := object[args[1]]
	if !ok {
		ts.Fatalf("%s has no field %s", args[0], args[1])
	}
	ts.Setenv(args[2], fmt.Sprint(value))
}

// scriptCertSerial is "certserial FILE VARIABLE": the serial of a PEM
// certificate.
func scriptCertSerial(ts *testscript.TestScript, _ bool, args []string) {
	der, err := certificateDER([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	cert, err := x509.ParseCertificate(der)
	ts.Check(err)
	ts.Setenv(args[1], strings.ToUpper(cert.SerialNumber.Text(16)))
}

// scriptSQL is "sql FILE STATEMENT": what an intruder with the database's file
// would do.
func scriptSQL(ts *testscript.TestScript, _ bool, args []string) {
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	_, err = db.Exec(args[1])
	ts.Check(err)
}
