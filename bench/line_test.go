package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/sim"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/format/proof"
)

// The manifest lists exactly the chips that the line simulates, in more than one
// part, and its signer is the one in the file.
func TestReelListsTheLinesChips(t *testing.T) {
	folder := t.TempDir()
	r, err := newReel(folder)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "reel")
	const first, count = 7, reelPart + 3
	if err := r.write(path, first, count); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in, err := manifest.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(in.Header().Signer, r.cert) {
		t.Error("another signer")
	}
	n := 0
	for {
		e, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 || n == reelPart || n == count-1 {
			chip, err := sim.NewChip(reelSeed, first+n)
			if err != nil {
				t.Fatal(err)
			}
			if e.UID != chip.UID || len(e.Keys) != 1 || !bytes.Equal(e.Keys[0].SPKI, chip.SPKI) {
				t.Errorf("entry %d is not chip %d", n, first+n)
			}
		}
		n++
	}
	if n != count {
		t.Errorf("%d of %d chips", n, count)
	}
}

// A request of the stream carries what the server will look for.
func TestRequestsOfAStream(t *testing.T) {
	nonce := bytes.Repeat([]byte{7}, 32)
	m, err := request(&lineOrder{Order: "PO-1", Proof: true}, 3, nonce)
	if err != nil {
		t.Fatal(err)
	}
	chip, err := sim.NewChip(reelSeed, 3)
	if err != nil {
		t.Fatal(err)
	}
	digest := proof.Chip(nonce, "PO-1", m.unit.DeviceSerial, m.key)
	if err := proof.Verify(chip.SPKI, digest, m.unit.Proof, fault.ChipProof); err != nil || m.unit.Chip.UID != chip.UID {
		t.Error(err, m.unit.Chip)
	}
	csr, err := x509.ParseCertificateRequest(m.unit.CSR)
	if err != nil || !bytes.Equal(csr.RawSubjectPublicKeyInfo, m.key) {
		t.Error(err, "another key")
	}
	plain, err := request(&lineOrder{Order: "PO-1"}, 3, nil)
	if err != nil || plain.unit.Chip != nil || plain.unit.Proof != nil || plain.unit.Nonce != nil {
		t.Error(err, plain.unit)
	}
}

// What the stations saw is counted, and a certificate that is not what it should
// be ends the run.
func TestTally(t *testing.T) {
	s, err := newIdeal()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := newIdeal()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := s.serverCertificate()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		name   string
		issuer *x509.Certificate
		key    []byte
		fails  bool
	}{
		{"its key", s.issuer, parsed.RawSubjectPublicKeyInfo, false},
		{"key looked at by the station", s.issuer, nil, false},
		{"another key", s.issuer, []byte("another"), true},
		{"another issuer", stranger.issuer, nil, true},
	} {
		t.Run(one.name, func(t *testing.T) {
			var tally tally
			for n := range 100 {
				tally.pass(time.Duration(n)*time.Millisecond, cert.Certificate[0], one.key)
			}
			tally.fail(errors.New("no contact"))
			tally.fail(errors.New("later"))
			c, err := tally.sum(one.issuer, time.Second)
			if (err != nil) != one.fails {
				t.Fatal(err)
			}
			if c.Done != 100 || c.Failed != 2 || c.Why != "no contact" || c.Checked != 2 {
				t.Errorf("%+v", c)
			}
			if err == nil && (c.P50 != 50*time.Millisecond || c.P99 != 99*time.Millisecond) {
				t.Error(c.P50, c.P99)
			}
		})
	}
	if _, err := new(tally).sum(s.issuer, time.Second); err == nil {
		t.Error("no unit at all is a result")
	}
}

func TestOnAllCoresDoesEachOnce(t *testing.T) {
	done := make([][sha256.Size]byte, 1001)
	if err := onAllCores(len(done), func(i int) error {
		done[i] = sha256.Sum256(append(done[i][:], 1))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range done {
		if done[i] != done[0] || done[i] == [sha256.Size]byte{} {
			t.Fatalf("%d was not done once", i)
		}
	}
	broken := errors.New("broken")
	if err := onAllCores(10, func(i int) error {
		if i == 7 {
			return broken
		}
		return nil
	}); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// The two processes speak the same orders, and an order that is not understood is
// an answer.
func TestLineRefusesUnknownOrders(t *testing.T) {
	var out bytes.Buffer
	err := runLine(context.Background(), strings.NewReader(`{"Do":"dance"}{"Do":"cycle","Stations":1}`), &out)
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if text := out.String(); !strings.Contains(text, `no such order: \"dance\"`) || !strings.Contains(text, "1 stations of 0") {
		t.Error(text)
	}
}

func TestAimsAreHeldAgainstFigures(t *testing.T) {
	one := func(rate float64) *series {
		return &series{rate: []float64{rate}, cpu: []float64{1}, load: []float64{1}}
	}
	b := &bench{figures: figures{factory: factoryFigures{
		est: one(1000), plain: one(1300), proof: one(740), cycle: one(1201), percent: 5.1,
		imported: &importFigures{Chips: 10, Seconds: 120, Peak: 600 << 20, Idle: 10, Busy: 19},
	}}}
	want := []string{"met", "met", "met", "missed", "missed", "met", "missed", "met"}
	rows := b.factoryAims().rows
	if len(rows) != len(want) {
		t.Fatal(rows)
	}
	for i, row := range rows {
		if row[3] != want[i] {
			t.Errorf("%v: want %s", row, want[i])
		}
	}
	b.figures.factory.failed = 1
	if row := b.factoryAims().rows[1]; row[3] != "missed" {
		t.Error(row)
	}
}
