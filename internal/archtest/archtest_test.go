package archtest_test

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/birthmark/birthmark/internal/archtest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the golden files")

const root = "../.."

// allowed are the imports that break a rule for a reason.
var allowed = []archtest.Exception{
	{
		From: "internal/web/rest", To: "internal/pki/keystore",
		Reason: "names the type of a passphrase that it hands on; opens no key",
	},
	{
		From: "internal/edge/station/program", To: "os/exec",
		Reason: "starts the line's own fixture program at the station, away from the server",
	},
	{
		From: "internal/store", To: "unsafe",
		Reason: "calls SQLite below database/sql, which costs more than the statements of the hot path",
	},
}

func TestTheTreeKeepsItsRules(t *testing.T) {
	tree, err := archtest.Load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range archtest.Check(tree, allowed) {
		t.Error(finding)
	}
	for _, stale := range archtest.Stale(tree, allowed) {
		t.Errorf("the exception for %s to import %s permits nothing: delete it", stale.From, stale.To)
	}
}

// TestBrokenTreesAreFound runs the rules over small trees that break them. Each
// archive carries a file "want" with the findings, which -update writes.
func TestBrokenTreesAreFound(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(archives) < 5 {
		t.Fatalf("%d archives, %v", len(archives), err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			tree, err := archtest.Load(contents(archive))
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, finding := range archtest.Check(tree, nil) {
				got.WriteString(finding.String() + "\n")
			}
			compareWant(t, name, archive, got.String())
		})
	}
}

func contents(archive *txtar.Archive) fs.FS {
	files := fstest.MapFS{}
	for _, file := range archive.Files {
		files[file.Name] = &fstest.MapFile{Data: file.Data}
	}
	return files
}

func compareWant(t *testing.T, name string, archive *txtar.Archive, got string) {
	t.Helper()
	i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "want" })
	if i < 0 {
		t.Fatal("the archive has no file named want")
	}
	if *update {
		archive.Files[i].Data = []byte(got)
		if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want := strings.ReplaceAll(string(archive.Files[i].Data), "\r\n", "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestExceptionsPermitOneImportAndGoStale(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/arrows.txt")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := archtest.Load(contents(archive))
	if err != nil {
		t.Fatal(err)
	}
	needed := archtest.Exception{From: "internal/pki/chain", To: "internal/store", Reason: "for this test"}
	unneeded := archtest.Exception{From: "internal/pki/chain", To: "internal/web/rest", Reason: "for this test"}
	all := []archtest.Exception{needed, unneeded}

	before, after := archtest.Check(tree, nil), archtest.Check(tree, all)
	if len(after) != len(before)-1 {
		t.Errorf("%d findings without the exceptions, %d with; want one less", len(before), len(after))
	}
	if stale := archtest.Stale(tree, all); len(stale) != 1 || stale[0] != unneeded {
		t.Errorf("stale exceptions %v, want the one for %s", stale, unneeded.To)
	}
}

func TestEveryExceptionHasAReason(t *testing.T) {
	for _, one := range allowed {
		if len(one.Reason) < 20 {
			t.Errorf("%s imports %s: say why in a sentence", one.From, one.To)
		}
	}
}

// TestScriptsDoNotSkip looks into the scripts of commands, which have a skip of
// their own: what they need is said in Go, through package needs.
func TestScriptsDoNotSkip(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join(root, "cmd", "*", "testdata", "*", "*.txt"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	skip := regexp.MustCompile(`(?m)^\s*(\[[^\]]*\]\s*)*(skip|stop)\b.*|^\s*\[!?exec:.*`)
	for _, name := range scripts {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range skip.FindAllString(string(text), -1) {
			t.Errorf("%s: %q: say what is missing through internal/needs", name, strings.TrimSpace(line))
		}
	}
}
