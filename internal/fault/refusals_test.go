package fault_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/refusals.md")

const page = "../../docs/refusals.md"

// areas are the thousands of the codes, as the files of this package.
var areas = []string{
	1: "Requests and what they carry",
	2: "Devices and their credentials",
	3: "Authorities, profiles, keys and chains",
	4: "Status: revocation, CRLs, OCSP",
	5: "Operators, tokens, approvals",
	6: "The ledger",
	7: "Storage, clock, configuration",
	8: "The factory: sites, stations, manifests, chips, orders, units",
	9: "Hardware proof, signer and ceremony; what should not happen",
}

// TestRefusalsPage keeps docs/refusals.md equal to the table.
func TestRefusalsPage(t *testing.T) {
	got := render(t)
	if *update {
		if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), got); diff != "" {
		t.Errorf("docs/refusals.md is not what `go test ./internal/fault -update` writes (-want +got):\n%s", diff)
	}
}

func render(t *testing.T) string {
	var b strings.Builder
	b.WriteString(`# Refusals

Every refusal of Birthmark, in whatever protocol it is told. The code is permanent: it never changes its
meaning and is never used again. The message may be shown to anyone. ` + "`birthmark explain CODE`" + ` prints the same.

The kind decides how each edge says it: in HTTP (EST, the management API) ` + "`invalid-request`" + ` is 400,
` + "`unauthenticated`" + ` 401, ` + "`forbidden`" + ` 403, ` + "`not-found`" + ` 404, ` + "`conflict`" + ` 409, ` + "`limit-reached`" + ` 429,
` + "`internal`" + ` 500, ` + "`unavailable`" + ` 503. Four codes have a status of their own: BM-1002 413, BM-1003 408, BM-1004 415,
BM-5031 405. EST answers 202 where a request waits for an approval.

Written by ` + "`go test ./internal/fault -update`" + ` from the table in internal/fault.
`)
	area := 0
	for _, entry := range fault.All() {
		if next := int(entry.Code) / 1000; next != area {
			area = next
			if area >= len(areas) || areas[area] == "" {
				t.Fatalf("%s: its thousand has no heading", entry.Code)
			}
			fmt.Fprintf(&b, "\n## %dxxx %s\n\n| code | kind | message | what to do |\n|---|---|---|---|\n", area, areas[area])
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", entry.Code, entry.Kind, entry.Message, entry.Remedy)
	}
	return b.String()
}

// TestCodesAreUniqueAndComplete also keeps the cells of the page from breaking
// its table.
func TestCodesAreUniqueAndComplete(t *testing.T) {
	seen := map[fault.Code]bool{}
	for _, entry := range fault.All() {
		if seen[entry.Code] {
			t.Errorf("%s stands twice in the table", entry.Code)
		}
		seen[entry.Code] = true
		if entry.Message == "" || entry.Remedy == "" || strings.ContainsAny(entry.Message+entry.Remedy, "|\n") {
			t.Errorf("%s: message %q, remedy %q", entry.Code, entry.Message, entry.Remedy)
		}
	}
}
