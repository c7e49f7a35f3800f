package queue

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/birthmark/birthmark/internal/format/station"
)

// FuzzRecord: whatever is in the file, reading it ends, and what is read is written
// again as the same.
func FuzzRecord(f *testing.F) {
	for _, p := range []payload{
		{Number: 1, Item: Item{Scrap: &station.Scrap{DeviceSerial: "1"}}},
		{Done: []int64{1, 2}},
	} {
		b, err := appendRecord(nil, &p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(b, b...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, n, err := parseRecord(b)
		if err != nil {
			if !errors.Is(err, errTorn) && !errors.Is(err, errDamaged) {
				t.Errorf("error %v", err)
			}
			return
		}
		if n < recordHead || n > len(b) {
			t.Fatalf("%d of %d octets", n, len(b))
		}
		again, err := appendRecord(nil, &p)
		if err != nil {
			t.Fatal(err)
		}
		q, _, err := parseRecord(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, q); diff != "" {
			t.Error(diff)
		}
	})
}
