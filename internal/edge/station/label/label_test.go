package label_test

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/edge/station/label"
	"github.com/birthmark/birthmark/internal/needs"
)

func TestTextIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		l := label.Of(rapid.String().Draw(r, "serial"), rapid.String().Draw(r, "product"), []byte("certificate"))
		got, err := label.Parse(l.Text())
		if err != nil || got != l {
			r.Errorf("%q: %+v, %v", l.Text(), got, err)
		}
		if strings.Trim(l.Text(), "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 $%*+-./:") != "" {
			r.Errorf("%q has characters beyond the alphanumeric mode", l.Text())
		}
	})
}

func FuzzParse(f *testing.F) {
	l := label.Of("SN-1", "sensor", nil)
	f.Add(l.Text())
	f.Add("BM1:%:x:")
	f.Fuzz(func(t *testing.T, text string) {
		if l, err := label.Parse(text); err == nil && l.Text() != text {
			t.Errorf("%q is read as %+v", text, l)
		}
	})
}

// TestSVGIsWellFormed whatever the serial is, and has the three finder patterns'
// size in its view box.
func TestSVGIsWellFormed(t *testing.T) {
	for _, name := range []string{"SN-0001", `<script>&"'`, "", "Gerät 7", "\x1b[2J"} {
		l := label.Of(name, "sensor", []byte("certificate"))
		svg, err := l.SVG()
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(strings.NewReader(string(svg)))
		paths := 0
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			start, ok := token.(xml.StartElement)
			if ok && start.Name.Local == "script" {
				t.Errorf("%q brings an element of its own", name)
			}
			if ok && start.Name.Local == "path" {
				paths++
			}
		}
		// The upper edge of the left finder pattern is seven dark modules at the margin.
		if paths != 1 || !strings.Contains(string(svg), `d="M4 4h7v1h-7z`) {
			t.Errorf("%q: no code is drawn", name)
		}
	}
	long := label.Of(strings.Repeat("x", 5000), "p", nil)
	if _, err := long.SVG(); err == nil {
		t.Error("a label too long was drawn")
	}
}

func TestCodeIsReadByOthers(t *testing.T) {
	zbar, convert := needs.Command(t, "zbarimg"), needs.Command(t, "rsvg-convert")
	l := label.Of("SN-0001/ä", "sensor 2", []byte("certificate"))
	svg, err := l.SVG()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "l.svg"), svg, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), convert, "-w", "800", "-o", filepath.Join(dir, "l.png"), filepath.Join(dir, "l.svg")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), zbar, "--raw", "-q", filepath.Join(dir, "l.png")).Output()
	if err != nil || strings.TrimSpace(string(out)) != l.Text() {
		t.Errorf("%q, %v", out, err)
	}
}
