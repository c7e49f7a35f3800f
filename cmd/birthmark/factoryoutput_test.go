package main

import (
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
)

func TestNumbersAsPeopleReadThem(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 12345678: "12,345,678", -1234: "-1,234"} {
		if got := number(n); got != want {
			t.Errorf("%d is written %s", n, got)
		}
	}
	for share, want := range map[float64]string{0: "0.00 %", 0.9991: "99.91 %", 0.99999: "99.99 %", 1: "100.00 %"} {
		if got := percent(share); got != want {
			t.Errorf("%v is written %s, want %s", share, got, want)
		}
	}
	for _, x := range []struct {
		part, whole int64
		want        string
	}{{0, 0, "0 %"}, {1, 3, "33 %"}, {999, 1000, "99 %"}, {3, 3, "100 %"}, {5, 3, "100 %"}} {
		if got := share(x.part, x.whole); got != x.want {
			t.Errorf("%d of %d is written %s", x.part, x.whole, got)
		}
		if got := bar(x.part, x.whole); len(got) != 32 {
			t.Errorf("%d of %d is drawn %q", x.part, x.whole, got)
		}
	}
}

func TestPartsOfALongList(t *testing.T) {
	io := &streams{in: strings.NewReader("c\n\n# a comment\n d \ne\n")}
	var parts []string
	err := inParts(io, []string{"a", "b"}, "-", 2, func(part []string) error {
		parts = append(parts, strings.Join(part, ""))
		return nil
	})
	if got := strings.Join(parts, " "); err != nil || got != "ab cd e" {
		t.Errorf("got %q, %v", got, err)
	}
	never := func([]string) error { t.Error("nothing was named"); return nil }
	if err := inParts(io, nil, "", 2, never); !fault.Has(err, fault.ParameterInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestColumnsOfNumbers(t *testing.T) {
	var out strings.Builder
	rows := [][]string{{"issued", "1,000", "ever"}, {"took", "12µs", ""}, {"left", "7", "x"}}
	if err := printNumbers(&out, []string{"WHAT", "N", ""}, rows, 1); err != nil {
		t.Fatal(err)
	}
	want := "WHAT        N\nissued  1,000  ever\ntook     12µs\nleft        7  x\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
	if rows[2][1] != "7" {
		t.Error("the caller's rows were changed")
	}
}
