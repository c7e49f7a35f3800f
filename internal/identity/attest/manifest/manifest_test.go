package manifest_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest/manifesttest"
)

var made = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func now() time.Time { return made.AddDate(0, 1, 0) }

func maker(t testing.TB) *manifesttest.Maker {
	t.Helper()
	m, err := manifesttest.New("Simulated Chips", made)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func pinned(der []byte) []manifest.Signer {
	return []manifest.Signer{{Fingerprint: sha256.Sum256(der), Certificate: der}}
}

// options pins the maker's signer and knows its root.
func options(m *manifesttest.Maker, f manifest.Format) manifest.Options {
	return manifest.Options{Format: f, Signers: pinned(m.Signer()), VendorRoots: [][]byte{m.Root()}, Now: now}
}

// collect imports and returns all chips.
func collect(t testing.TB, r io.Reader, o manifest.Options) ([]manifest.Chip, manifest.Summary, error) {
	t.Helper()
	var chips []manifest.Chip
	summary, err := manifest.Import(t.Context(), r, o, func(batch []manifest.Chip) error {
		chips = append(chips, batch...)
		return nil
	}, nil)
	return chips, summary, err
}

// refused demands a refusal with this code whose text has all the words.
func refused(t testing.TB, err error, code fault.Code, words ...string) {
	t.Helper()
	if !fault.Has(err, code) {
		t.Fatalf("got %v, want %s", err, code)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

func TestBirthmarkManifestIsReadInOrder(t *testing.T) {
	m, n := maker(t), int64(1000)
	var file bytes.Buffer
	if err := m.Write(&file, 5, n); err != nil {
		t.Fatal(err)
	}
	digest, size := sha256.Sum256(file.Bytes()), file.Len()
	chips, summary, err := collect(t, &file, options(m, manifest.Birthmark))
	if err != nil {
		t.Fatal(err)
	}
	if summary.Chips != n || summary.Keys != n || summary.NotProvable != 0 || summary.Digest != digest ||
		summary.Bytes != int64(size) || summary.Signer != sha256.Sum256(m.Signer()) || summary.Announced != n {
		t.Errorf("summary %+v", summary)
	}
	for i, c := range chips {
		spki, err := m.SPKI(5 + int64(i))
		if err != nil {
			t.Fatal(err)
		}
		if c.Entry != int64(i)+1 || c.UID != m.UID(5+int64(i)) || c.Vendor != m.Vendor() || c.ChipType != m.ChipType() ||
			len(c.Keys) != 1 || !bytes.Equal(c.Keys[0].SPKI, spki) {
			t.Fatalf("chip %d is %+v", i, c)
		}
	}
}

func TestBirthmarkManifestNeedsItsSignerPinned(t *testing.T) {
	m := maker(t)
	other, err := manifesttest.New("Somebody Else", made)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := m.Write(&file, 0, 3); err != nil {
		t.Fatal(err)
	}
	chips, _, err := collect(t, bytes.NewReader(file.Bytes()), options(other, manifest.Birthmark))
	refused(t, err, fault.ManifestSigner, "fingerprint")
	if len(chips) != 0 {
		t.Errorf("%d chips came out before the signer was known", len(chips))
	}
}

func TestAnyFlippedOctetOfABirthmarkManifestIsRefused(t *testing.T) {
	m := maker(t)
	var file bytes.Buffer
	if err := m.Write(&file, 0, 2); err != nil {
		t.Fatal(err)
	}
	o := options(m, manifest.Birthmark)
	// Package format/manifest tries each bit.
	for i := 0; i < file.Len(); i += 3 {
		for _, mask := range []byte{0x01, 0x20, 0x80} {
			broken := bytes.Clone(file.Bytes())
			broken[i] ^= mask
			if _, _, err := collect(t, bytes.NewReader(broken), o); err == nil {
				t.Fatalf("octet %d (%q to %q) was changed and nobody saw it", i, file.Bytes()[i], broken[i])
			}
		}
	}
	for i := 0; i < file.Len(); i += 3 {
		if _, _, err := collect(t, bytes.NewReader(file.Bytes()[:i]), o); err == nil {
			t.Fatalf("the file was cut at octet %d and nobody saw it", i)
		}
	}
}

func TestCSVIsReadAndMarkedUnsigned(t *testing.T) {
	m := maker(t)
	var file bytes.Buffer
	if err := m.WriteCSV(&file, 0, 600); err != nil {
		t.Fatal(err)
	}
	chips, summary, err := collect(t, &file, options(m, manifest.CSV))
	if err != nil {
		t.Fatal(err)
	}
	if len(chips) != 600 || summary.Signer != [32]byte{} || len(summary.Findings) != 1 ||
		!strings.Contains(summary.Findings[0].String(), "unsigned") {
		t.Errorf("%d chips, %+v", len(chips), summary)
	}
}

func TestWhatTheCallerSaysEndsTheImport(t *testing.T) {
	m := maker(t)
	var file bytes.Buffer
	if err := m.WriteCSV(&file, 0, 2000); err != nil {
		t.Fatal(err)
	}
	full := errors.New("the disk is full")
	calls := 0
	_, err := manifest.Import(t.Context(), &file, options(m, manifest.CSV), func([]manifest.Chip) error {
		calls++
		return full
	}, nil)
	if !errors.Is(err, full) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestRepeatedChipsAndKeysAreRefusedWithBothEntries(t *testing.T) {
	m := maker(t)
	var file bytes.Buffer
	if err := m.WriteCSV(&file, 0, 3000); err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(file.String(), "\n")
	_, _, err := collect(t, strings.NewReader(file.String()+lines[17]), options(m, manifest.CSV))
	refused(t, err, fault.ManifestDuplicate, "entry 3001", m.UID(16), "that of entry 17")

	key := strings.Replace(lines[17], m.UID(16), m.UID(9000), 1)
	_, _, err = collect(t, strings.NewReader(file.String()+key), options(m, manifest.CSV))
	refused(t, err, fault.ManifestDuplicate, "entry 3001", "key", "that of entry 17")
}
