package tpm_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

func marshal(tb testing.TB, v any) []byte {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// TestParseRoots: a good bundle, and each thing that may be wrong with one. The
// refusal names it.
func TestParseRoots(t *testing.T) {
	m := tpmtest.NewMaker(t, "Acme Chips", tpmtest.MakerOptions{})
	weak := tpmtest.NewMaker(t, "Weak", tpmtest.MakerOptions{})
	chip := tpmtest.New(t, m, tpmtest.Options{})
	good := func() *attest.RootsFile {
		f := tpmtest.Bundle(4, m)
		f.Makers[0].Vendors = []string{"id:494E5443"}
		f.Deny = []attest.Deny{{Vendor: "id:49465800", VersionTo: "id:00070055", Reason: "ROCA"}}
		return f
	}
	read, err := tpm.ParseRoots(marshal(t, good()))
	if err != nil || read.Version != 4 || len(read.Makers) != 1 || string(read.Makers[0].Roots[0]) != string(m.Root.Raw) {
		t.Fatalf("%+v, %v", read, err)
	}
	for want, edit := range map[string]func(*attest.RootsFile){
		"name: missing":                                func(f *attest.RootsFile) { f.Name = "" },
		"name: more than":                              func(f *attest.RootsFile) { f.Name = strings.Repeat("x", 200) },
		"name: has characters":                         func(f *attest.RootsFile) { f.Name = "a\nb" },
		"version: begins with 1":                       func(f *attest.RootsFile) { f.Version = 0 },
		"issuedAt: missing":                            func(f *attest.RootsFile) { f.IssuedAt = time.Time{} },
		"makers: none":                                 func(f *attest.RootsFile) { f.Makers = nil },
		"maker 1: name: missing":                       func(f *attest.RootsFile) { f.Makers[0].Name = "" },
		"maker 2: the name":                            func(f *attest.RootsFile) { f.Makers = append(f.Makers, f.Makers[0]) },
		"maker 1: vendors":                             func(f *attest.RootsFile) { f.Makers[0].Vendors = []string{"Intel"} },
		"maker 1: roots: none":                         func(f *attest.RootsFile) { f.Makers[0].Roots = nil },
		"maker 1: roots: number 1 is not a":            func(f *attest.RootsFile) { f.Makers[0].Roots[0] = []byte("root") },
		"maker 1: roots: number 2 is given":            func(f *attest.RootsFile) { f.Makers[0].Roots = append(f.Makers[0].Roots, m.Root.Raw) },
		"maker 1: roots: number 1 has more":            func(f *attest.RootsFile) { f.Makers[0].Roots[0] = make([]byte, 9<<10) },
		"maker 1: intermediates: number 1 is not a CA": func(f *attest.RootsFile) { f.Makers[0].Intermediates[0] = chip.EKCertificate },
		"maker 1: intermediates: number 2 is given":    func(f *attest.RootsFile) { f.Makers[0].Intermediates = [][]byte{weak.Issuer.Raw, m.Root.Raw} },
		"deny 1: reason: missing":                      func(f *attest.RootsFile) { f.Deny[0].Reason = "" },
		"deny 1: it names nothing":                     func(f *attest.RootsFile) { f.Deny[0] = attest.Deny{Reason: "all"} },
		"deny 1: vendor":                               func(f *attest.RootsFile) { f.Deny[0].Vendor = "IFX" },
		"deny 1: versionTo":                            func(f *attest.RootsFile) { f.Deny[0].VersionTo = "7.85" },
		"deny 1: versionFrom: after":                   func(f *attest.RootsFile) { f.Deny[0].VersionFrom = "id:00080000" },
		"deny 1: firmwareFrom: after":                  func(f *attest.RootsFile) { f.Deny[0].FirmwareFrom, f.Deny[0].FirmwareTo = 2, 1 },
		"deny 1: vendor: missing, and firmware":        func(f *attest.RootsFile) { f.Deny[0].Vendor, f.Deny[0].FirmwareTo = "", 1 },
	} {
		f := good()
		edit(f)
		_, err := tpm.ParseRoots(marshal(t, f))
		refusal(t, err, fault.RootsInvalid, want)
		if strings.HasPrefix(want, "maker 1: roots") || strings.HasPrefix(want, "deny") {
			_, err = tpm.NewTrust([]*attest.RootsFile{f})
			refusal(t, err, fault.RootsInvalid, want)
		}
	}
}

func refusal(t *testing.T, err error, code fault.Code, detail string) {
	t.Helper()
	if !fault.Has(err, code) || !strings.Contains(fault.Of(err).Detail, detail) {
		t.Errorf("got %v, want %v with %q", err, code, detail)
	}
}

// TestStrictJSON: what is signed has one meaning.
func TestStrictJSON(t *testing.T) {
	zeros := strings.Repeat("00", 32)
	good := `{"bank":"sha256","states":[{"name":"a","pcrs":{"0":"` + zeros + `"}}]}`
	if _, err := tpm.ParsePolicy([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":                 ``,
		"an array":                `[]`,
		"null twice":              `null null`,
		"unknown member":          strings.Replace(good, `"bank"`, `"extra":1,"bank"`, 1),
		"a member twice":          strings.Replace(good, `"bank"`, `"bank":"sha384","bank"`, 1),
		"a member in other case":  strings.Replace(good, `"bank"`, `"BANK":"sha384","bank"`, 1),
		"a register twice":        strings.Replace(good, `"0"`, `"0":"`+zeros+`","0"`, 1),
		"a register in two forms": strings.Replace(good, `"0"`, `"00":"`+zeros+`","0"`, 1),
		"something behind":        good + `{}`,
		"not UTF-8":               strings.Replace(good, `"a"`, "\"\xff\"", 1),
		"too long":                good + strings.Repeat(" ", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tpm.ParsePolicy([]byte(text))
			refusedWith(t, err, fault.PolicyInvalid)
			_, err = tpm.ParseRoots([]byte(text))
			refusedWith(t, err, fault.RootsInvalid)
		})
	}
}

// TestParsePolicy: each thing that may be wrong with a policy is named.
func TestParsePolicy(t *testing.T) {
	zeros := strings.Repeat("00", 32)
	for want, edit := range map[string]func(*attest.PolicyFile){
		"bank":                             func(f *attest.PolicyFile) { f.Bank = "sha1" },
		"states: there is none":            func(f *attest.PolicyFile) { f.States = nil },
		"states: more than":                func(f *attest.PolicyFile) { f.States = make([]attest.State, 1001) },
		"state 1: name: missing":           func(f *attest.PolicyFile) { f.States[0].Name = "" },
		"state 2: the name":                func(f *attest.PolicyFile) { f.States = append(f.States, f.States[0]) },
		"state 1: pcrs: none":              func(f *attest.PolicyFile) { f.States[0].PCRs = nil },
		"state 1: pcrs: there is no":       func(f *attest.PolicyFile) { f.States[0].PCRs[24] = zeros },
		"state 1: pcrs: there is no reg":   func(f *attest.PolicyFile) { f.States[0].PCRs[-1] = zeros },
		"state 1: pcrs: the value of reg":  func(f *attest.PolicyFile) { f.States[0].PCRs[7] = zeros + "00" },
		"state 1: pcrs: the value of regi": func(f *attest.PolicyFile) { f.States[0].PCRs[7] = "x" + zeros[1:] },
	} {
		f := attest.PolicyFile{Bank: "sha256", States: []attest.State{{Name: "a", PCRs: maps.Clone(map[int]string{0: zeros})}}}
		edit(&f)
		_, err := tpm.ParsePolicy(marshal(t, f))
		refusal(t, err, fault.PolicyInvalid, want)
	}
}

// FuzzParse: strangers' files are refused, never feared.
func FuzzParse(f *testing.F) {
	m := tpmtest.NewMaker(f, "Acme Chips", tpmtest.MakerOptions{})
	f.Add(marshal(f, tpmtest.Bundle(1, m)))
	f.Add([]byte(`{"bank":"sha256","states":[{"name":"a","pcrs":{"0":"00"}}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		if file, err := tpm.ParseRoots(content); err == nil {
			if _, err := tpm.NewTrust([]*attest.RootsFile{file}); err != nil {
				t.Errorf("a bundle that is accepted does not compile: %v", err)
			}
		}
		if p, err := tpm.ParsePolicy(content); err == nil && len(p.Request().PCRs) == 0 {
			t.Error("a policy that asks for nothing")
		}
	})
}
