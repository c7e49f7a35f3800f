package link

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/format/station"
)

// TestLinesAreThoseOfEncodingJSON for whatever a unit holds.
func TestLinesAreThoseOfEncodingJSON(t *testing.T) {
	octets := rapid.SliceOfN(rapid.Byte(), 0, 40)
	rapid.Check(t, func(r *rapid.T) {
		u := station.Unit{
			ID: rapid.String().Draw(r, "id"), Order: rapid.String().Draw(r, "order"), DeviceSerial: rapid.String().Draw(r, "serial"),
			Reference: rapid.String().Draw(r, "reference"), CSR: octets.Draw(r, "csr"), Nonce: octets.Draw(r, "nonce"), Proof: octets.Draw(r, "proof"),
			Recipient: octets.Draw(r, "recipient"), Form: rapid.String().Draw(r, "form"), Password: rapid.String().Draw(r, "password"),
		}
		if rapid.Bool().Draw(r, "chip") {
			u.Chip = &station.Chip{Vendor: rapid.String().Draw(r, "vendor"), UID: rapid.String().Draw(r, "uid"), Slot: rapid.String().Draw(r, "slot")}
		}
		if rapid.Bool().Draw(r, "rework") {
			u.Rework = &station.Rework{Reason: rapid.String().Draw(r, "reason")}
		}
		same(r, &u, appendUnit(nil, &u))
		c := station.Confirm{
			ID: u.ID, Order: u.Order, DeviceSerial: u.DeviceSerial, Certificate: u.CSR, Signature: u.Proof,
			CycleMillis: rapid.Int64().Draw(r, "cycle"), FirstPass: rapid.Bool().Draw(r, "first"),
		}
		same(r, &c, appendConfirm(nil, &c))
	})
}

func same(r *rapid.T, v any, line []byte) {
	want, err := json.Marshal(v)
	if err != nil {
		r.Fatal(err)
	}
	if string(line) != string(want)+"\n" {
		r.Errorf("%s\nwant\n%s", line, want)
	}
}

// FuzzResult: what a server sends is read as encoding/json reads it, or not at all.
func FuzzResult(f *testing.F) {
	for _, r := range []station.Result{
		{ID: "1", OK: true, Certificate: []byte{1}, Chain: [][]byte{{2}, {3}}, ConfirmNonce: []byte{4}},
		{ID: "2", Code: "BM-8023", Kind: "limit-reached", Message: "no"},
	} {
		line, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	f.Add([]byte(`{"id":"1","ok":true,"certificate":"AA=="} x`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.IndexByte(line, '\n') >= 0 {
			return
		}
		var got, want station.Result
		err := parseResult(line, &got)
		if (err == nil) != (json.Unmarshal(line, &want) == nil) {
			t.Fatalf("%q: %v", line, err)
		}
		if diff := cmp.Diff(want, got); err == nil && diff != "" {
			t.Error(diff)
		}
		if refused := Fault(&got); err == nil && (refused == nil) != got.OK {
			t.Errorf("%q: %v", line, refused)
		}
	})
}
