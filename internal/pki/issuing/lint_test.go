package issuing

import (
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/lint"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

func TestPresetsLint(t *testing.T) {
	// What the presets are known to be told about.
	expected := map[string][]string{
		"idevid":     {"idevid_key", "idevid_documentation_arc"},
		"atecc":      {"idevid_documentation_arc", "idevid_no_expiry"},
		"idevid-tpm": {"idevid_key"},
	}
	for _, name := range profile.Presets() {
		all, err := Lint(preset(t, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for kt, findings := range all {
			for _, f := range findings {
				if f.Severity != lint.Notice || !strings.Contains(strings.Join(expected[name], " "), f.Rule) {
					t.Errorf("%s with %s: %+v", name, kt, f)
				}
			}
		}
	}
}

func TestProfileThatBreaksARuleIsRefused(t *testing.T) {
	iss := testRoot(t, profile.P256)
	p := parse(t, `
name: bad
kind: issuing
issuer: root
keys: [p256]
validity: {years: 1}
subject: [{attribute: commonName, from: commonName}]
keyUsage: [keyCertSign, cRLSign]
subjectKeyIdentifier: false
`)
	if _, err := New(p, iss); !fault.Has(err, fault.ProfileLint) || !strings.Contains(err.Error(), "4.2.1.2") {
		t.Errorf("an authority without subjectKeyIdentifier: %v", err)
	}
}
