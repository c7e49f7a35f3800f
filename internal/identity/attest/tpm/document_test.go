package tpm_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
)

const root = "../../../.."

// TestDocumentIsTrue: each test that docs/protocols/tpm.md names is there, and each
// code of the order of proof is in it.
func TestDocumentIsTrue(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "protocols", "tpm.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := declaredTests(t)
	for _, match := range regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z]+)`").FindAllStringSubmatch(string(text), -1) {
		if !declared[match[1]] {
			t.Errorf("%s is nowhere", match[1])
		}
	}
	for _, e := range fault.All() {
		within := e.Code > fault.TicketInvalid && e.Code < fault.TicketOther // "BM-9030 to BM-9033"
		if e.Code >= fault.EKCertificate && e.Code <= fault.TPMOfOther && !within && !strings.Contains(string(text), e.Code.String()) {
			t.Errorf("%v (%s) is not in the document", e.Code, e.Message)
		}
	}
}

// declaredTests returns the names of all tests below internal.
func declaredTests(t *testing.T) map[string]bool {
	t.Helper()
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z]+)\(`)
	err := filepath.WalkDir(filepath.Join(root, "internal"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, match := range function.FindAllStringSubmatch(string(text), -1) {
			declared[match[1]] = true
		}
		return err
	})
	if err != nil || len(declared) < 100 {
		t.Fatalf("%d tests, %v", len(declared), err)
	}
	return declared
}
