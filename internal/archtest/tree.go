// Package archtest keeps the architecture true. Its test reads the import lines
// and the names of the whole tree and fails when an arrow of docs/architecture.md
// points the wrong way, when a word of the glossary is misused, or when a binary
// has gained a dependency that nobody looked at. It needs no build and no tool:
// broken code is read as well as good code, for every platform at once.
//
// An exception is an entry of a list, with its reason; one that is no longer
// needed is an error too.
package archtest

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Finding is one place that breaks one rule.
type Finding struct {
	File string
	Line int
	Text string
}

func (f Finding) String() string { return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Text) }

// Tree is the parsed module.
type Tree struct {
	module   string
	set      *token.FileSet
	packages []*goPackage
}

// goPackage is one folder with Go files.
type goPackage struct {
	dir   string // "internal/pki/chain"; "." is the module's root
	files []*goFile
}

type goFile struct {
	path     string
	dir      string
	test     bool // *_test.go
	external bool // package x_test
	lines    int
	ast      *ast.File
	imports  []imported
}

type imported struct {
	path  string // "net/http", or "internal/fault" for a package of this module
	local bool
	line  int
}

// Load parses every Go file of the module at the root of the file system.
// Folders that the go command ignores, and modules inside, are left out.
func Load(root fs.FS) (*Tree, error) {
	text, err := fs.ReadFile(root, "go.mod")
	if err != nil {
		return nil, err
	}
	tree := &Tree{module: modulePath(text), set: token.NewFileSet()}
	if tree.module == "" {
		return nil, errors.New("go.mod has no module line")
	}

	folders := map[string]*goPackage{}
	err = fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if ignored(root, name) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		file, err := tree.parse(root, name)
		if err != nil {
			return err
		}
		folder := folders[file.dir]
		if folder == nil {
			folder = &goPackage{dir: file.dir}
			folders[file.dir] = folder
			tree.packages = append(tree.packages, folder)
		}
		folder.files = append(folder.files, file)
		return nil
	})
	return tree, err
}

func ignored(root fs.FS, dir string) bool {
	if dir == "." {
		return false
	}
	base := path.Base(dir)
	if base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return true
	}
	_, err := fs.Stat(root, path.Join(dir, "go.mod"))
	return err == nil
}

func modulePath(gomod []byte) string {
	lines := bufio.NewScanner(bytes.NewReader(gomod))
	for lines.Scan() {
		if module, ok := strings.CutPrefix(lines.Text(), "module "); ok {
			return strings.TrimSpace(module)
		}
	}
	return ""
}

func (t *Tree) parse(root fs.FS, name string) (*goFile, error) {
	source, err := fs.ReadFile(root, name)
	if err != nil {
		return nil, err
	}
	parsed, err := parser.ParseFile(t.set, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	file := &goFile{
		path:     name,
		dir:      path.Dir(name),
		test:     strings.HasSuffix(name, "_test.go"),
		external: strings.HasSuffix(parsed.Name.Name, "_test"),
		lines:    bytes.Count(source, []byte("\n")),
		ast:      parsed,
	}
	for _, spec := range parsed.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		one := imported{path: target, line: t.line(spec)}
		if inside, ok := strings.CutPrefix(target, t.module+"/"); ok {
			one.path, one.local = inside, true
		}
		file.imports = append(file.imports, one)
	}
	return file, nil
}

func (t *Tree) line(node ast.Node) int { return t.set.Position(node.Pos()).Line }

// files calls yield with every file of the tree.
func (t *Tree) files(yield func(*goFile) bool) {
	for _, folder := range t.packages {
		for _, file := range folder.files {
			if !yield(file) {
				return
			}
		}
	}
}

// Check applies every rule and returns what breaks one, in order of files.
func Check(t *Tree, allowed []Exception) []Finding {
	findings := slices.Concat(
		arrows(t, allowed),
		bans(t, allowed),
		testPackages(t),
		packageNames(t),
		packageComments(t),
		declaredNames(t),
		calls(t),
		comments(t),
		fileLengths(t),
	)
	slices.SortFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Text, b.Text))
	})
	return findings
}

// within reports whether the folder is the given one or inside it.
func within(dir, folder string) bool {
	return dir == folder || strings.HasPrefix(dir, folder+"/")
}

func withinAny(dir string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool { return within(dir, folder) })
}
