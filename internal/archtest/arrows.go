package archtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// layer says which folders a folder may import besides itself.
type layer struct {
	dir       string
	mayImport []string
}

// layers are the arrows of docs/architecture.md. Every package of the module
// lives in one of them.
var layers = []layer{
	{"internal/fault", nil},
	{"internal/format", []string{"internal/fault"}},
	{"internal/pki", belowPKI},
	{"internal/identity", belowIdentity},
	{"internal/store", belowEdges},
	{"internal/outbound", belowEdges},
	{"internal/protocol", belowEdges},
	{"internal/web", belowEdges},
	{"internal/edge", belowIdentity},
	{"internal/needs", nil},
	{"internal/archtest", nil},
	{"cmd", everything},
	{"bench", everything},
}

var (
	belowPKI      = []string{"internal/format", "internal/fault"}
	belowIdentity = append([]string{"internal/pki"}, belowPKI...)
	belowEdges    = append([]string{"internal/identity"}, belowIdentity...)
	everything    = append([]string{
		"internal/web", "internal/protocol", "internal/store", "internal/outbound", "internal/edge",
	}, belowEdges...)
)

// leaves import nothing of their own layer but what every store method takes:
// the ledger entries of the act and the scope of whoever acts.
var leaves = []layer{
	{"internal/identity/ledger", nil},
	{"internal/identity/access", []string{"internal/identity/ledger"}},
	{"internal/identity/device", []string{"internal/identity/ledger", "internal/identity/access"}},
}

// Exception permits one import that a rule forbids.
type Exception struct {
	From, To string // folders; To may be a package outside of the module
	Reason   string
}

func permitted(allowed []Exception, from, to string) bool {
	return slices.ContainsFunc(allowed, func(e Exception) bool { return e.From == from && e.To == to })
}

// arrows finds imports that point against the layers. The package's own tests
// obey too; tests in a package of their own (x_test) may put layers together.
func arrows(t *Tree, allowed []Exception) []Finding {
	var findings []Finding
	for file := range t.files {
		if file.external {
			continue
		}
		own := layerOf(file.dir)
		if own == nil {
			findings = append(findings, Finding{file.path, 1, file.dir + " belongs to no layer of docs/architecture.md"})
			continue
		}
		for _, one := range file.imports {
			if !one.local || file.test && one.path == "internal/needs" || permitted(allowed, file.dir, one.path) {
				continue
			}
			if reason := against(file.dir, one.path, own); reason != "" {
				findings = append(findings, Finding{file.path, one.line, fmt.Sprintf("%s imports %s: %s", file.dir, one.path, reason)})
			}
		}
	}
	return findings
}

func layerOf(dir string) *layer {
	for i := range layers {
		if within(dir, layers[i].dir) {
			return &layers[i]
		}
	}
	return nil
}

// against says why the arrow from one folder to another is wrong, or nothing.
func against(from, to string, own *layer) string {
	if to == "internal/needs" {
		if strings.HasSuffix(from, "test") {
			return ""
		}
		return "only tests say what they need of the machine"
	}
	if !within(to, own.dir) && !withinAny(to, own.mayImport) {
		return fmt.Sprintf("the arrow from %s to there points the wrong way", own.dir)
	}
	if from != to && own.dir == "internal/protocol" && within(to, own.dir) && protocolOf(from) != protocolOf(to) {
		return "protocol packages never import one another"
	}
	for _, leaf := range leaves {
		if within(from, leaf.dir) && within(to, own.dir) && !within(to, leaf.dir) && !withinAny(to, leaf.mayImport) {
			return leaf.dir + " is a leaf"
		}
	}
	return ""
}

// protocolOf returns "est" of "internal/protocol/est/message".
func protocolOf(dir string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(dir, "internal/protocol/"), "/")
	return name
}

// ban forbids packages to everyone within some folders, except to some.
type ban struct {
	packages []string
	within   []string
	except   []string
	reason   string
}

var importBans = []ban{
	{
		packages: []string{
			"net/http", "database/sql", "html/template",
			"github.com/jackc/pgx", "modernc.org/sqlite", "github.com/danielgtaylor/huma",
			"github.com/alecthomas/kong", "github.com/prometheus/client_golang",
		},
		within: []string{"internal/fault", "internal/format", "internal/pki", "internal/identity"},
		reason: "the business and its rules know no HTTP, no SQL and no command line",
	},
	{
		packages: []string{"internal/pki/issuing"},
		within:   []string{"internal", "cmd", "bench"},
		except:   []string{"internal/pki/issuing", "internal/identity/enroll", "internal/identity/status", "internal/identity/authority"},
		reason:   "only enroll, status and authority ask a CA key to sign",
	},
	{
		packages: []string{"internal/pki/keystore"},
		within:   []string{"internal/protocol", "internal/web", "internal/store", "internal/identity/enroll", "internal/identity/device"},
		reason:   "CA keys stay with identity/authority; a protocol's own key comes in as crypto.Signer",
	},
	{
		packages: []string{"internal/identity/status"},
		within:   []string{"internal/identity/authority"},
		reason:   "status asks authority, never back",
	},
	{
		packages: []string{"internal/identity", "internal/store", "internal/web", "internal/protocol", "internal/outbound"},
		within:   []string{"internal/edge/agent", "cmd/birthmark-agent"},
		reason:   "the agent carries no server code",
	},
	{
		packages: []string{"database/sql", "github.com/jackc/pgx", "modernc.org/sqlite"},
		within:   []string{"internal", "cmd"},
		except:   []string{"internal/store"},
		reason:   "SQL lives in internal/store",
	},
	{
		packages: []string{"math/rand", "math/rand/v2"},
		within:   []string{"internal/pki", "internal/identity", "internal/store", "internal/protocol"},
		reason:   "randomness is handed in as an io.Reader",
	},
	{
		packages: []string{"log", "os/exec", "plugin"},
		within:   []string{"internal"},
		except:   []string{"internal/needs", "internal/archtest"},
		reason:   "no global logger, no subprocess, no plug-in inside the server",
	},
	{
		packages: []string{"C"},
		within:   []string{"internal", "cmd", "bench"},
		except:   []string{"cmd/birthmark-signer"},
		reason:   "cgo only for PKCS#11, in the signer process",
	},
	{
		packages: []string{"unsafe"},
		within:   []string{"internal", "cmd"},
		reason:   "nothing here is worth it",
	},
	{
		packages: []string{
			"testing", "github.com/google/go-cmp", "github.com/rogpeppe/go-internal", "pgregory.net/rapid",
		},
		within: []string{"internal", "cmd"},
		reason: "only tests and packages named ...test",
	},
}

// names reports whether the ban covers the package: by its own name or, except
// for names of one word (log is not log/slog), by that of a folder above.
func (b ban) names(imported string) bool {
	return slices.ContainsFunc(b.packages, func(banned string) bool {
		return imported == banned || strings.Contains(banned, "/") && within(imported, banned)
	})
}

// bans finds imports that are forbidden by name. Tests and their packages are
// free.
func bans(t *Tree, allowed []Exception) []Finding {
	var findings []Finding
	for file := range t.files {
		if file.test || onlyForTests(file.dir) || file.dir == "internal/needs" {
			continue
		}
		for _, one := range file.imports {
			for _, b := range importBans {
				if !withinAny(file.dir, b.within) || withinAny(file.dir, b.except) ||
					!b.names(one.path) || permitted(allowed, file.dir, one.path) {
					continue
				}
				findings = append(findings, Finding{file.path, one.line, fmt.Sprintf("%s imports %s: %s", file.dir, one.path, b.reason)})
			}
		}
	}
	return findings
}

// onlyForTests reports whether the package serves tests, by its name; package
// attest has its own.
func onlyForTests(dir string) bool {
	name := path.Base(dir)
	return strings.HasSuffix(name, "test") && name != "attest"
}

// testPackages finds shipped code that imports a package made for tests. The
// measurements in bench are no part of what is shipped.
func testPackages(t *Tree) []Finding {
	var findings []Finding
	for file := range t.files {
		if file.test || onlyForTests(file.dir) || within(file.dir, "bench") {
			continue
		}
		for _, one := range file.imports {
			if one.local && onlyForTests(one.path) {
				findings = append(findings, Finding{file.path, one.line, fmt.Sprintf("%s imports %s: a package for tests", file.dir, one.path)})
			}
		}
	}
	return findings
}

// Stale returns the exceptions that permit nothing that is there.
func Stale(t *Tree, allowed []Exception) []Exception {
	return slices.DeleteFunc(slices.Clone(allowed), func(e Exception) bool {
		for file := range t.files {
			if file.dir == e.From && slices.ContainsFunc(file.imports, func(i imported) bool { return i.path == e.To }) {
				return true
			}
		}
		return false
	})
}
