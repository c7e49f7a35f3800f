package keystore

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
)

func TestSecretNeverShows(t *testing.T) {
	const text = "hunter2"
	holder := struct {
		P Secret
		Q *Secret
		M map[string]Secret
	}{P: Secret(text), M: map[string]Secret{"k": Secret(text)}}
	holder.Q = &holder.P
	var shown []string
	for verb := range strings.FieldsSeq("%v %+v %#v %s %q %x %X %d %o %b %c %U %t %p") {
		shown = append(shown, fmt.Sprintf(verb, holder.P), fmt.Sprintf(verb, []Secret{holder.P}))
	}
	for verb := range strings.FieldsSeq("%v %+v %#v %s %d %x") {
		shown = append(shown, fmt.Sprintf(verb, holder.M), fmt.Sprintf(verb, struct{ S Secret }{holder.P}))
	}
	shown = append(shown, fmt.Sprint(holder.P), fmt.Sprintln(holder.P), holder.P.String(), holder.P.GoString())
	asJSON, err := json.Marshal(holder)
	if err != nil || strings.Count(string(asJSON), `"[secret]"`) != 3 {
		t.Errorf("JSON: %s, %v", asJSON, err)
	}
	asText, err := holder.P.MarshalText()
	if err != nil || string(asText) != "[secret]" {
		t.Errorf("text: %s, %v", asText, err)
	}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "p", holder.P, "any", []any{holder.P}, slog.Group("g", "p", &holder.P))
	}
	shown = append(shown, string(asJSON), log.String())
	leaks := []string{
		text, fmt.Sprintf("%x", text), fmt.Sprintf("%X", text), strings.Trim(fmt.Sprint([]byte(text)), "[]"),
		"aHVudGVyM", "0x68", "U+0068", "'h'", "1101000",
	}
	for _, s := range shown {
		for _, leak := range leaks {
			if strings.Contains(s, leak) {
				t.Errorf("%q shows in %q", leak, s)
			}
		}
	}
}

func TestNewPassphrase(t *testing.T) {
	form := regexp.MustCompile(`^([0-9a-hjkmnp-tv-z]{4}-){6}[0-9a-hjkmnp-tv-z]{4}$`)
	seen := map[string]bool{}
	used := map[byte]bool{}
	for range 200 {
		p := NewPassphrase(rand.Reader)
		if !form.Match(p) {
			t.Fatalf("%q", []byte(p))
		}
		seen[string(p)] = true
		for _, c := range p {
			used[c] = true
		}
	}
	if len(seen) != 200 || len(used) != 33 {
		t.Errorf("%d passphrases of %d characters", len(seen), len(used))
	}
	defer func() {
		if recover() == nil {
			t.Error("a passphrase came out of no randomness")
		}
	}()
	NewPassphrase(strings.NewReader("short"))
}
