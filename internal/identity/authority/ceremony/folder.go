package ceremony

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
)

// What lies in a step's folder besides what the step was given and made.
const (
	entryFile     = "entry.json"
	signatureFile = "entry.sig"
)

const (
	stagingPrefix = ".step-"
	keyName       = "ceremony.key"
	maxFile       = 16 << 20
)

// stepName matches the folders of steps.
var stepName = regexp.MustCompile(`^[0-9]{2,4}-[a-z0-9-]+$`)

// folder is a ceremony's folder. Each step is one folder in it, made under
// another name and renamed when it is complete and synced: a step is there with
// all its files and its entry, or not at all.
type folder string

func (f folder) in(name ...string) string {
	return filepath.Join(append([]string{string(f)}, name...)...)
}

// steps returns the names of the steps' folders in order, and of the folders
// that interrupted acts left.
func (f folder) steps() (steps, left []string, err error) {
	list, err := os.ReadDir(string(f))
	if err != nil {
		return nil, nil, fault.Wrap(fault.CeremonyState, err, "the folder cannot be read")
	}
	for _, one := range list {
		switch {
		case one.IsDir() && stepName.MatchString(one.Name()):
			steps = append(steps, one.Name())
		case one.IsDir() && strings.HasPrefix(one.Name(), stagingPrefix):
			left = append(left, one.Name())
		}
	}
	slices.SortFunc(steps, func(a, b string) int {
		return cmp.Or(numberOf(a)-numberOf(b), strings.Compare(a, b))
	})
	return steps, left, nil
}

func numberOf(step string) int {
	n := 0
	for i := 0; i < len(step) && step[i] != '-'; i++ {
		n = n*10 + int(step[i]-'0')
	}
	return n
}

// readStep returns all files of a step.
func (f folder) readStep(step string) (map[string][]byte, error) {
	root, err := os.OpenRoot(f.in(step))
	if err != nil {
		return nil, fault.Wrap(fault.CeremonyState, err)
	}
	defer root.Close()
	files := make(map[string][]byte)
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fault.New(fault.TranscriptInvalid, step+"/"+name, "is a link or no plain file")
		}
		file, err := root.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
		if err == nil && len(content) > maxFile {
			return fault.New(fault.TranscriptInvalid, step+"/"+name, "is too large")
		}
		files[name] = content
		return err
	})
	if _, refused := errors.AsType[*fault.Error](err); err != nil && !refused {
		return nil, fault.Wrap(fault.CeremonyState, err)
	}
	return files, err
}

// staging is a step's folder before it is complete.
type staging struct {
	parent  folder
	dir     string
	inputs  []File
	outputs []File
	// last adds what can only be made when the entry is signed; nil: nothing.
	last func(entry, signature []byte) error
}

// stage makes an empty folder for a step.
func (f folder) stage(random io.Reader) (*staging, error) {
	var tail [6]byte
	if _, err := io.ReadFull(random, tail[:]); err != nil {
		return nil, fmt.Errorf("name a folder: %w", err)
	}
	s := &staging{parent: f, dir: f.in(stagingPrefix + hex.EncodeToString(tail[:]))}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.CeremonyState, err, "the folder cannot be written")
	}
	return s, nil
}

// output adds a file that the step made.
func (s *staging) output(name string, content []byte) error {
	s.outputs = append(s.outputs, File{Name: name, Size: int64(len(content)), SHA256: sum(content)})
	return s.write(name, content)
}

// made notes an output that another has written into the folder.
func (s *staging) made(name string) ([]byte, error) {
	content, err := os.ReadFile(filepath.Join(s.dir, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	s.outputs = append(s.outputs, File{Name: name, Size: int64(len(content)), SHA256: sum(content)})
	return content, nil
}

// input adds a copy of a file that the step was given.
func (s *staging) input(name string, content []byte) error {
	s.inputs = append(s.inputs, File{Name: name, Size: int64(len(content)), SHA256: sum(content)})
	return s.write(name, content)
}

// write makes a file that is not there yet, synced.
func (s *staging) write(name string, content []byte) error {
	at := filepath.Join(s.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	return writeNew(at, content)
}

func writeNew(at string, content []byte) error {
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

// publish gives the step its name, which nothing has yet, and makes that
// durable.
func (s *staging) publish(name string) error {
	for _, dir := range append(s.folders(), s.dir) {
		if err := syncFolder(dir); err != nil {
			return err
		}
	}
	to := s.parent.in(name)
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.CeremonyState, name, "is there already")
	}
	if err := os.Rename(s.dir, to); err != nil {
		return err
	}
	return syncFolder(string(s.parent))
}

// folders returns the folders in the step's own.
func (s *staging) folders() []string {
	var all []string
	for _, f := range append(s.inputs, s.outputs...) {
		if dir := path.Dir(f.Name); dir != "." {
			all = append(all, filepath.Join(s.dir, filepath.FromSlash(dir)))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// drop removes what a failed act has left.
func (s *staging) drop() { _ = os.RemoveAll(s.dir) } // the next act removes what could not be

// syncFolder makes the names in a folder durable. Windows has no such call; NTFS
// journals names.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// held compares the files of a step with what its entry says, and returns the
// first that differs.
func held(e *Entry, files map[string][]byte) (string, bool) {
	seen := map[string]bool{entryFile: true, signatureFile: true}
	intact := func(f File) bool {
		content, there := files[f.Name]
		return there && int64(len(content)) == f.Size && sum(content) == f.SHA256
	}
	keys := 0
	for _, f := range slices.Concat(e.Inputs, e.Outputs) {
		isKey := path.Base(f.Name) == keyFileName
		if isKey && intact(f) {
			keys++
		}
		// One of the two copies of the key file is enough.
		if seen[f.Name] || !isKey && !intact(f) {
			return f.Name, false
		}
		seen[f.Name] = true
	}
	if keys == 0 && seen[keyFolder+"/"+keyFileName] {
		return keyFolder + "/" + keyFileName, false
	}
	if e.Act == ActFinish {
		for _, name := range finishFiles {
			seen[name] = true
		}
	}
	for name := range files {
		if !seen[name] {
			return name, false
		}
	}
	return "", true
}
