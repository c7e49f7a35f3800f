package ledger

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/birthmark/birthmark/internal/fault"
)

// Witness remembers checkpoints outside the database, so that whoever rolls the
// database back, or replaces it, cannot also make that unseen.
type Witness interface {
	// Name is how the witness is called in logs and metrics.
	Name() string
	// Last returns the newest checkpoint of this ledger that the witness took;
	// a zero Checkpoint if there is none.
	Last(ctx context.Context) (Checkpoint, error)
	// Submit shows a newer checkpoint with the proof that the ledger of the
	// last one is its prefix. A witness that sees another ledger answers
	// fault.LedgerRolledBack; it may leave checkpoints out that follow one
	// another too quickly.
	Submit(ctx context.Context, c Checkpoint, proof tlog.TreeProof) error
}

// FileWitness appends checkpoints to a file, which belongs on another disk or
// machine than the database, best where it can only be appended to. Each record
// is a line with time and length, and the signed note.
type FileWitness struct {
	cfg FileWitnessConfig

	mu   sync.Mutex
	file *os.File   // guarded by mu
	last Checkpoint // guarded by mu
}

// FileWitnessConfig names what a FileWitness needs; all but Every is required.
type FileWitnessConfig struct {
	Path     string
	Verifier note.Verifier
	Now      func() time.Time
	// Every is the least time between two records. Zero takes each checkpoint,
	// which on a busy server is 20 MB a day.
	Every time.Duration
}

// OpenFileWitness opens or makes the file and reads the newest checkpoint of
// this ledger. A record that is cut off at the end was never acknowledged and is
// dropped; anything else that is wrong is an error.
func OpenFileWitness(cfg FileWitnessConfig) (*FileWitness, error) {
	if cfg.Path == "" || cfg.Verifier == nil || cfg.Now == nil {
		return nil, errors.New("file witness: path, verifier and clock are required")
	}
	f, err := os.OpenFile(cfg.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.WitnessFailed, err)
	}
	w := &FileWitness{cfg: cfg, file: f}
	if err := w.read(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := syncFolder(filepath.Dir(cfg.Path)); err != nil {
		return nil, errors.Join(fault.Wrap(fault.WitnessFailed, err), f.Close())
	}
	return w, nil
}

// Close closes the file.
func (w *FileWitness) Close() error { return w.file.Close() }

// Name implements Witness.
func (w *FileWitness) Name() string { return "file" }

// Last implements Witness.
func (w *FileWitness) Last(context.Context) (Checkpoint, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last, nil
}

// Submit implements Witness.
func (w *FileWitness) Submit(_ context.Context, c Checkpoint, proof tlog.TreeProof) error {
	opened, err := OpenCheckpoint(c.Note, w.cfg.Verifier)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := follows(w.last, opened, proof); err != nil {
		return err
	}
	now := w.cfg.Now()
	if opened.Size == w.last.Size && w.last.Note != nil || now.Sub(time.Unix(w.last.At, 0)) < w.cfg.Every {
		return nil
	}
	opened.At = now.Unix()
	if err := w.append(opened); err != nil {
		return fault.Wrap(fault.WitnessFailed, err)
	}
	w.last = opened
	return nil
}

// follows reports a checkpoint that does not continue the last one.
func follows(last, next Checkpoint, proof tlog.TreeProof) error {
	if last.Size == 0 {
		return nil
	}
	if next.Size < last.Size {
		return fault.New(fault.LedgerRolledBack, fmt.Sprintf("the witness saw %d entries, now there are %d", last.Size, next.Size))
	}
	if err := tlog.CheckTree(proof, next.Size, next.Root, last.Size, last.Root); err != nil {
		return fault.Wrap(fault.LedgerRolledBack, err, fmt.Sprintf("the first %d entries are not those that the witness saw", last.Size))
	}
	return nil
}

func (w *FileWitness) append(c Checkpoint) error {
	end, err := w.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	record := fmt.Appendf(nil, "%s %d\n%s", time.Unix(c.At, 0).UTC().Format(time.RFC3339), len(c.Note), c.Note)
	if _, err = w.file.Write(record); err == nil {
		err = w.file.Sync()
	}
	if err != nil {
		// Half a record in the middle would make the file unreadable.
		return errors.Join(err, w.file.Truncate(end))
	}
	return nil
}

// maxNote bounds a signed note: three lines and some signatures.
const maxNote = 64 << 10

// read finds the newest checkpoint of this ledger.
func (w *FileWitness) read() error {
	r := bufio.NewReader(w.file)
	var whole int64 // octets in complete records
	for {
		at, signed, n, err := readRecord(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fault.Wrap(fault.WitnessFailed, err, "the witness's file is damaged at octet", whole)
		}
		whole += n
		if !bytes.HasPrefix(signed, []byte(w.cfg.Verifier.Name()+"\n")) {
			continue // of the ledger before a restore
		}
		c, err := OpenCheckpoint(signed, w.cfg.Verifier)
		if err != nil {
			return fault.Wrap(fault.WitnessFailed, err, "the witness's file is damaged at octet", whole-n)
		}
		if c.Size < w.last.Size {
			return fault.New(fault.LedgerRolledBack, "the witness's file goes back at octet", whole-n)
		}
		c.At = at.Unix()
		w.last = c
	}
	if err := w.file.Truncate(whole); err != nil {
		return fault.Wrap(fault.WitnessFailed, err)
	}
	return nil
}

// readRecord reads one record and its length; io.EOF at the end, also when the
// last record is cut off.
func readRecord(r *bufio.Reader) (at time.Time, signed []byte, n int64, err error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return at, nil, 0, err
	}
	var size int
	stamp, length, ok := strings.Cut(line, " ")
	at, err = time.Parse(time.RFC3339, stamp)
	if _, scanErr := fmt.Sscanf(length, "%d\n", &size); !ok || err != nil || scanErr != nil || size < 0 || size > maxNote {
		return at, nil, 0, fmt.Errorf("a record begins with %q", line)
	}
	signed = make([]byte, size)
	if _, err := io.ReadFull(r, signed); err != nil {
		return at, nil, 0, io.EOF
	}
	return at, signed, int64(len(line) + size), nil
}

// syncFolder makes a new file's name durable, where folders can be synced.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrInvalid) {
		return err
	}
	return nil
}
