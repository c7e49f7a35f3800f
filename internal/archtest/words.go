package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// emptyNames say nothing about what a package is.
var emptyNames = []string{
	"util", "utils", "common", "helper", "helpers", "model", "models", "types", "manager", "impl", "misc", "base", "lib",
}

func packageNames(t *Tree) []Finding {
	var findings []Finding
	for _, folder := range t.packages {
		for _, file := range folder.files {
			name := strings.TrimSuffix(file.ast.Name.Name, "_test")
			for _, word := range append(strings.Split(folder.dir, "/"), name) {
				if slices.Contains(emptyNames, word) {
					findings = append(findings, Finding{file.path, 1, fmt.Sprintf("%q says nothing: name the package for its one idea", word)})
					break
				}
			}
			if base := path.Base(folder.dir); name != "main" && folder.dir != "." && name != base {
				findings = append(findings, Finding{file.path, 1, fmt.Sprintf("package %s in a folder named %s", name, base)})
			}
		}
	}
	return findings
}

func packageComments(t *Tree) []Finding {
	var findings []Finding
	for _, folder := range t.packages {
		var described []string
		shipped := false
		for _, file := range folder.files {
			if file.test {
				continue
			}
			shipped = true
			doc := file.ast.Doc.Text()
			if doc == "" {
				continue
			}
			described = append(described, file.path)
			name := file.ast.Name.Name
			if name != "main" && !strings.HasPrefix(doc, "Package "+name+" ") {
				findings = append(findings, Finding{file.path, 1, "the package comment does not begin with Package " + name})
			}
		}
		if shipped && len(described) != 1 {
			findings = append(findings, Finding{
				folder.files[0].path, 1,
				fmt.Sprintf("package %s has %d comments, wants one %s", folder.dir, len(described), strings.Join(described, " ")),
			})
		}
	}
	return findings
}

// wrongWords are names that the glossary forbids: for the whole identifier, or
// for one word of it, within some folders.
var wrongWords = []struct {
	word    string
	whole   bool
	within  string
	instead string
}{
	{"serial", true, "", "certSerial or deviceSerial"},
	{"template", false, "internal/pki", "profile, or tbs"},
	{"template", false, "internal/identity", "profile, or tbs"},
	{"keygen", false, "", "generateKey"},
	{"vault", false, "", "keystore"},
	{"enrol", false, "", "enroll"},
	{"enrolment", false, "", "enrollment"},
	{"authorise", false, "", "authorize"},
	{"authorisation", false, "", "authorization"},
	{"aik", false, "", "AK"},
}

// declaredNames finds words that docs/glossary.md replaces by others, where
// shipped code declares them. Uses are not looked at: they follow.
func declaredNames(t *Tree) []Finding {
	var findings []Finding
	for file := range t.files {
		if file.test || onlyForTests(file.dir) {
			continue
		}
		// Flags and JSON follow their context, and a field is named for them.
		shown := within(file.dir, "cmd") || within(file.dir, "bench") || within(file.dir, "internal/web")
		declared(file.ast, func(name *ast.Ident, field bool) {
			words := camelWords(name.Name)
			for _, wrong := range wrongWords {
				if wrong.within != "" && !within(file.dir, wrong.within) || wrong.whole && field && shown {
					continue
				}
				hit := slices.Contains(words, wrong.word)
				if wrong.whole {
					hit = strings.EqualFold(name.Name, wrong.word)
				}
				if hit {
					findings = append(findings, Finding{
						file.path, t.line(name),
						fmt.Sprintf("%s: the glossary says %s", name.Name, wrong.instead),
					})
				}
			}
		})
	}
	return findings
}

// declared calls visit with every identifier that the file declares, and
// whether it is the field of a struct.
func declared(file *ast.File, visit func(name *ast.Ident, field bool)) {
	fields := map[*ast.Field]bool{}
	expressions := func(all ...ast.Expr) {
		for _, one := range all {
			if name, ok := one.(*ast.Ident); ok {
				visit(name, false)
			}
		}
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.FuncDecl:
			visit(n.Name, false)
		case *ast.TypeSpec:
			visit(n.Name, false)
		case *ast.ValueSpec:
			for _, name := range n.Names {
				visit(name, false)
			}
		case *ast.StructType:
			for _, field := range n.Fields.List {
				fields[field] = true
			}
		case *ast.Field:
			for _, name := range n.Names {
				visit(name, fields[n])
			}
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				expressions(n.Lhs...)
			}
		case *ast.RangeStmt:
			if n.Tok == token.DEFINE {
				expressions(n.Key, n.Value)
			}
		}
		return true
	})
}

// camelWords splits "parseCSRTemplate" into parse, csr, template.
func camelWords(name string) []string {
	var words []string
	runes := []rune(name)
	start := 0
	for i := 1; i <= len(runes); i++ {
		if i == len(runes) || runes[i] == '_' ||
			unicode.IsUpper(runes[i]) && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			if word := strings.Trim(string(runes[start:i]), "_"); word != "" {
				words = append(words, strings.ToLower(word))
			}
			start = i
		}
	}
	return words
}

// calls finds calls that a package must not make: the clock where it is handed
// in, a skip beside internal/needs, sleeping in tests, init functions.
func calls(t *Tree) []Finding {
	var findings []Finding
	for file := range t.files {
		add := func(node ast.Node, text string) {
			findings = append(findings, Finding{file.path, t.line(node), text})
		}
		for _, decl := range file.ast.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				add(f, "no init functions: construct in New, wire in cmd")
			}
		}
		timed := !file.test && (within(file.dir, "internal/pki") || within(file.dir, "internal/identity"))
		// Tests in cmd run other processes, which tell nobody when they are ready.
		awaits := !within(file.dir, "cmd")
		fakeTime := slices.ContainsFunc(file.imports, func(i imported) bool { return i.path == "testing/synctest" })
		walkCalls(file.ast, func(call *ast.CallExpr, selector *ast.SelectorExpr, testing map[string]bool) {
			receiver, ok := selector.X.(*ast.Ident)
			if !ok {
				return
			}
			method := selector.Sel.Name
			switch {
			case receiver.Name == "time" && timed && slices.Contains([]string{"Now", "Since", "Until"}, method):
				add(call, "time."+method+": the clock is handed in as now func() time.Time")
			case receiver.Name == "time" && method == "Sleep" && file.test && awaits && !fakeTime:
				add(call, "time.Sleep in a test: wait for what is awaited, or use testing/synctest")
			case testing[receiver.Name] && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, method) && file.dir != "internal/needs":
				add(call, receiver.Name+"."+method+": say what is missing through internal/needs (a fuzz target returns)")
			}
		})
	}
	return findings
}

// walkCalls visits every method or package call with the set of names that are
// a *testing.T, B, F or TB there.
func walkCalls(file *ast.File, visit func(*ast.CallExpr, *ast.SelectorExpr, map[string]bool)) {
	var walk func(ast.Node, map[string]bool)
	walk = func(root ast.Node, testing map[string]bool) {
		ast.Inspect(root, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.FuncDecl:
				if n.Body != nil {
					walk(n.Body, withParams(testing, n.Type.Params))
				}
				return false
			case *ast.FuncLit:
				walk(n.Body, withParams(testing, n.Type.Params))
				return false
			case *ast.CallExpr:
				if selector, ok := n.Fun.(*ast.SelectorExpr); ok {
					visit(n, selector, testing)
				}
			}
			return true
		})
	}
	walk(file, nil)
}

// withParams returns the names that are a testing value inside a function with
// these parameters: a parameter hides the same name outside.
func withParams(outside map[string]bool, params *ast.FieldList) map[string]bool {
	inside := map[string]bool{}
	for name := range outside {
		inside[name] = true
	}
	for _, field := range params.List {
		kind := field.Type
		if pointer, ok := kind.(*ast.StarExpr); ok {
			kind = pointer.X
		}
		selector, ok := kind.(*ast.SelectorExpr)
		isTesting := false
		if ok {
			from, named := selector.X.(*ast.Ident)
			isTesting = named && from.Name == "testing"
		}
		for _, name := range field.Names {
			inside[name.Name] = isTesting
		}
	}
	return inside
}

var (
	todo   = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)
	issue  = regexp.MustCompile(`\bTODO\(#[0-9]+\)`)
	banner = regexp.MustCompile(`^(//|/\*)\s*([-=*#~])([-=*#~]){3,}`)
)

func comments(t *Tree) []Finding {
	var findings []Finding
	for file := range t.files {
		for _, group := range file.ast.Comments {
			for _, comment := range group.List {
				if todo.MatchString(comment.Text) && !issue.MatchString(comment.Text) && !within(file.dir, "internal/archtest") {
					findings = append(findings, Finding{file.path, t.line(comment), "a TODO names its issue: TODO(#12)"})
				}
				if banner.MatchString(comment.Text) {
					findings = append(findings, Finding{file.path, t.line(comment), "no banner lines: split the file instead"})
				}
			}
		}
	}
	return findings
}

// longest is how long a shipped file may grow: beyond about 600 lines it holds
// a second idea.
const longest = 650

func fileLengths(t *Tree) []Finding {
	var findings []Finding
	for file := range t.files {
		if !file.test && file.lines > longest {
			findings = append(findings, Finding{file.path, file.lines, fmt.Sprintf("%d lines: split it", file.lines)})
		}
	}
	return findings
}
