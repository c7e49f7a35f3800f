package manifest_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest/manifesttest"
	"github.com/birthmark/birthmark/internal/needs"
)

var update = flag.Bool("update", false, "write the fixtures")

const bundleFile = "testdata/infineon/REEL1_v1.0.7z"

// opid returns the chip id of a simulated chip: ten octets.
func opid(m *manifesttest.Maker, i int64) string { return "CD" + strings.ToUpper(m.UID(i)) }

func optigaPEM(t testing.TB, m *manifesttest.Maker, i int64) string {
	t.Helper()
	cert, err := m.Certificate(i)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf(cert)
}

// writeBundle makes the fixture as Infineon's site does, with the 7-Zip program.
func writeBundle(t *testing.T, m *manifesttest.Maker) {
	zip, dir := needs.Command(t, "7zz"), t.TempDir()
	run := func(args ...string) {
		cmd := exec.CommandContext(t.Context(), zip, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for slot, name := range []string{"E0E0", "E0E1"} {
		for i := range int64(3) {
			write(opid(m, i)+"_"+name+".pem", optigaPEM(t, m, i+100*int64(slot)))
		}
		run("a", "REEL1_"+name+"_Certs.7z", "*_"+name+".pem")
	}
	write("REEL1_keys.csv", "chipID, secret\n")
	run("a", "-ptransport", "-mhe=on", "REEL1_keys.7z", "REEL1_keys.csv")
	write("README.txt", "Simulated reel.\n")
	run("a", "out.7z", "REEL1_E0E0_Certs.7z", "REEL1_E0E1_Certs.7z", "REEL1_keys.7z", "README.txt")
	if err := os.WriteFile(bundleFile, readFile(t, filepath.Join(dir, "out.7z")), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOPTIGABundleIsRead(t *testing.T) {
	m := maker(t)
	if *update {
		writeBundle(t, m)
	}
	o := options(m, manifest.Infineon)
	o.VendorRoots, o.TempDir = [][]byte{m.Issuing()}, t.TempDir()
	chips, summary, err := collect(t, bytes.NewReader(readFile(t, bundleFile)), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(chips) != 3 || summary.Keys != 6 {
		t.Fatalf("%d chips, %d keys", len(chips), summary.Keys)
	}
	for _, c := range chips {
		i := slices.IndexFunc([]int64{0, 1, 2}, func(i int64) bool { return strings.EqualFold(opid(m, i), c.UID) })
		if i < 0 || c.Vendor != "infineon" || len(c.Keys) != 2 || c.Keys[0].Slot != "e0e0" || c.Keys[1].Slot != "e0e1" {
			t.Fatalf("chip %s has %d keys", c.UID, len(c.Keys))
		}
		spki, err := m.SPKI(int64(i))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.Keys[0].SPKI, spki) || !c.Keys[0].VendorProof || !c.Keys[1].VendorProof {
			t.Errorf("chip %s: another key, or no proof", c.UID)
		}
	}
	if text := fmt.Sprint(summary.Findings); !strings.Contains(text, "secret keys is not read") || !strings.Contains(text, "file name alone") {
		t.Errorf("findings %s", text)
	}
	if left, err := os.ReadDir(o.TempDir); err != nil || len(left) != 0 {
		t.Errorf("%d temporary files are left, %v", len(left), err)
	}
}

// stored returns a 7z archive whose files are stored as they are. Tests change
// its header.
type stored struct {
	names, contents []string
	coder           []byte // id with its flag octet, and properties
	size            uint64 // claimed unpacked size, 0: the true one
	files           uint64 // claimed number of files, 0: the true one
}

func number(n uint64) []byte { return binary.LittleEndian.AppendUint64([]byte{0xff}, n) }

func (s stored) archive() []byte {
	body := []byte(strings.Join(s.contents, ""))
	if s.coder == nil {
		s.coder = []byte{0x01, 0x00}
	}
	if s.size == 0 {
		s.size = uint64(len(body))
	}
	if s.files == 0 {
		s.files = uint64(len(s.names))
	}
	h := slices.Concat([]byte{0x01, 0x04, 0x06, 0x00, 0x01, 0x09}, number(uint64(len(body))), []byte{0x00},
		[]byte{0x07, 0x0b, 0x01, 0x00, 0x01}, s.coder, []byte{0x0c}, number(s.size), []byte{0x00},
		[]byte{0x08, 0x0d}, number(uint64(len(s.names))))
	if len(s.contents) > 1 {
		h = append(h, 0x09)
		for _, c := range s.contents[:len(s.contents)-1] {
			h = append(h, number(uint64(len(c)))...)
		}
	}
	h = append(h, 0x0a, 0x01)
	for _, c := range s.contents {
		h = binary.LittleEndian.AppendUint32(h, crc32.ChecksumIEEE([]byte(c)))
	}
	h = append(h, 0x00, 0x00, 0x05)
	h = append(h, number(s.files)...)
	names := []byte{0x00}
	for _, name := range s.names {
		for _, u := range utf16.Encode([]rune(name + "\x00")) {
			names = binary.LittleEndian.AppendUint16(names, u)
		}
	}
	h = slices.Concat(h, []byte{0x11}, number(uint64(len(names))), names, []byte{0x00, 0x00})
	return sealed(body, h)
}

// sealed puts the signature header before body and header.
func sealed(body, header []byte) []byte {
	start := binary.LittleEndian.AppendUint64(nil, uint64(len(body)))
	start = binary.LittleEndian.AppendUint64(start, uint64(len(header)))
	start = binary.LittleEndian.AppendUint32(start, crc32.ChecksumIEEE(header))
	out := append([]byte("7z\xbc\xaf\x27\x1c\x00\x04"), binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(start))...)
	return slices.Concat(out, start, body, header)
}

func one(name, content string) stored {
	return stored{names: []string{name}, contents: []string{content}}
}

func TestHostileBundlesAreRefused(t *testing.T) {
	m := maker(t)
	pem := optigaPEM(t, m, 0)
	file := opid(m, 0) + "_E0E0.pem"
	inner := string(one(file, pem).archive())
	good := one("R_E0E0_Certs.7z", inner)
	with := func(s stored, change func(*stored)) []byte {
		change(&s)
		return s.archive()
	}
	nested := func(s stored) []byte { return one("R_E0E0_Certs.7z", string(s.archive())).archive() }
	for name, test := range map[string]struct {
		file []byte
		code fault.Code
	}{
		"nothing":           {nil, fault.ManifestFormat},
		"no archive":        {bytes.Repeat([]byte("x"), 100), fault.ManifestFormat},
		"cut off":           {good.archive()[:200], fault.ManifestFormat},
		"no chips":          {one("README", "x").archive(), fault.ManifestFormat},
		"path traversal":    {one("../R_E0E0_Certs.7z", inner).archive(), fault.ManifestLimit},
		"absolute path":     {one("/etc/x.pem", pem).archive(), fault.ManifestLimit},
		"unclean path":      {one("a/../R_E0E0_Certs.7z", inner).archive(), fault.ManifestLimit},
		"wrong digest":      {bytes.Replace(good.archive(), []byte("BEGIN"), []byte("BEGUN"), 1), fault.ManifestFormat},
		"backslashes":       {one(`..\x.pem`, pem).archive(), fault.ManifestLimit},
		"inner traversal":   {nested(one("a/../../"+file, pem)), fault.ManifestLimit},
		"third level":       {nested(one("R_E0E0_Certs.7z", inner)), fault.ManifestLimit},
		"other archive":     {one("more.7z", inner).archive(), fault.ManifestLimit},
		"claimed size":      {with(good, func(s *stored) { s.size = 1 << 40 }), fault.ManifestLimit},
		"claimed files":     {with(good, func(s *stored) { s.files = 1 << 31 }), fault.ManifestLimit},
		"too packed":        {with(good, func(s *stored) { s.size = 1 << 20 }), fault.ManifestLimit},
		"large dictionary":  {with(good, func(s *stored) { s.coder = []byte{0x21, 0x21, 1, 40} }), fault.ManifestLimit},
		"unknown coder":     {with(good, func(s *stored) { s.coder = []byte{0x03, 0x03, 0x04, 0x01} }), fault.ManifestLimit},
		"not a chip":        {nested(one("hello_E0E0.pem", pem)), fault.ManifestEntry},
		"unknown slot":      {nested(one(opid(m, 0)+"_F1D0.pem", pem)), fault.ManifestEntry},
		"not a certificate": {nested(one(file, "hello")), fault.ManifestEntry},
		"empty certificate": {nested(one(file, " ")), fault.ManifestEntry},
		"private key":       {nested(one(file, strings.ReplaceAll(pem, "CERTIFICATE", "PRIVATE KEY"))), fault.ManifestEntry},
		"large certificate": {nested(one(file, strings.Repeat(" ", 70<<10)+pem)), fault.ManifestLimit},
		"another file":      {nested(one("run.exe", pem)), fault.ManifestLimit},
		"slot twice":        {nested(stored{names: []string{file, strings.ToLower(file)}, contents: []string{pem, pem}}), fault.ManifestDuplicate},
		"key twice":         {nested(stored{names: []string{file, opid(m, 1) + "_E0E0.pem"}, contents: []string{pem, pem}}), fault.ManifestDuplicate},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(m, manifest.Infineon)
			o.TempDir = t.TempDir()
			_, _, err := collect(t, bytes.NewReader(test.file), o)
			refused(t, err, test.code)
			if left, err := os.ReadDir(o.TempDir); err != nil || len(left) != 0 {
				t.Errorf("%d temporary files are left, %v", len(left), err)
			}
		})
	}
	o := options(m, manifest.Infineon)
	o.TempDir = t.TempDir()
	if chips, _, err := collect(t, bytes.NewReader(good.archive()), o); err != nil || len(chips) != 1 {
		t.Errorf("the good bundle: %d chips, %v", len(chips), err)
	}
}

func TestDamagedBundlesAreRefused(t *testing.T) {
	file := readFile(t, bundleFile)
	o := options(maker(t), manifest.Infineon)
	o.TempDir = t.TempDir()
	good, _, err := collect(t, bytes.NewReader(file), o)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(file); i += 3 {
		broken := bytes.Clone(file)
		broken[i] ^= 0x10
		// An octet of what is not read may be changed: nothing here is signed.
		if chips, _, err := collect(t, bytes.NewReader(broken), o); err == nil && len(chips) != len(good) {
			t.Fatalf("octet %d was changed and %d chips are left", i, len(chips))
		}
	}
	for i := 0; i < len(file); i += 11 {
		if _, _, err := collect(t, bytes.NewReader(file[:i]), o); err == nil {
			t.Fatalf("the file was cut at octet %d and nobody saw it", i)
		}
	}
}
