package serialline

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/needs"
)

// sources is where the device's side is.
const sources = "../../c"

var strict = []string{"-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"}

// compile builds a program of the device's side with every check that the
// compiler has, and returns its path.
func compile(t testing.TB, program string) string {
	t.Helper()
	cc := needs.Command(t, "cc")
	sanitize := []string{"-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"}
	empty := filepath.Join(t.TempDir(), "empty.c")
	if err := os.WriteFile(empty, []byte("int main(void) { return 0; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	try := exec.CommandContext(t.Context(), cc, append(sanitize, "-o", empty+".out", empty)...)
	needs.Need(t, "a C compiler with -fsanitize=address,undefined", try.Run() == nil)

	for _, name := range []string{program + ".c", "bm_line.c", "bm_line.h"} {
		// The compiler's reading is hidden from the go command, which would take an
		// old result for a new one.
		if _, err := os.ReadFile(filepath.Join(sources, name)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), program)
	args := slices.Concat(strict, sanitize, []string{
		"-o", path, filepath.Join(sources, program+".c"), filepath.Join(sources, "bm_line.c"),
	})
	if out, err := exec.CommandContext(t.Context(), cc, args...).CombinedOutput(); err != nil {
		t.Fatalf("cc %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return path
}

// pty returns a pseudo terminal: the master's end, and the name of the other,
// which is a serial line to whoever opens it.
func pty(t *testing.T) (*os.File, string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	needs.Need(t, "pseudo terminals (/dev/ptmx)", err == nil)
	t.Cleanup(func() { _ = master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var failed error
	err = raw.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			number, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return master, fmt.Sprintf("/dev/pts/%d", number)
}

// cable copies what one end says to the other and spoils some of it: every so
// many octets one is lost, doubled or changed, and now and then a stretch.
func cable(to io.Writer, from io.Reader, spoil *mathrand.Rand, every int) {
	buf := make([]byte, 256)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		var out []byte
		for _, c := range buf[:n] {
			if every == 0 || spoil.IntN(every) != 0 {
				out = append(out, c)
				continue
			}
			switch spoil.IntN(5) {
			case 0: // lost
			case 1:
				out = append(out, c, c)
			case 2:
				out = append(out, c^1<<spoil.IntN(8))
			case 3:
				out = append(out, '\n')
			case 4: // a whole line comes twice
				out = append(out, out...)
			}
		}
		if _, err := to.Write(out); err != nil {
			return
		}
	}
}

// opener opens the station's end of a line.
type opener func(name string, baud int) (io.ReadWriteCloser, error)

// simulate runs device_sim behind a pseudo terminal; the cable to it has this
// quality.
func simulate(t *testing.T, every int, args ...string) opener {
	t.Helper()
	program := compile(t, "device_sim")
	station, name := pty(t)
	device, tty := pty(t)
	run := exec.CommandContext(t.Context(), program, slices.Concat([]string{"-t", tty}, args)...)
	var stderr bytes.Buffer
	run.Stderr = &stderr
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = run.Wait()
		if stderr.Len() > 0 {
			t.Errorf("the device said: %s", &stderr)
		}
	})
	go cable(station, device, mathrand.New(mathrand.NewPCG(3, 4)), every)
	return func(_ string, baud int) (io.ReadWriteCloser, error) {
		port, err := Open(name, baud)
		// A terminal that nobody has open is at its end for the one who reads.
		go cable(device, station, mathrand.New(mathrand.NewPCG(1, 2)), every)
		return port, err
	}
}

// begin opens the unit in a nest.
func begin(t *testing.T, open opener, job fixture.Job) fixture.Unit {
	t.Helper()
	a, err := NewAdapter(AdapterConfig{
		Ports: map[string]string{job.Nest: "line"}, Random: rand.Reader, Open: open,
		Timing: Timing{Resend: 40 * time.Millisecond, Line: 20 * time.Second, Work: 20 * time.Second, Pause: time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	u, err := a.Open(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestDeviceInC(t *testing.T) {
	for name, every := range map[string]int{"good cable": 0, "bad cable": 400} {
		t.Run(name, func(t *testing.T) {
			line := simulate(t, every, "-c", t.TempDir())
			u := begin(t, line, fixture.Job{Nest: "3", DeviceSerial: "SN-0001", KeyModel: "injected"})
			id, err := u.Identify(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if id.ChipUID != "0123456789abcdef01" || id.ChipVendor != "birthmark" || len(id.Recipient) != 2048 {
				t.Errorf("the device is %+v", id)
			}
			csr, err := u.Request(t.Context())
			if err != nil || !bytes.HasPrefix(csr, []byte("request SN-0001")) || len(csr) != 700 {
				t.Fatalf("request %d octets: %v", len(csr), err)
			}
			digest := sha256.Sum256([]byte("statement"))
			if sig, err := u.Prove(t.Context(), fixture.Statement{Digest: digest}); err != nil || !bytes.HasPrefix(sig, append([]byte("proof "), digest[:]...)) {
				t.Errorf("proof %x: %v", sig, err)
			}
			certificate := make([]byte, 1500)
			_, _ = rand.Read(certificate)
			err = u.Install(t.Context(), fixture.Credential{
				Certificate: certificate, Chain: [][]byte{certificate[:700], certificate[:500]},
				Wrapped: certificate[:1000], Form: fixture.FormPKCS12, Password: "secret",
			})
			if err != nil {
				t.Fatal(err)
			}
			if back, err := u.ReadBack(t.Context()); err != nil || !bytes.Equal(back, certificate) {
				t.Errorf("read back %d octets: %v", len(back), err)
			}
			if sig, err := u.Confirm(t.Context(), fixture.Statement{Digest: digest}); err != nil || !bytes.HasPrefix(sig, append([]byte("confirm "), digest[:]...)) {
				t.Errorf("confirmation %x: %v", sig, err)
			}
			resent := u.(*unit).Resent()
			if err := u.Close(true); err != nil {
				t.Error(err)
			}
			if every > 0 && resent == 0 { // without faults a busy machine alone decides
				t.Error("no request was sent again")
			}
		})
	}
}

func TestDeviceInCRefuses(t *testing.T) {
	line := simulate(t, 0, "-c", t.TempDir())
	u := begin(t, line, fixture.Job{Nest: "3"})
	defer func() { _ = u.Close(false) }()
	if _, err := u.ReadBack(t.Context()); !fault.Has(err, fault.FixtureFailed) || !strings.Contains(err.Error(), "0003") {
		t.Errorf("a certificate that is not there: %v", err)
	}
	if err := u.Install(t.Context(), fixture.Credential{Certificate: make([]byte, 2049)}); !fault.Has(err, fault.FixtureFailed) {
		t.Errorf("a certificate that is too long: %v", err)
	}
	d := u.(*unit).Device
	if _, err := d.Request(t.Context(), strings.Repeat("S", 65)); !fault.Has(err, fault.FixtureProtocol) {
		t.Errorf("a device serial that is too long: %v", err)
	}
	if _, err := d.read(t.Context(), 0); !fault.Has(err, fault.FixtureProtocol) {
		t.Errorf("reading where nothing is: %v", err)
	}
}

func TestDeviceInCWithKeys(t *testing.T) {
	needs.OpenSSL(t)
	dir := t.TempDir()
	line := simulate(t, 2000, dir)
	u := begin(t, line, fixture.Job{Nest: "1", DeviceSerial: "SN1", KeyModel: "pre-provisioned"})
	id, err := u.Identify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	der, err := u.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || csr.CheckSignature() != nil {
		t.Fatalf("the device's request: %v, %v", err, csr.CheckSignature())
	}
	again, err := u.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if second, err := x509.ParseCertificateRequest(again); err != nil || !csr.PublicKey.(*ecdsa.PublicKey).Equal(second.PublicKey) {
		t.Errorf("a device that was not confirmed has made another key: %v", err)
	}

	nonce := make([]byte, 32)
	digest := proof.Chip(nonce, "PO-1", "SN1", csr.RawSubjectPublicKeyInfo)
	sig, err := u.Prove(t.Context(), fixture.Statement{Digest: digest})
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.Verify(id.SPKI, digest, sig, fault.ChipProof); err != nil {
		t.Errorf("the chip's proof: %v", err)
	}
	certificate := []byte("any octets serve as a certificate here")
	if err := u.Install(t.Context(), fixture.Credential{Certificate: certificate}); err != nil {
		t.Fatal(err)
	}
	back, err := u.ReadBack(t.Context())
	if err != nil || !bytes.Equal(back, certificate) {
		t.Fatalf("read back %q: %v", back, err)
	}
	digest = proof.Confirm(nonce, "SN1", back)
	if sig, err = u.Confirm(t.Context(), fixture.Statement{Digest: digest}); err != nil {
		t.Fatal(err)
	}
	if err := proof.Verify(csr.RawSubjectPublicKeyInfo, digest, sig, fault.ReadBackWrong); err != nil {
		t.Errorf("the confirmation: %v", err)
	}
	if err := u.Close(true); err != nil {
		t.Fatal(err)
	}
	locked := begin(t, line, fixture.Job{Nest: "1"})
	defer func() { _ = locked.Close(false) }()
	if _, err := locked.Request(t.Context()); !fault.Has(err, fault.FixtureFailed) {
		t.Errorf("a confirmed device makes another request: %v", err)
	}
}

// The canned device is busy twice before it answers: a request that comes three
// times with one number is one question.
func TestDeviceInCWorksOnce(t *testing.T) {
	run := exec.CommandContext(t.Context(), compile(t, "device_sim"), "-c", t.TempDir())
	hello := appendFrame(nil, frame{to: toDevice, seq: 9, verb: "HELLO", fields: []string{"01", encode(make([]byte, 8))}})
	csr := func(seq uint16) []byte {
		return appendFrame(nil, frame{to: toDevice, seq: seq, verb: "CSR", fields: []string{"-"}})
	}
	stale := appendFrame(nil, frame{to: toDevice, seq: 7, verb: "ABORT"})
	run.Stdin = bytes.NewReader(slices.Concat(csr(10), hello, csr(10), csr(10), hello, stale, csr(10), csr(11), csr(13), csr(12), csr(12)))
	out, err := run.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	split := splitter{to: toStation}
	split.feed(out, func(f frame) {
		got = append(got, fmt.Sprintf("%d %s %s", f.seq, f.verb, strings.Join(f.fields[:min(1, len(f.fields))], "")))
	})
	want := []string{
		"10 ERR SEQ", // before there is a session
		"9 OK 01",
		"10 BUSY ", "10 BUSY ",
		"9 ERR SEQ", // the session's beginning, late
		"7 ERR SEQ",
		"10 BUSY ", // still the newest
		"11 BUSY ",
		"13 ERR SEQ",
		"12 OK 02bc", "12 OK 02bc",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the device answered\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What a small microcontroller has to bring along is two functions and the
// struct.
func TestDeviceInCIsFreestanding(t *testing.T) {
	cc, nm := needs.Command(t, "cc"), needs.Command(t, "nm")
	object := filepath.Join(t.TempDir(), "bm_line.o")
	args := slices.Concat(strict, []string{"-Wconversion", "-Wshadow", "-ffreestanding", "-Os", "-c", "-o", object, filepath.Join(sources, "bm_line.c")})
	if out, err := exec.CommandContext(t.Context(), cc, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), nm, "-u", object).Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(strings.ReplaceAll(string(out), " U ", " ")) {
		if !slices.Contains([]string{"memcpy", "memcmp"}, name) {
			t.Errorf("the library needs %s", name)
		}
	}
}

// harness is line_fuzz while it runs.
type harness struct {
	in     io.WriteCloser
	out    io.Reader
	stderr bytes.Buffer
	size   uint32
}

func startHarness(t testing.TB) *harness {
	t.Helper()
	h := &harness{}
	run := exec.CommandContext(context.WithoutCancel(t.Context()), compile(t, "line_fuzz")) // ends with its input
	run.Stderr = &h.stderr
	in, err := run.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.in, h.out = in, out
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := run.Wait(); err != nil {
			t.Errorf("the device's parser: %v\n%s", err, &h.stderr)
		}
	})
	if err := binary.Read(out, binary.BigEndian, &h.size); err != nil {
		t.Fatal(err)
	}
	return h
}

// answers feeds a fresh line and returns what it transmits.
func (h *harness) answers(t *testing.T, input []byte) []byte {
	t.Helper()
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(input))), input...)
	if _, err := h.in.Write(frame); err != nil {
		t.Fatalf("the device's parser is gone: %v\n%s", err, &h.stderr)
	}
	var n uint32
	if err := binary.Read(h.out, binary.BigEndian, &n); err != nil {
		t.Fatalf("the device's parser fell over %q: %v\n%s", input, err, &h.stderr)
	}
	out := make([]byte, n)
	if _, err := io.ReadFull(h.out, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMemoryOfTheDeviceInC(t *testing.T) {
	if size := startHarness(t).size; size > 2560 {
		t.Errorf("struct bm_line has %d octets, docs/protocols/serial.md promises 2560", size)
	}
}

// checkAnswers holds the device's parser to what the station's says of the same
// octets: each whole request gets one answer with its number, anything else
// none.
func checkAnswers(t *testing.T, h *harness, input []byte) {
	t.Helper()
	var want []uint16
	requests := splitter{to: toDevice}
	requests.feed(input, func(f frame) {
		if f.verb != "HELLO" || helloIsGood(f) {
			want = append(want, f.seq)
		}
	})
	out := h.answers(t, input)
	var got []uint16
	var rendered []byte
	answers := splitter{to: toStation}
	answers.feed(out, func(f frame) {
		got = append(got, f.seq)
		rendered = appendFrame(rendered, f)
	})
	if !bytes.Equal(rendered, out) {
		t.Errorf("%q was answered with what is no frame: %q", input, out)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q: requests %d, answers to %d", input, want, got)
	}
}

func helloIsGood(f frame) bool {
	if len(f.fields) != 2 {
		return false
	}
	_, ok := parseHex(f.fields[0], 2)
	session, err := decode(f.fields[1])
	return ok && err == nil && len(session) == 8
}

// session is a stream of requests in step, as a fuzzer would hardly find one.
func session(requests ...[]string) []byte {
	out := appendFrame(nil, frame{to: toDevice, seq: 0xfffe, verb: "HELLO", fields: []string{"01", encode([]byte("8 octets"))}})
	for i, r := range requests {
		out = appendFrame(out, frame{to: toDevice, seq: uint16(0xffff + i), verb: r[0], fields: r[1:]})
	}
	return out
}

// mutate is the seed's requests with damage inside good lines: wrong fields, with
// a CRC that is right.
func mutate(r *mathrand.Rand) []byte {
	words := []string{
		"HELLO", "IDENT", "CSR", "KEY", "RECIPIENT", "PROVE", "DATA", "INSTALL", "READ", "READBACK", "CONFIRM", "DONE",
		"ABORT", "NOSUCH", "-", "0000", "0060", "0800", "07ff", "ffff", "01", "CERT", "CHAIN", "KEY", "PASSWORD",
		encode(make([]byte, 8)), encode(make([]byte, 32)), encode(make([]byte, 33)), encode(make([]byte, maxChunk)),
		encode(bytes.Repeat([]byte{'F'}, 64)), encode([]byte("Busy")), "====", "A", "AB", "AAB", "00000000",
	}
	var requests [][]string
	for range r.IntN(40) {
		request := []string{words[r.IntN(14)]}
		for range r.IntN(5) {
			request = append(request, words[r.IntN(len(words))])
		}
		requests = append(requests, request)
	}
	out := session(requests...)
	if r.IntN(4) == 0 && len(out) > 0 {
		out[r.IntN(len(out))] = byte(r.IntN(256))
	}
	return out
}

// Answers as they are documented, to what is almost right.
func TestFieldsOfTheDeviceInC(t *testing.T) {
	h := startHarness(t)
	for _, test := range []struct {
		request []string
		want    string
	}{
		{[]string{"READ", "0000"}, "OK 0000 WlpaWlpaWlpa"},
		{[]string{"READ", "0800"}, "OK 0800 - "},
		{[]string{"READ", "0801"}, "ERR STATE "},
		{[]string{"READ", "00A0"}, "ERR FORM "},
		{[]string{"READ", "0000", "0000"}, "ERR FORM "},
		{[]string{"read", "0000"}, "ERR VERB "},
		{[]string{"DATA", "0000", "AB"}, "ERR FORM "}, // bits that no octet has
		{[]string{"DATA", "0000", "A"}, "ERR FORM "},
		{[]string{"DATA", "0000", "AA=="}, "ERR FORM "},
		{[]string{"DATA", "0000", encode(make([]byte, 97))}, "ERR FORM "},
		{[]string{"DATA", "0001", "AA"}, "ERR STATE "},
		{[]string{"INSTALL", "CERT", "0000", "00000000"}, "ERR STATE "},
		{[]string{"PROVE", encode(make([]byte, 31))}, "ERR FORM "},
		{[]string{"CSR", encode([]byte("F"))}, "ERR FAIL 0007 "},
		{[]string{"CSR", encode([]byte("a\nb"))}, "ERR FORM "},
	} {
		out := string(h.answers(t, session([]string{"KEY"}, test.request)))
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if got := lines[len(lines)-1]; !strings.HasPrefix(got, "<0000 "+test.want) {
			t.Errorf("%v is answered with %q, want %q", test.request, got, test.want)
		}
	}
	for _, sum := range []string{"0003 00000000", "0002 ff41d912"} {
		fields := append([]string{"INSTALL", "CERT"}, strings.Fields(sum)...)
		if out := string(h.answers(t, session([]string{"DATA", "0000", "AAAA"}, fields))); !strings.Contains(out, "ERR SUM") {
			t.Errorf("%s is answered with %q", sum, out)
		}
	}
}

func TestHostileRequests(t *testing.T) {
	h := startHarness(t)
	r := mathrand.New(mathrand.NewPCG(5, 6))
	for range 5000 {
		checkAnswers(t, h, mutate(r))
	}
}

// A transfer that fills the device's memory to the last octet, and one more.
func TestTransferToTheBrim(t *testing.T) {
	h := startHarness(t)
	var requests [][]string
	full := make([]byte, 2048)
	for offset := 0; offset < len(full); offset += maxChunk {
		piece := full[offset:min(len(full), offset+maxChunk)]
		requests = append(requests, []string{"DATA", fmt.Sprintf("%04x", offset), encode(piece)})
	}
	requests = append(requests, []string{"DATA", "0800", "AA"})
	out := string(h.answers(t, session(requests...)))
	if !strings.Contains(out, " OK 0800 ") || !strings.Contains(out, " ERR ROOM ") {
		t.Errorf("the device answered\n%s", out)
	}
	checkAnswers(t, h, session(requests...))
}

func FuzzDeviceInC(f *testing.F) {
	f.Add(session([]string{"IDENT"}, []string{"READ", "0000"}, []string{"CSR", "-"}, []string{"READ", "0060"}))
	f.Add(session([]string{"DATA", "0000", "AAAA"}, []string{"INSTALL", "CERT", "0003", "ff41d912"}))
	f.Add([]byte(">>0001\x00\xff\r\n"))
	h := startHarness(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) < 1<<16 {
			checkAnswers(t, h, input)
		}
	})
}
