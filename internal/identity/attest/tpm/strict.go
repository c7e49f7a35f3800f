package tpm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// decode reads one JSON value strictly: no unknown members, none twice, nothing
// behind it. What an operator signs must have one meaning.
func decode(content []byte, limit int, into any) error {
	if len(content) > limit {
		return fmt.Errorf("more than %d octets", limit)
	}
	if !utf8.Valid(content) {
		return errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("not the JSON that is wanted: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return noneTwice(json.NewDecoder(bytes.NewReader(content)))
}

// noneTwice refuses objects with two members of one name, of which encoding/json
// would take the last. It takes no account of case, as encoding/json does not.
func noneTwice(d *json.Decoder) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if delim == '{' {
			token, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := token.(string)
			if n, err := strconv.Atoi(name); err == nil && strconv.Itoa(n) != name {
				return fmt.Errorf("the member %q is not written as a plain number", name)
			}
			folded := strings.ToLower(name)
			if seen[folded] {
				return fmt.Errorf("the member %q is there twice", name)
			}
			seen[folded] = true
		}
		if err := noneTwice(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

const maxText = 128

// checkText wants a line that a person can read.
func checkText(what, text string) error {
	switch {
	case text == "":
		return errors.New(what + ": missing")
	case len(text) > maxText:
		return fmt.Errorf("%s: more than %d octets", what, maxText)
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return errors.New(what + ": has characters that cannot be seen")
	}
	return nil
}
