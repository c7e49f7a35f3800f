package tpm_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/format/tpm/tpmtest"
)

func parseLog(t testing.TB, b []byte) *tpm.EventLog {
	t.Helper()
	l, err := tpm.ParseEventLog(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEventLogIsReplayed(t *testing.T) {
	written := tpmtest.NewLog(tpm.AlgSHA256, tpm.AlgSHA384).
		StartedFrom(3).
		Measure(0, 0x00000008, []byte("firmware 1.2")).
		Event(4, tpm.EventIPL, []byte("grub kernel /vmlinuz"), []byte("the kernel")).
		Measure(0, tpm.EventSeparator, []byte{0, 0, 0, 0}).
		Measure(7, tpm.EventSeparator, []byte{0, 0, 0, 0})
	l := parseLog(t, written.Bytes())
	if l.Locality != 3 || len(l.Events) != 5 {
		t.Fatalf("locality %d, %d events", l.Locality, len(l.Events))
	}
	for _, bank := range []tpm.Alg{tpm.AlgSHA256, tpm.AlgSHA384} {
		if !maps.EqualFunc(l.Replay(bank), written.Values(bank), bytes.Equal) {
			t.Errorf("%v: %x, want %x", bank, l.Replay(bank), written.Values(bank))
		}
	}
	if l.Replay(tpm.AlgSHA512) != nil || l.Replay(tpm.AlgAES) != nil {
		t.Error("replayed a bank that the log does not have")
	}
	for i, want := range []bool{false, true, false, true, true} {
		if l.Events[i].Verified != want {
			t.Errorf("event %d: verified %v", i, !want)
		}
	}
	if e := l.Events[2]; e.PCR != 4 || e.Type != tpm.EventIPL || string(e.Data) != "grub kernel /vmlinuz" {
		t.Errorf("%+v", e)
	}
}

func TestEventLogsRefused(t *testing.T) {
	one := func() *tpmtest.Log {
		return tpmtest.NewLog(tpm.AlgSHA256).Measure(0, tpm.EventSeparator, []byte("data"))
	}
	good := one().Bytes()
	// In the first event: pcr 0, type 4, digest 8, size 28, signature 32, banks 56,
	// first bank 60, its size 62, vendor size 64; then the next event from 65.
	digests := 65 + 8
	head := len(tpmtest.NewLog(tpm.AlgSHA256).Bytes())
	if head != 65 {
		t.Fatalf("the first event has %d octets", head)
	}
	// The log says that its second bank is another, its event does not.
	twice := at(tpmtest.NewLog(tpm.AlgSHA256, tpm.AlgSHA256).Measure(0, tpm.EventSeparator, []byte("data")).Bytes(), 64, 0x99, 0x00)
	for name, b := range map[string][]byte{
		"nothing":                    nil,
		"another register first":     at(good, 0, 1),
		"another type first":         at(good, 4, 4),
		"a digest first":             at(good, 8, 1),
		"TPM 1.2":                    at(good, 32, []byte("Spec ID Event00\x00")...),
		"first event too long":       at(good, 28, 0xFF, 0xFF, 0xFF, 0xFF),
		"first event too short":      at(good, 28, 32),
		"no banks":                   at(good, 56, 0),
		"nine banks":                 at(good, 56, 9),
		"four billion banks":         at(good, 56, 0xFF, 0xFF, 0xFF, 0xFF),
		"SHA-256 of 20 octets":       at(good, 62, 20),
		"a digest of no octets":      at(good, 60, 0x99, 0x00, 0, 0),
		"a digest of 65 octets":      at(good, 60, 0x99, 0x00, 65, 0),
		"maker's words too long":     at(good, 64, 1),
		"no digest":                  at(good, digests, 0),
		"two digests for one bank":   at(good, digests, 2),
		"four billion digests":       at(good, digests, 0xFF, 0xFF, 0xFF, 0xFF),
		"a digest of another bank":   at(good, digests+4, 0x0C),
		"data of four billion":       at(good, digests+6+32, 0xFF, 0xFF, 0xFF, 0xFF),
		"register 24":                at(good, 65, 24),
		"register four billion":      at(good, 65, 0xFF, 0xFF, 0xFF, 0xFF),
		"an octet more":              one().Raw(0).Bytes(),
		"started twice":              one().StartedFrom(0).StartedFrom(3).Bytes(),
		"started from 1":             one().StartedFrom(1).Bytes(),
		"one bank twice in an event": twice,
		"two banks of one hash":      tpmtest.NewLog(tpm.AlgSHA256, tpm.AlgSHA256).Bytes(),
		"longer than is read":        one().Measure(0, 1, make([]byte, tpm.MaxEventLog)).Bytes(),
		"more events than are read":  manyEvents(),
	} {
		if _, err := tpm.ParseEventLog(b); !fault.Has(err, fault.EventLogInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range len(good) {
		if n == head {
			continue // the log of a machine that measured nothing
		}
		if _, err := tpm.ParseEventLog(good[:n]); !fault.Has(err, fault.EventLogInvalid) {
			t.Errorf("first %d of %d octets: %v", n, len(good), err)
		}
	}
}

// manyEvents has 8193 small events, of a bank that we do not know with digests of
// one octet, so that the log is short enough.
func manyEvents() []byte {
	b := at(tpmtest.NewLog(tpm.AlgSHA256).Bytes(), 60, 0x99, 0x00, 1, 0)
	event := append(make([]byte, 4), 1, 0, 0, 0, 1, 0, 0, 0, 0x99, 0x00, 0xAA, 0, 0, 0, 0)
	return append(b, bytes.Repeat(event, 8193)...)
}

func TestEventsOfNoRegisterExtendNothing(t *testing.T) {
	b := tpmtest.NewLog(tpm.AlgSHA256).StartedFrom(0).Bytes()
	event := len(tpmtest.NewLog(tpm.AlgSHA256).Bytes())
	binary.LittleEndian.PutUint32(b[event:], 0xFFFFFFFF)
	l := parseLog(t, b)
	if l.Events[0].PCR != -1 || l.Events[0].Verified || len(l.Replay(tpm.AlgSHA256)) != 0 {
		t.Errorf("%+v, %x", l.Events[0], l.Replay(tpm.AlgSHA256))
	}
}

func TestLogsOfUnknownBanksVerifyNothing(t *testing.T) {
	b := manyEvents()
	l := parseLog(t, b[:65+19])
	if len(l.Events) != 1 || l.Events[0].Verified || l.Replay(tpm.Alg(0x99)) != nil {
		t.Errorf("%+v", l.Events)
	}
}

func TestReplayLaw(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		banks := rapid.SampledFrom([][]tpm.Alg{{tpm.AlgSHA256}, {tpm.AlgSHA1, tpm.AlgSHA256}, {tpm.AlgSHA384, tpm.AlgSHA512, tpm.AlgSHA256}}).Draw(rt, "banks")
		written := tpmtest.NewLog(banks...)
		if rapid.Bool().Draw(rt, "started") {
			written.StartedFrom(rapid.SampledFrom([]byte{0, 3, 4}).Draw(rt, "locality"))
		}
		told := rapid.SliceOfN(rapid.Byte(), 0, 20)
		for range rapid.IntRange(0, 12).Draw(rt, "events") {
			pcr := rapid.IntRange(0, 23).Draw(rt, "register")
			data, measured := told.Draw(rt, "told"), told.Draw(rt, "measured")
			written.Event(pcr, rapid.Uint32Range(4, 20).Draw(rt, "type"), data, measured)
		}
		l, err := tpm.ParseEventLog(written.Bytes())
		if err != nil {
			rt.Fatal(err)
		}
		for _, bank := range banks {
			if !maps.EqualFunc(l.Replay(bank), written.Values(bank), bytes.Equal) {
				rt.Fatalf("%v: %x, want %x", bank, l.Replay(bank), written.Values(bank))
			}
		}
	})
}

// FuzzEventLog: what is read can be replayed, and each event that is verified has
// its data's digests.
func FuzzEventLog(f *testing.F) {
	f.Add(tpmtest.NewLog(tpm.AlgSHA256).StartedFrom(4).Measure(0, 4, []byte{0, 0, 0, 0}).Event(8, 13, []byte("told"), []byte("measured")).Bytes())
	f.Add(tpmtest.NewLog(tpm.AlgSHA1, tpm.AlgSHA384).Measure(7, 4, nil).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := tpm.ParseEventLog(b)
		if err != nil {
			if !fault.Has(err, fault.EventLogInvalid) {
				t.Fatal(err)
			}
			return
		}
		for i, bank := range l.Banks {
			for pcr, value := range l.Replay(bank) {
				if pcr < 0 || pcr > 23 || len(value) != bank.Hash().Size() {
					t.Fatalf("register %d of %v: %x", pcr, bank, value)
				}
			}
			for _, e := range l.Events {
				if e.Verified && bank.Hash() != 0 && !bytes.Equal(e.Digests[i], sum(bank, e.Data)) {
					t.Fatalf("verified: %+v", e)
				}
			}
		}
	})
}
