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
const maxText = 16 << 10

var errNotYAML = errors.New("the text is not YAML")

// Parse reads a profile and checks it. What it refuses is fault.ProfileInvalid
// with line and column.
func Parse(text []byte) (*Profile, error) {
	c, file, err := decode(text)
	if err != nil {
		return nil, fault.New(fault.ProfileInvalid, err)
	}
	p, err := c.check()
	if err != nil {
		return nil, fault.New(fault.ProfileInvalid, locate(file, err))
	}
	p.Text = bytes.Clone(text)
	p.Digest = sha256.Sum256(text)
	return p, nil
}

// decode turns text into a Config. The YAML library was seen to panic on a tag
// before a scalar, which read refuses; what is still in there must not end the
// process.
func decode(text []byte) (c *Config, file *ast.File, err error) {
	defer func() {
		if recover() != nil {
			err = errNotYAML
		}
	}()
	if file, err = read(text); err != nil {
		return nil, nil, err
	}
	c = new(Config)
	if err := yaml.UnmarshalWithOptions(text, c, yaml.Strict()); err != nil {
		return nil, nil, position(err)
	}
	return c, file, nil
}

// read parses the text and refuses what would make it ambiguous or expensive to
// decode: more than one document, anchors, aliases and tags, deep nesting.
func read(text []byte) (*ast.File, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("the text has more than %d octets", maxText)
	}
	if flowDepth(text) > 16 || blockDepth(text) > 16 {
		return nil, errors.New("the text is nested too deeply")
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, position(err)
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return nil, errors.New("the text must be one YAML document")
	}
	var a aliases
	ast.Walk(&a, file.Docs[0].Body)
	if a.found != nil {
		at := a.found.GetToken().Position
		return nil, fmt.Errorf("line %d, column %d: anchors, aliases, merges and tags are not allowed", at.Line, at.Column)
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

// blockDepth returns how many list items or keys are opened at the start of one
// line at most; the parser needs seconds for thousands of them.
func blockDepth(text []byte) int {
	most := 0
	for line := range bytes.Lines(text) {
		depth := 0
		for i := 0; i+1 < len(line); i++ {
			if (line[i] == '-' || line[i] == '?') && (line[i+1] == ' ' || line[i+1] == '\t') {
				depth++
			} else if line[i] != ' ' && line[i] != '\t' {
				break
			}
		}
		most = max(most, depth)
	}
	return most
}

type aliases struct{ found ast.Node }

// Visit notes the first node that refers to another.
func (a *aliases) Visit(n ast.Node) ast.Visitor {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.TagNode:
		if a.found == nil {
			a.found = n
		}
		return nil
	}
	return a
}

// position turns an error of the YAML library into one line with line and
// column.
func position(err error) error {
	if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil {
		at := e.GetToken().Position
		return fmt.Errorf("line %d, column %d: %s", at.Line, at.Column, e.GetMessage())
	}
	return errNotYAML
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
