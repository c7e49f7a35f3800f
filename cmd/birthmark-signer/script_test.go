package main

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/keystore/pkcs11/softhsmtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"birthmark-signer": main})
}

// TestScripts runs what a user would type, with Go alone.
func TestScripts(t *testing.T) {
	needs.Linux(t)
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true, Cmds: commands})
}

// TestSoftHSM runs the steps of docs/operate/hsm.md with the build that has
// PKCS #11, a server and SoftHSM.
func TestSoftHSM(t *testing.T) {
	needs.Linux(t)
	needs.Time(t)
	needs.Command(t, "cc")
	h := softhsmtest.New(t, "another") // the script makes its own token
	bin := t.TempDir()
	build(t, filepath.Join(bin, "birthmark"), "../birthmark")
	build(t, filepath.Join(bin, "birthmark-signer"), "-tags", "pkcs11", ".")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/hsm", RequireExplicitExec: true, Cmds: commands,
		Setup: func(e *testscript.Env) error {
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
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("DATA", filepath.Join(e.Cd, "data"))
			e.Setenv("SOFTHSM2_CONF", h.Config)
			e.Setenv("XDG_RUNTIME_DIR", "")
			path := filepath.Join(e.Cd, "signer.yaml")
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			filled := os.Expand(string(text), func(name string) string {
				return map[string]string{"UID": strconv.Itoa(os.Getuid()), "MODULE": h.Module}[name]
			})
			return os.WriteFile(path, []byte(filled), 0o600)
		},
	})
}

func build(t *testing.T, out string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), needs.Command(t, "go"), append([]string{"build", "-o", out}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %v: %v\n%s", args, err, text)
	}
}

// patience is how long something may take to be there.
const patience = time.Minute

var commands = map[string]func(*testscript.TestScript, bool, []string){
	// listening SOCKET waits until somebody answers there.
	"listening": func(ts *testscript.TestScript, _ bool, args []string) {
		await(ts, func() bool {
			c, err := net.Dial("unix", ts.MkAbs(args[0]))
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	},
	// ready waits for the server.
	"ready": func(ts *testscript.TestScript, _ bool, _ []string) {
		await(ts, func() bool {
			resp, err := http.Get("http://" + ts.Getenv("STATUS") + "/readyz")
			if err == nil {
				_ = resp.Body.Close()
			}
			return err == nil && resp.StatusCode == http.StatusOK
		})
	},
	// interrupt NAME tells a program in the background to end.
	"interrupt": func(ts *testscript.TestScript, _ bool, args []string) {
		for _, c := range ts.BackgroundCmds() {
			if filepath.Base(c.Path) == map[string]string{"server": "birthmark", "signer": "birthmark-signer"}[args[0]] {
				ts.Check(c.Process.Signal(syscall.SIGTERM))
			}
		}
	},
}

func await(ts *testscript.TestScript, ok func() bool) {
	for begin := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > patience {
			ts.Fatalf("it is not there after %s", patience)
		}
	}
}
