package profile

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

func TestPresetsParse(t *testing.T) {
	names := Presets()
	if len(names) != 15 {
		t.Errorf("there are %d presets: %v", len(names), names)
	}
	for _, name := range names {
		text, ok := Preset(name)
		if !ok {
			t.Fatalf("no preset %s", name)
		}
		p, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if p.Name != name || p.Digest != sha256.Sum256(text) || !bytes.Equal(p.Text, text) {
			t.Errorf("%s: name, text or digest is not the file's", name)
		}
	}
	if _, ok := Preset("../profile"); ok {
		t.Error("a preset outside the folder")
	}
}
