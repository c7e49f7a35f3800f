package main

import (
	"strings"
	"testing"
)

func TestSettingsFile(t *testing.T) {
	tests := []struct {
		name, text string
		want       string // part of the refusal; empty: taken
	}{
		{"empty", "", ""},
		{"all kinds", "data: d\nhosts: [a.example, b.example]\ncrl_validity: 12h\nlog_level: debug\n", ""},
		{"unknown key", "data: d\nlisten: x\n", "2:1"},
		{"wrong type", "data: [1]\n", "1:7"},
		{"twice", "data: a\ndata: b\n", "2:1"},
		{"no mapping", "- a\n", "1:1"},
		{"a tag", "hosts: !x y\n", "YAML"},
		{"too large", strings.Repeat("# comment\n", 10000), "larger"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseSettings([]byte(tt.text))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestProxyFrom(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.7": "10.0.0.7/32", "10.1.0.9/24": "10.1.0.0/24", "2001:db8::1": "2001:db8::1/128", "::ffff:10.0.0.7": "10.0.0.7/32",
		"0.0.0.0/0": "", "::/0": "", "lb.example": "", "10.0.0.7:80": "", "10.0.0.0/33": "", "fe80::1%eth0": "", "": "", "::ffff:10.0.0.0/120": "",
	} {
		s := Settings{ProxyFrom: []string{text}}
		got, err := s.proxies()
		if want == "" && err == nil || want != "" && (err != nil || len(got) != 1 || got[0].String() != want) {
			t.Errorf("%q: %v, %v; want %q", text, got, err, want)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte("data: d\nhosts: [a]\n"))
	f.Add([]byte("data: !x y\n"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		if len(text) < 4<<10 {
			_, _ = parseSettings(text) // must not panic
		}
	})
}
