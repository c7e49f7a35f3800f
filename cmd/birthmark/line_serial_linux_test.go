package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/birthmark/birthmark/internal/needs"
)

// TestSerialLineScripts provisions a device in C, with keys of openssl, at the end
// of a serial line.
func TestSerialLineScripts(t *testing.T) {
	needs.Time(t)
	needs.OpenSSL(t)
	cc := needs.Command(t, "cc")
	device := filepath.Join(t.TempDir(), "device_sim")
	const sources = "../../internal/edge/c/"
	build := exec.CommandContext(t.Context(), cc, "-std=c99", "-o", device, sources+"device_sim.c", sources+"bm_line.c")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	runLineScripts(t, "testdata/serial", map[string]func(*testscript.TestScript, bool, []string){
		"device": func(ts *testscript.TestScript, _ bool, args []string) { scriptDevice(ts, device, args[0], args[1]) },
	})
}

// scriptDevice is "device DIR VARIABLE": a device with its files in DIR, whose
// chip DIR/chips.csv lists, behind the serial line that VARIABLE names.
func scriptDevice(ts *testscript.TestScript, program, name, variable string) {
	dir := ts.MkAbs(name)
	ts.Check(os.Mkdir(dir, 0o700))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	der, err := x509.MarshalECPrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "chip.pem"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600))
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	ts.Check(err)
	list := "vendor,uid,chip_type,spki\nbirthmark,0123456789abcdef01,SIM-C," + base64.StdEncoding.EncodeToString(spki) + "\n"
	ts.Check(os.WriteFile(filepath.Join(dir, "chips.csv"), []byte(list), 0o600))

	station, stationTTY := pty(ts)
	far, deviceTTY := pty(ts)
	ctx, cancel := context.WithCancel(context.Background())
	run := exec.CommandContext(ctx, program, "-t", deviceTTY, dir)
	ts.Check(run.Start())
	go cable(ctx, far, station)
	go cable(ctx, station, far)
	ts.Defer(func() {
		cancel()
		_ = run.Wait()
		_ = station.Close()
		_ = far.Close()
	})
	ts.Setenv(variable, stationTTY)
}

// pty returns a pseudo terminal's master and the name of its other end.
func pty(ts *testscript.TestScript) (*os.File, string) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	raw, err := master.SyscallConn()
	ts.Check(err)
	var number int
	var failed error
	ts.Check(raw.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			number, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}))
	ts.Check(failed)
	return master, fmt.Sprintf("/dev/pts/%d", number)
}

// cable copies for as long as ctx lives: a terminal that nobody has open is at
// its end only for now.
func cable(ctx context.Context, to io.Writer, from io.Reader) {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		_, _ = io.Copy(to, from)
		<-ticker.C
	}
}
