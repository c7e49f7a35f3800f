package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/keystore/tpm"
)

// emulator is swtpm at a socket, which serves one connection at a time.
type emulator struct {
	t      *testing.T
	dir    string
	socket string
	cmd    *exec.Cmd
}

func newEmulator(t *testing.T) *emulator {
	t.Helper()
	needs.Command(t, "swtpm")
	needs.Command(t, "tpm2_create")
	dir, err := os.MkdirTemp("", "tpm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e := &emulator{t: t, dir: dir, socket: filepath.Join(dir, "socket")}
	t.Cleanup(e.stop)
	return e
}

// start starts swtpm.
func (e *emulator) start() {
	e.t.Helper()
	e.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+e.dir, "--server", "type=unixio,path="+e.socket,
		"--ctrl", "type=unixio,path="+e.socket+".ctrl", "--flags", "not-need-init,startup-clear")
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	for begin := time.Now(); ; {
		// The socket is there a moment before anybody listens at it.
		if c, err := net.Dial("unix", e.socket); err == nil {
			_ = c.Close() // swtpm waits for the next
			return
		}
		if time.Since(begin) > time.Minute {
			e.t.Fatal("swtpm does not start")
		}
	}
}

func (e *emulator) stop() {
	if e.cmd == nil {
		return
	}
	_ = e.cmd.Process.Kill() // it may have ended
	_ = e.cmd.Wait()
	_ = os.Remove(e.socket)
	e.cmd = nil
}

// forget ends swtpm and makes it another TPM.
func (e *emulator) forget() {
	e.stop()
	_ = os.Remove(filepath.Join(e.dir, "tpm2-00.permall")) // there may be none yet
}

// tool runs a program of tpm2-tools. It talks to the TPM alone: there is no
// resource manager in between.
func (e *emulator) tool(name string, args ...string) {
	e.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+e.socket)
	if text, err := cmd.CombinedOutput(); err != nil {
		e.t.Fatalf("%s %v: %v\n%s", name, args, err, text)
	}
}

// make makes a key as docs/operate/hsm.md says.
func (e *emulator) make(algorithm, attributes, handle string, more ...string) {
	e.t.Helper()
	e.start()
	for _, step := range [][]string{
		{"tpm2_createprimary", "-Q", "-C", "o", "-c", "primary.ctx"},
		append([]string{"tpm2_create", "-Q", "-C", "primary.ctx", "-G", algorithm, "-a", attributes, "-u", "key.pub", "-r", "key.priv"}, more...),
		{"tpm2_flushcontext", "-t"},
		{"tpm2_load", "-Q", "-C", "primary.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx"},
		{"tpm2_flushcontext", "-t"},
		{"tpm2_evictcontrol", "-Q", "-C", "o", "-c", "key.ctx", handle},
		{"tpm2_flushcontext", "-t"},
	} {
		e.tool(step[0], step[1:]...)
	}
}

const signing = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"

func (e *emulator) config(auth string) tpm.Config {
	return tpm.Config{Path: "unix:" + e.socket, Handle: 0x81010020, Auth: func() ([]byte, error) { return []byte(auth), nil }}
}

func TestKeysInATPMSign(t *testing.T) {
	e := newEmulator(t)
	for _, algorithm := range []string{"ecc256:ecdsa", "rsa2048:rsassa", "ecc384"} {
		e.forget()
		e.make(algorithm, signing, "0x81010020")
		key, err := tpm.Open(t.Context(), e.config(""))
		if err != nil {
			t.Fatal(algorithm, err)
		}
		hash := crypto.SHA256
		if algorithm == "ecc384" {
			hash = crypto.SHA384
		}
		digest := make([]byte, hash.Size())
		if _, err := rand.Read(digest); err != nil {
			t.Fatal(err)
		}
		sign := func() {
			t.Helper()
			signature, err := key.Sign(t.Context(), digest, hash)
			if err != nil {
				t.Fatal(algorithm, err)
			}
			switch public := key.Public().(type) {
			case *ecdsa.PublicKey:
				if !ecdsa.VerifyASN1(public, digest, signature) {
					t.Error(algorithm, "does not verify")
				}
			case *rsa.PublicKey:
				if err := rsa.VerifyPKCS1v15(public, hash, digest, signature); err != nil {
					t.Error(algorithm, err)
				}
			}
		}
		sign()
		// The TPM's connection ends, as after a restart of its resource manager.
		e.stop()
		if _, err := key.Sign(t.Context(), digest, hash); !fault.Has(err, fault.TPMUnreachable) {
			t.Errorf("without a TPM: %v", err)
		}
		e.start()
		sign()
		key.Close()
		e.stop()
	}
}

func TestATPMKeyThatIsNotForUsIsRefused(t *testing.T) {
	e := newEmulator(t)
	e.make("ecc256:ecdsa", signing, "0x81010020", "-p", "right")
	key, err := tpm.Open(t.Context(), e.config("wrong"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Sign(t.Context(), make([]byte, 32), crypto.SHA256); !fault.Has(err, fault.TokenPIN) {
		t.Errorf("a wrong authorization: %v", err)
	}
	key.Close()
	c := e.config("")
	c.Handle = 0x81010021
	if _, err := tpm.Open(t.Context(), c); !fault.Has(err, fault.TokenKey) {
		t.Errorf("no key at the handle: %v", err)
	}
	e.forget()
	e.make("ecc256:ecdsa-sha256:null", signing+"|restricted", "0x81010020")
	if _, err := tpm.Open(t.Context(), e.config("")); !fault.Has(err, fault.TokenKey) {
		t.Errorf("a restricted key: %v", err)
	}
	if _, err := tpm.ParseHandle("0x01010020"); !fault.Has(err, fault.KeyURI) {
		t.Errorf("a handle that is not persistent: %v", err)
	}
}
