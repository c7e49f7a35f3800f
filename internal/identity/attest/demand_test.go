package attest

import (
	"slices"
	"testing"
)

func TestDemandedNamesWhatIncludesTheOthers(t *testing.T) {
	for _, tt := range []struct {
		names []string
		want  string
	}{
		{nil, "none"},
		{[]string{"", "none"}, "none"},
		{[]string{"no level"}, "none"},
		{[]string{"listed", ""}, "listed"},
		{[]string{"chip", "listed"}, "chip"},
		{[]string{"tpm", "tpm"}, "tpm"},
		{[]string{"tpm-firmware", "tpm"}, "tpm-firmware"},
		{[]string{"tpm", "tpm-genuine"}, "tpm-genuine"},
		{[]string{"tpm-listed", "tpm-firmware"}, "tpm-listed+tpm-firmware"},
		{[]string{"tpm", "listed"}, "listed+tpm"},
		{[]string{"chip", "tpm-listed"}, "tpm-listed"},
	} {
		if got := Demanded(tt.names...); got != tt.want {
			t.Errorf("Demanded(%q) = %q, want %q", tt.names, got, tt.want)
		}
	}
}

// Levels are written down weakest first, which Demanded rests on: none is included
// in one that stands before it.
func TestLevelsStandWeakestFirst(t *testing.T) {
	for i, l := range levels {
		for _, weaker := range levels[:i] {
			if Missing(l.Claims, weaker.Claims) == 0 {
				t.Errorf("%s includes %s, which stands behind it", weaker.Name, l.Name)
			}
		}
		if claims, err := Least(l.Name); err != nil || claims != l.Claims || !slices.Contains(LevelNames(), l.Name) {
			t.Errorf("%s: %v, %v", l.Name, claims, err)
		}
	}
}

// What a level demands can be proven by some kind of evidence.
func TestEachLevelCanBeReached(t *testing.T) {
	for _, l := range levels {
		if !slices.ContainsFunc(table, func(r Row) bool { return Missing(l.Claims, r.Always|r.Possible) == 0 }) {
			t.Errorf("no evidence proves %s", l.Name)
		}
	}
}
