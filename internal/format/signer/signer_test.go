package signer_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/signer"
)

func TestItemsComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []signer.Item
		var payload []byte
		for range rapid.IntRange(1, 8).Draw(t, "items") {
			i := signer.Item{
				ID:  rapid.Uint32().Draw(t, "id"),
				Key: rapid.StringMatching(`[a-z0-9][a-zA-Z0-9._-]{0,63}`).Draw(t, "key"),
				TBS: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "tbs"),
			}
			want = append(want, i)
			before := len(payload)
			payload = signer.AppendItem(payload, &i)
			if len(payload)-before != signer.ItemSize(&i) {
				t.Fatal("ItemSize is wrong")
			}
		}
		got, err := signer.ParseItems(payload)
		if err != nil || !cmp.Equal(want, got) {
			t.Fatalf("%v\n%s", err, cmp.Diff(want, got))
		}
		for cut := range len(payload) {
			part, err := signer.ParseItems(payload[:cut])
			if err == nil && !cmp.Equal(part, want[:len(part)]) {
				t.Fatalf("cut at %d gives other items", cut)
			}
		}
	})
}

func TestFramesComeBackAsTheyWere(t *testing.T) {
	results := []signer.Result{{ID: 1, Signature: []byte{1, 2}}, {ID: 7, Code: fault.SignerLimit, Detail: "later"}}
	keys := []signer.Key{{Name: "issuing", SPKI: []byte{1}, Kinds: []string{"device", "crl"}}, {Name: "root", SPKI: []byte{2}, Certificate: []byte{3}}}
	stream := signer.Stream{ID: 9, Key: "issuing", Size: 12}
	var wire []byte
	wire = signer.AppendHello(wire)
	start := len(wire)
	wire = signer.Begin(wire, signer.Results)
	for i := range results {
		wire = signer.AppendResult(wire, &results[i])
	}
	wire = signer.End(wire, start)
	wire = signer.AppendCancel(wire, 1, 2)
	wire = signer.AppendOpen(wire, &stream)
	wire = signer.AppendData(wire, 9, []byte("piece"))
	wire = signer.AppendKeys(wire, keys)
	wire = signer.AppendKeys(wire, nil)
	wire = signer.AppendRefused(wire, fault.SignerPeer, "uid 7")

	r := bytes.NewReader(wire)
	next := func(want signer.Type) []byte {
		t.Helper()
		got, payload, err := signer.Read(r)
		if err != nil || got != want {
			t.Fatalf("type %d, %v; want %d", got, err, want)
		}
		return payload
	}
	if err := signer.ParseHello(next(signer.Hello)); err != nil {
		t.Error(err)
	}
	if got, err := signer.ParseResults(next(signer.Results)); err != nil || !cmp.Equal(results, got) {
		t.Error(err, cmp.Diff(results, got))
	}
	if got, err := signer.ParseCancel(next(signer.Cancel)); err != nil || !cmp.Equal([]uint32{1, 2}, got) {
		t.Error(err, got)
	}
	if got, err := signer.ParseOpen(next(signer.Open)); err != nil || got != stream {
		t.Error(err, got)
	}
	if id, got, err := signer.ParseData(next(signer.Data)); err != nil || id != 9 || string(got) != "piece" {
		t.Error(err, got)
	}
	if got, err := signer.ParseKeys(next(signer.Keys)); err != nil || len(got) != 2 || got[0].Kinds[1] != "crl" || string(got[1].Certificate) != "\x03" {
		t.Error(err, got)
	}
	if got, err := signer.ParseKeys(next(signer.Keys)); err != nil || got != nil {
		t.Error(err, got)
	}
	if got, err := signer.ParseRefused(next(signer.Refused)); err != nil || got.Code != fault.SignerPeer || got.Detail != "uid 7" {
		t.Error(err, got)
	}
	if _, _, err := signer.Read(r); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestBoundsHold(t *testing.T) {
	long := strings.Repeat("k", signer.MaxName+1)
	item := func(i signer.Item) []byte { return signer.AppendItem(nil, &i) }
	many := []byte{}
	for range signer.MaxItems + 1 {
		many = append(many, item(signer.Item{Key: "k", TBS: []byte{1}})...)
	}
	for name, payload := range map[string][]byte{
		"no item":           {},
		"no key":            item(signer.Item{TBS: []byte{1}}),
		"long key":          item(signer.Item{Key: long, TBS: []byte{1}}),
		"key with a slash":  item(signer.Item{Key: "a/b", TBS: []byte{1}}),
		"key with a dot":    item(signer.Item{Key: ".a", TBS: []byte{1}}),
		"nothing to sign":   item(signer.Item{Key: "k"}),
		"too much to sign":  item(signer.Item{Key: "k", TBS: make([]byte, signer.MaxItem+1)}),
		"too many items":    many,
		"octets at the end": append(item(signer.Item{Key: "k", TBS: []byte{1}}), 0),
	} {
		if _, err := signer.ParseItems(payload); !errors.Is(err, signer.ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, wire := range map[string][]byte{
		"frame too long": {0, 0x10, 0, 1, 3},
		"no type":        {0, 0, 0, 0},
		"unknown type":   {0, 0, 0, 1, 99},
	} {
		if _, _, err := signer.Read(bytes.NewReader(wire)); !errors.Is(err, signer.ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := signer.Read(bytes.NewReader([]byte{0, 0, 0, 9, 1})); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if _, err := signer.ParseOpen(signer.AppendOpen(nil, &signer.Stream{Key: "k", Size: signer.MaxStream + 1})[5:]); err == nil {
		t.Error("a stream without bounds")
	}
	if err := signer.ParseHello([]byte("birthmark-signer\x02")); err == nil {
		t.Error("another version")
	}
}

func FuzzPayloads(f *testing.F) {
	f.Add(signer.AppendItem(nil, &signer.Item{ID: 1, Key: "k", TBS: []byte("tbs")}))
	f.Add(signer.AppendResult(nil, &signer.Result{ID: 1, Signature: []byte("s")}))
	f.Add(signer.AppendKeys(nil, []signer.Key{{Name: "k", SPKI: []byte{1}, Kinds: []string{"crl"}}})[5:])
	f.Fuzz(func(t *testing.T, payload []byte) {
		if items, err := signer.ParseItems(payload); err == nil {
			var again []byte
			for i := range items {
				again = signer.AppendItem(again, &items[i])
			}
			if !bytes.Equal(again, payload) {
				t.Error("items have two forms")
			}
		}
		if results, err := signer.ParseResults(payload); err == nil {
			var again []byte
			for i := range results {
				again = signer.AppendResult(again, &results[i])
			}
			if !bytes.Equal(again, payload) {
				t.Error("results have two forms")
			}
		}
		if keys, err := signer.ParseKeys(payload); err == nil && !bytes.Equal(signer.AppendKeys(nil, keys)[5:], payload) {
			t.Error("keys have two forms")
		}
		_, _ = signer.ParseOpen(payload)
		_, _, _ = signer.ParseData(payload)
		_, _ = signer.ParseCancel(payload)
		_, _ = signer.ParseRefused(payload)
	})
}
