package attest

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of docs/operate/evidence.md")

// page shows people the tables that evidence is judged by.
const page = "../../../docs/operate/evidence.md"

// TestPageShowsTheTables holds the documentation against the tables; -update
// writes them.
func TestPageShowsTheTables(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	want := text
	for name, table := range map[string]string{"table": kindsTable(), "claims": claimsTable(), "levels": levelsTable()} {
		begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
		head, rest, ok := bytes.Cut(want, []byte(begin))
		if !ok {
			t.Fatalf("no %s", begin)
		}
		_, tail, ok := bytes.Cut(rest, []byte(end))
		if !ok {
			t.Fatalf("no %s", end)
		}
		want = slices.Concat(head, []byte(begin+table+end), tail)
	}
	if bytes.Equal(text, want) {
		return
	}
	if !*update {
		t.Error("docs/operate/evidence.md is not what `go test ./internal/identity/attest -update` writes")
		return
	}
	if err := os.WriteFile(page, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

func kindsTable() string {
	var b strings.Builder
	b.WriteString("| kind | proves | may prove besides | in words |\n|---|---|---|---|\n")
	for _, r := range Table() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.Kind, joined(r.Always.Names()), joined(r.Possible.Names()), r.Words)
	}
	return b.String()
}

func claimsTable() string {
	var b strings.Builder
	b.WriteString("| claim | |\n|---|---|\n")
	for _, n := range claimNames {
		fmt.Fprintf(&b, "| %s | %s |\n", n.name, n.words)
	}
	return b.String()
}

func levelsTable() string {
	var b strings.Builder
	b.WriteString("| level | demands | kinds that may reach it |\n|---|---|---|\n")
	for _, l := range Levels() {
		var kinds []string
		for _, r := range Table() {
			if Missing(l.Claims, r.Always|r.Possible) == 0 {
				kinds = append(kinds, string(r.Kind))
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", l.Name, joined(l.Claims.Names()), joined(kinds))
	}
	return b.String()
}

func joined(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}
