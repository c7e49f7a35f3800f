package archtest_test

import (
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
var neverLinked = []string{"testing", "net/http/pprof", "expvar", "plugin", "net/rpc"}

// TestBinariesLinkWhatIsOnRecord compares what each command links with its
// deps.txt, so that a new dependency is seen in review.
func TestBinariesLinkWhatIsOnRecord(t *testing.T) {
	needs.Command(t, "go")
	commands, err := filepath.Glob(filepath.Join(root, "cmd", "*", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, main := range commands {
		folder := filepath.Dir(main)
		t.Run(filepath.Base(folder), func(t *testing.T) {
			linked := linkedPackages(t, filepath.Base(folder))
			got := depsHeader
			for _, one := range linked {
				if strings.Contains(strings.Split(one, "/")[0], ".") && !strings.HasPrefix(one, "github.com/birthmark/birthmark/") {
					got += one + "\n"
				}
				for _, never := range neverLinked {
					if one == never {
						t.Errorf("links %s", never)
					}
				}
			}
			golden := filepath.Join(folder, "deps.txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), got); diff != "" {
				t.Errorf("deps.txt (-want +got):\n%s", diff)
			}
		})
	}
}

func linkedPackages(t *testing.T, command string) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/"+command)
	list.Dir = root
	list.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr strings.Builder
	list.Stderr = &stderr
	output, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	// In order of names: go list's own order changes with every import line.
	lines := strings.Fields(string(output))
	slices.Sort(lines)
	return lines
}
