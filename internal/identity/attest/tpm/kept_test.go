package tpm_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// shown is what the bench's device showed for a credential, judged.
func (b *bench) shown(t *testing.T, quote bool) *tpm.Shown {
	t.Helper()
	x := b.found(t)
	ak, err := x.AK()
	if err != nil {
		t.Fatal(err)
	}
	s := &tpm.Shown{TPM: x, Answer: b.answer(t), Nonce: b.nonce, SPKI: b.subject.SPKI(), At: now}
	if s.Certified, err = ak.Certified(s.Answer, b.nonce, s.SPKI, tpm.Subject{}); err != nil {
		t.Fatal(err)
	}
	if quote {
		b.boot("1.2")
		s.Answer.Quote = b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured)
		if s.Quoted, err = ak.Quoted(s.Answer.Quote, b.nonce, policyOf(t, b.released(measured...))); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func keep(t *testing.T, s *tpm.Shown) *tpm.Kept {
	t.Helper()
	content, err := s.Keep()
	if err != nil {
		t.Fatal(err)
	}
	k, err := tpm.ParseKept(content)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestClaims: what is proven follows from what was shown.
func TestClaims(t *testing.T) {
	b := newBench(t)
	const always = attest.KeyInChip | attest.Fresh
	s := b.shown(t, false)
	if s.Claims() != always|attest.Genuine {
		t.Error(s.Claims())
	}
	s.Listed = "manifest 3, entry 7"
	if s.Claims() != always|attest.Genuine|attest.Listed {
		t.Error(s.Claims())
	}
	s = b.shown(t, true)
	s.TPM.Genuine = false
	if s.Claims() != always|attest.Firmware {
		t.Error(s.Claims())
	}
}

// TestRecheck: kept evidence proves itself again, and no longer when it was edited.
func TestRecheck(t *testing.T) {
	b := newBench(t)
	k := keep(t, b.shown(t, true))
	if err := k.Recheck(); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*tpm.Kept){
		"nonce":     func(k *tpm.Kept) { k.Nonce[0] ^= 1 },
		"key":       func(k *tpm.Kept) { k.SPKI = b.ak.SPKI() },
		"AK":        func(k *tpm.Kept) { k.TPM.AKPublic = b.chip.NewAK(wire.ECP256).Public() },
		"statement": func(k *tpm.Kept) { k.Certify.Attest[20] ^= 1 },
		"quote":     func(k *tpm.Kept) { k.Quote.Attest[20] ^= 1 },
		"value":     func(k *tpm.Kept) { k.Quote.PCRs[0][0] ^= 1 },
		"no AK":     func(k *tpm.Kept) { k.TPM.AKPublic = nil },
		"no EK":     func(k *tpm.Kept) { k.TPM.EKPublic = nil },
		"no answer": func(k *tpm.Kept) { k.Certify = nil },
	} {
		edited := keep(t, b.shown(t, true))
		edit(edited)
		if edited.Recheck() == nil {
			t.Errorf("%s edited, and it still holds", name)
		}
	}
	s := b.shown(t, false)
	s.Certified, s.SPKI = nil, b.ak.SPKI()
	if err := keep(t, s).Recheck(); err != nil {
		t.Error(err)
	}
}

// TestParseKeptRefuses other versions and other things.
func TestParseKeptRefuses(t *testing.T) {
	for _, content := range []string{``, `[]`, `{"version":2}`, `{}`} {
		if _, err := tpm.ParseKept([]byte(content)); err == nil {
			t.Errorf("read %q", content)
		}
	}
}

// TestWords holds what a person reads against a golden file. What differs from run
// to run is replaced.
func TestWords(t *testing.T) {
	b := newBench(t)
	b.ak.Parent = tpmtest.Endorsement
	full := b.shown(t, true)
	full.Listed = "manifest 3 of Acme, entry 7"
	expired := *full
	chip := *full.TPM
	chip.Expired = true
	expired.TPM = &chip
	masked := newBench(t)
	alone := masked.shown(t, false)
	alone.Certified, alone.SPKI = nil, masked.ak.SPKI()
	bare := newBench(t)
	bare.list(bare.chip.EK)
	bare.chip.EKCertificate = nil
	listed := bare.shown(t, false)
	listed.Listed = "manifest 1, entry 1"
	nobody := newBench(t)
	nobody.chip = tpmtest.New(t, tpmtest.NewMaker(t, "Nobody", tpmtest.MakerOptions{}), tpmtest.Options{})
	nobody.list(nobody.chip.EK)
	unvouched := nobody.shown(t, false)
	unvouched.Listed = "manifest 1, entry 2"

	var text strings.Builder
	for _, c := range []struct {
		title string
		shown *tpm.Shown
	}{
		{"genuine, listed, released firmware", full},
		{"an expired certificate", &expired},
		{"the AK itself", alone},
		{"listed, not vouched", listed},
		{"listed, with a certificate of nobody", unvouched},
	} {
		text.WriteString("# " + c.title + "\n")
		k := keep(t, c.shown)
		for _, line := range k.Words() {
			line = strings.ReplaceAll(line, k.TPM.EK, "EK")
			if k.TPM.HardwareSerial != "" {
				line = strings.ReplaceAll(line, k.TPM.HardwareSerial, "54455354:AKI:NUMBER")
			}
			if k.Quote != nil {
				line = strings.ReplaceAll(line, k.Quote.EventLog, "DIGEST")
			}
			text.WriteString(line + "\n")
		}
		text.WriteString("\n")
	}
	golden := filepath.Join("testdata", "words.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != text.String() {
		t.Errorf("got\n%s\nwant\n%s\n%v", text.String(), want, err)
	}
}

// TestKeptIsWhole: everything that was sent is in the evidence.
func TestKeptIsWhole(t *testing.T) {
	b := newBench(t)
	s := b.shown(t, true)
	k := keep(t, s)
	if string(k.Certify.Attest) != string(s.Answer.Attest) || string(k.Certify.Signature) != string(s.Answer.Signature) ||
		string(k.Certify.Public) != string(s.Answer.Public) || string(k.Quote.Attest) != string(s.Answer.Quote.Attest) ||
		len(k.Quote.PCRs) != len(measured) || string(k.TPM.EKCertificate) != string(b.chip.EKCertificate) ||
		string(k.TPM.AKPublic) != string(b.ak.Public()) || string(k.Nonce) != string(b.nonce) || k.Quote.State != "release 1.2" {
		t.Errorf("%+v", k)
	}
	again, err := json.Marshal(k)
	if first, _ := s.Keep(); err != nil || string(first) != string(again) {
		t.Errorf("%s\n%s", first, again)
	}
}
