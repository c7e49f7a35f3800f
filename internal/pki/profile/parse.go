package profile

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/birthmark/birthmark/internal/fault"
)

// maxText bounds a profile's text; the presets have about one kilobyte.
const maxText = 64 << 10

// Parse reads a profile and checks it. What it refuses is fault.ProfileInvalid
// with line and column.
func Parse(text []byte) (*Profile, error) {
	file, err := read(text)
	if err != nil {
		return nil, err
	}
	var c Config
	if err := yaml.UnmarshalWithOptions(text, &c, yaml.Strict()); err != nil {
		return nil, fault.New(fault.ProfileInvalid, position(err))
	}
	p, err := c.check()
	if err != nil {
		return nil, fault.New(fault.ProfileInvalid, locate(file, err))
	}
	p.Text = bytes.Clone(text)
	p.Digest = sha256.Sum256(text)
	return p, nil
}

// read parses the text and refuses what would make it ambiguous or expensive to
// decode: more than one document, anchors and aliases, deep nesting.
func read(text []byte) (*ast.File, error) {
	if len(text) > maxText {
		return nil, fault.New(fault.ProfileInvalid, "the text has more than", maxText, "octets")
	}
	if depth := flowDepth(text); depth > 16 {
		return nil, fault.New(fault.ProfileInvalid, "the text is nested too deeply")
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, fault.New(fault.ProfileInvalid, position(err))
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return nil, fault.New(fault.ProfileInvalid, "the text must be one YAML document")
	}
	var a aliases
	ast.Walk(&a, file.Docs[0].Body)
	if a.found != nil {
		at := a.found.GetToken().Position
		return nil, fault.New(fault.ProfileInvalid, fmt.Sprintf("line %d, column %d: anchors, aliases and merges are not allowed", at.Line, at.Column))
	}
	return file, nil
}

// flowDepth returns how many brackets are open at most; the parser recurses on
// each of them.
func flowDepth(text []byte) int {
	depth, most := 0, 0
	for _, c := range text {
		switch c {
		case '[', '{':
			depth++
			most = max(most, depth)
		case ']', '}':
			depth = max(depth-1, 0)
		}
	}
	return most
}

type aliases struct{ found ast.Node }

// Visit notes the first node that refers to another.
func (a *aliases) Visit(n ast.Node) ast.Visitor {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		if a.found == nil {
			a.found = n
		}
		return nil
	}
	return a
}

// position renders an error of the YAML library with line and column, in one
// line.
func position(err error) string {
	if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil {
		at := e.GetToken().Position
		return fmt.Sprintf("line %d, column %d: %s", at.Line, at.Column, e.GetMessage())
	}
	return "the text is not YAML"
}

// problem is a refusal of check: the YAML path of the field and what is wrong.
type problem struct {
	path, what string
}

func (p *problem) Error() string { return p.path + ": " + p.what }

func wrong(path, format string, a ...any) error {
	return &problem{path, fmt.Sprintf(format, a...)}
}

// locate adds line and column of the field that a problem names, or of the
// nearest one that is there.
func locate(file *ast.File, err error) string {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		return err.Error()
	}
	for path := p.path; path != ""; path = parent(path) {
		yp, err := yaml.PathString("$." + path)
		if err != nil {
			break
		}
		if n, err := yp.FilterFile(file); err == nil && n != nil && n.GetToken() != nil {
			at := n.GetToken().Position
			return fmt.Sprintf("line %d, column %d: %s", at.Line, at.Column, p)
		}
	}
	return "line 1, column 1: " + p.Error()
}

func parent(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			return path[:i]
		}
	}
	return ""
}
