package tpm_test

import (
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// proxy stands between a program and its TPM and does something at one command.
type proxy struct {
	path string
	to   string

	mu     sync.Mutex
	count  int
	at     int // the command at which something happens; 0: never
	before func() bool
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{path: filepath.Join(t.TempDir(), "p"), to: to}
	l, err := net.Listen("unix", p.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("unix", p.to)
	if err != nil {
		return
	}
	defer up.Close()
	for {
		command, err := message(c)
		if err != nil || !p.passes() {
			return
		}
		if _, err := up.Write(command); err != nil {
			return
		}
		answer, err := message(up)
		if err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// passes counts a command and says whether it goes to the TPM.
func (p *proxy) passes() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	return p.count != p.at || p.before()
}

// set begins to count anew.
func (p *proxy) set(at int, before func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count, p.at, p.before = 0, at, before
}

func (p *proxy) commands() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

func message(r io.Reader) ([]byte, error) {
	head := make([]byte, 10)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	whole := make([]byte, binary.BigEndian.Uint32(head[2:]))
	copy(whole, head)
	_, err := io.ReadFull(r, whole[10:])
	return whole, err
}

// work is an enrollment with all that a TPM does for it.
func work(ctx context.Context, t *testing.T, path string) error {
	d, err := tpm.Open(ctx, tpm.Config{Path: path})
	if err != nil {
		return err
	}
	e, err := d.Endorsement(ctx)
	if err != nil {
		return err
	}
	ak, err := d.AttestationKey(ctx, "", 0)
	if err != nil {
		return err
	}
	key, err := d.NewKey(ctx, "", 0)
	if err != nil {
		return err
	}
	c := challenge(t, tpm.Claim(e, ak), make([]byte, 32), make([]byte, 32))
	c.Quote = &format.QuoteRequest{Bank: "sha256", PCRs: []int{0, 7}}
	if _, err := d.Answer(ctx, c, e, ak, key); err != nil {
		return err
	}
	_, err = d.Signer(ctx, key).Sign(nil, make([]byte, 32), crypto.SHA256)
	return err
}

// TestAWorkThatIsCalledOffLeavesNothingLoaded calls an enrollment off at each of
// its commands.
func TestAWorkThatIsCalledOffLeavesNothingLoaded(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	p := newProxy(t, all[0].Path)
	if err := work(t.Context(), t, p.path); err != nil {
		t.Fatal(err)
	}
	commands := p.commands()
	if commands < 20 {
		t.Fatalf("%d commands", commands)
	}
	direct := open(t, all[0].Path)
	for at := 1; at <= commands; at++ {
		ctx, cancel := context.WithCancel(t.Context())
		p.set(at, func() bool { cancel(); return true })
		err := work(ctx, t, p.path)
		cancel()
		// Called off while the last object was flushed it may be through.
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("called off at command %d: %v", at, err)
		}
		nothingLoaded(t, direct)
	}
}

// TestAConnectionThatBreaksLeavesNothingLoaded breaks the connection before each
// command of an enrollment.
func TestAConnectionThatBreaksLeavesNothingLoaded(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	p := newProxy(t, all[0].Path)
	if err := work(t.Context(), t, p.path); err != nil {
		t.Fatal(err)
	}
	commands := p.commands()
	direct := open(t, all[0].Path)
	for at := 1; at <= commands; at++ {
		p.set(at, func() bool { return false })
		// Broken while flushing, it may be through.
		if err := work(t.Context(), t, p.path); err != nil && !fault.Has(err, fault.TPMUnreachable) {
			t.Errorf("broken at command %d: %v", at, err)
		}
		nothingLoaded(t, direct)
	}
}

// TestAFullTPMIsSaidInWords fills the places for loaded objects.
func TestAFullTPMIsSaidInWords(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0].Path)
	fill(t, all[0].Path)
	_, err := d.AttestationKey(t.Context(), "", 0)
	if f := fault.Of(err); f.Code != fault.TPMFailed || !contains(f.Detail, "TPM2_CreatePrimary", "resource manager") {
		t.Errorf("%v", err)
	}
}

// TestNoTPMIsSaidInWords looks for TPMs where there are none.
func TestNoTPMIsSaidInWords(t *testing.T) {
	dir := t.TempDir()
	dead, err := net.Listen("unix", filepath.Join(dir, "dead"))
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = dead.Close()
	hostile, err := net.Listen("unix", filepath.Join(dir, "hostile"))
	if err != nil {
		t.Fatal(err)
	}
	defer hostile.Close()
	go func() {
		for {
			c, err := hostile.Accept()
			if err != nil {
				return
			}
			_, _ = message(c)
			_, _ = c.Write([]byte{0x80, 1, 0, 0, 0, 3, 0, 0, 0, 0})
			_ = c.Close()
		}
	}()
	for path, words := range map[string]string{
		filepath.Join(dir, "none"):    "no such file",
		filepath.Join(dir, "dead"):    "nobody listens",
		filepath.Join(dir, "hostile"): "the TPM",
		dir:                           "neither a device file nor a socket",
		"127.0.0.1:1":                 "nobody listens",
		"nonsense":                    "no such file",
	} {
		_, err := tpm.Open(t.Context(), tpm.Config{Path: path})
		f := fault.Of(err)
		if f.Code != fault.TPMUnreachable || !contains(f.Detail+" "+errors.Unwrap(f).Error(), words) {
			t.Errorf("%s: %v: %v", path, err, errors.Unwrap(f))
		}
	}
}

func contains(text string, words ...string) bool {
	for _, one := range words {
		if !strings.Contains(text, one) {
			return false
		}
	}
	return true
}

// fill loads as many keys as the TPM holds, and leaves them there.
func fill(t *testing.T, path string) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		_, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](format.StorageTemplate())}.Execute(transport.FromReadWriter(c))
		if err != nil {
			t.Fatal(err)
		}
	}
}
