package archtest_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinksOfTheDocumentsLead follows every relative link of the Markdown files.
func TestLinksOfTheDocumentsLead(t *testing.T) {
	followed := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "testdata") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range link.FindAllStringSubmatch(string(text), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			followed++
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), filepath.FromSlash(target))
			}
			if !leads(file, anchor) {
				t.Errorf("%s: %s leads nowhere", path, match[1])
			}
		}
		return nil
	})
	if err != nil || followed < 20 {
		t.Fatalf("%d links followed, %v", followed, err)
	}
}

var (
	heading    = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInNames = regexp.MustCompile(`[^\w\- ]`)
)

// leads reports whether the file is there, and the heading in it.
func leads(file, anchor string) bool {
	if anchor == "" {
		_, err := os.Stat(file)
		return err == nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for _, match := range heading.FindAllStringSubmatch(string(text), -1) {
		name := notInNames.ReplaceAllString(strings.ToLower(match[1]), "")
		if strings.ReplaceAll(name, " ", "-") == anchor {
			return true
		}
	}
	return false
}
