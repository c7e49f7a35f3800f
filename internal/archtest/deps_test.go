package archtest_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/needs"

	"github.com/google/go-cmp/cmp"
)

const depsHeader = `# The packages from outside of this module and the standard library that are
# linked into the binary for Linux. A new line is a decision: see CONTRIBUTING.md.
# Written by: go test ./internal/archtest -update
`

// neverLinked are packages of the standard library that no binary carries.
var neverLinked = []string{"testing", "net/http/pprof", "plugin", "net/rpc"}

// TestBinariesLinkWhatIsOnRecord compares what each command links with its
// deps.txt, so that a new dependency is seen in review.
func TestBinariesLinkWhatIsOnRecord(t *testing.T) {
	commands, err := filepath.Glob(filepath.Join(root, "cmd", "birthmark*"))
	if err != nil || len(commands) == 0 {
		t.Fatalf("%d commands, %v", len(commands), err)
	}
	for _, folder := range commands {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			linked := goList(t, "linux", "{{.ImportPath}}", "./cmd/"+filepath.Base(folder))
			var got strings.Builder
			got.WriteString(depsHeader)
			for _, one := range linked {
				if strings.Contains(strings.Split(one, "/")[0], ".") && !strings.HasPrefix(one, "github.com/birthmark/birthmark/") {
					got.WriteString(one + "\n")
				}
				for _, never := range neverLinked {
					if one == never {
						t.Errorf("links %s", never)
					}
				}
			}
			golden := filepath.Join(folder, "deps.txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), got.String()); diff != "" {
				t.Errorf("deps.txt (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNoticeNamesEveryLinkedModule compares NOTICE with the modules that the
// commands link on any platform of a release.
func TestNoticeNamesEveryLinkedModule(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "NOTICE"))
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) >= 3 && strings.HasPrefix(words[1], "v") {
			named = append(named, words[0]+" "+words[1])
		}
	}
	linked := map[string]bool{}
	for _, system := range []string{"linux", "windows", "darwin"} {
		for _, module := range goList(t, system, "{{with .Module}}{{.Path}} {{.Version}}{{end}}", "./cmd/...") {
			if strings.Contains(module, " v") {
				linked[module] = true
			}
		}
	}
	if diff := cmp.Diff(named, slices.Sorted(maps.Keys(linked))); diff != "" {
		t.Errorf("NOTICE (-named +linked):\n%s", diff)
	}
}

// goList returns a line per package that the pattern links on a system, sorted:
// go list's own order changes with every import line.
func goList(t *testing.T, system, format, pattern string) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), needs.Command(t, "go"), "list", "-deps", "-f", format, pattern)
	list.Dir = root
	list.Env = append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr strings.Builder
	list.Stderr = &stderr
	output, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	slices.Sort(lines)
	return lines
}
