package signer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// JournalConfig says where the journal is.
type JournalConfig struct {
	Dir     string // made with mode 0700 if missing
	Segment int64  // octets after which a new file begins; default 64 MiB
	Logger  *slog.Logger
}

// Journal is the append-only record of what was signed, in numbered files. Each
// record carries the hash of all before it, across files. Whoever appends at the
// same time shares one write and one sync. After a write that failed nothing is
// appended until the journal is opened again: what is on disk is not known.
type Journal struct {
	dir     string
	segment int64
	log     *slog.Logger
	lock    io.Closer

	// snapshot returns what a new file must begin with.
	snapshot func() [][]byte

	mu     sync.Mutex
	chain  chain  // guarded by mu; after the newest record that was queued
	queued *group // guarded by mu; nil: nobody waits
	second budget // guarded by mu; of notes
	hour   budget // guarded by mu; of notes
	lost   int    // guarded by mu; notes that were not written
	failed error  // guarded by mu; the journal takes nothing any more

	writing sync.Mutex
	file    *os.File // guarded by writing
	number  int      // guarded by writing
	size    int64    // guarded by writing
	dirty   bool     // guarded by writing; the newest group may not be on disk
}

// budget is how many notes there may still be in a span of time.
type budget struct{ span, left int64 }

// renew begins another span, whichever way the clock went, and reports it.
func (b *budget) renew(span, most int64) bool {
	if span == b.span {
		return false
	}
	b.span, b.left = span, most
	return true
}

// group is what one write appends.
type group struct {
	buffer  []byte
	last    int  // where its last record begins
	sync    bool // somebody waits for it to be durable
	written bool // guarded by writing
	err     error
}

const (
	segmentSuffix = ".journal"
	segmentMagic  = "birthmark signer journal 1\n"
	headSize      = len(segmentMagic) + hashSize

	// What was not signed must not fill the disk: 12 MB a day.
	notesPerSecond = 50
	notesPerHour   = 2000
)

// OpenJournal opens the journal in a folder, or begins one. What a power cut
// has torn off at the end is removed and kept in a file of its own; any other
// damage is refused.
func OpenJournal(c JournalConfig) (*Journal, error) {
	if c.Dir == "" {
		return nil, errors.New("signer: no folder for the journal")
	}
	if c.Segment == 0 {
		c.Segment = 64 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.SignerJournal, err, "the folder cannot be made")
	}
	if info, err := os.Stat(c.Dir); err != nil || info.Mode().Perm()&0o022 != 0 {
		return nil, fault.Wrap(fault.SignerJournal, err, "others may write to its folder; chmod 700", c.Dir)
	}
	lock, err := lockFile(filepath.Join(c.Dir, "lock"))
	if err != nil {
		return nil, fault.Wrap(fault.SignerJournal, err, "another signer uses this folder, or it cannot be written")
	}
	j := &Journal{dir: c.Dir, segment: c.Segment, log: c.Logger, lock: lock, snapshot: func() [][]byte { return nil }}
	if err := j.open(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return j, nil
}

// open continues the newest file or begins the first.
func (j *Journal) open() error {
	numbers, err := segments(j.dir)
	if err != nil {
		return fault.Wrap(fault.SignerJournal, err)
	}
	if len(numbers) == 0 {
		return j.begin(1)
	}
	j.number = numbers[len(numbers)-1]
	if len(numbers) > 1 && !j.begun(j.number) {
		// Power went while the file was begun: what must be remembered is not in it,
		// and nothing was appended to it.
		if err := os.Remove(j.path(j.number)); err != nil {
			return fault.Wrap(fault.SignerJournal, err)
		}
		j.number = numbers[len(numbers)-2]
	}
	if j.torn(j.number) {
		return j.begin(j.number)
	}
	return j.resume()
}

// torn reports whether a file has not even a head.
func (j *Journal) torn(number int) bool {
	info, err := os.Stat(j.path(number))
	return err == nil && info.Size() < int64(headSize)
}

// begun reports whether a file has the whole of its first group.
func (j *Journal) begun(number int) bool {
	data, err := os.ReadFile(j.path(number))
	if err != nil || !bytes.HasPrefix(data, []byte(segmentMagic)) && len(data) >= headSize {
		return true // whoever reads it finds out
	}
	if len(data) < headSize {
		return false
	}
	before, rest := chain(data[len(segmentMagic):headSize]), data[headSize:]
	for {
		body, after, last, tail, ok := cut(rest)
		if !ok || before.next(body) != after {
			return laterGroups(rest) // then it is damaged
		}
		if last {
			return true
		}
		before, rest = after, tail
	}
}

// resume opens the newest file for appending.
func (j *Journal) resume() error {
	path := j.path(j.number)
	data, err := os.ReadFile(path)
	if err != nil {
		return fault.Wrap(fault.SignerJournal, err)
	}
	end, last, err := walk(data, nil)
	if err != nil {
		return fault.Wrap(fault.SignerJournal, err, filepath.Base(path))
	}
	j.file, err = os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return fault.Wrap(fault.SignerJournal, err)
	}
	if end < len(data) {
		j.log.Warn("the journal's end was torn off by a power cut or crash and is repaired", "file", filepath.Base(path), "offset", end, "octets", len(data)-end)
		if err := os.WriteFile(fmt.Sprintf("%s.torn-%d", path, end), data[end:], 0o600); err != nil {
			return fault.Wrap(fault.SignerJournal, err)
		}
		if err := errors.Join(j.file.Truncate(int64(end)), j.file.Sync()); err != nil {
			return fault.Wrap(fault.SignerJournal, err)
		}
	}
	j.size, j.chain = int64(end), last
	_, err = j.file.Seek(j.size, io.SeekStart)
	return err
}

// begin makes a file that continues the chain, with what must be remembered. The
// caller is alone, or holds writing and mu.
func (j *Journal) begin(number int) error {
	f, err := os.OpenFile(j.path(number), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fault.Wrap(fault.SignerJournal, err)
	}
	head := append([]byte(segmentMagic), j.chain[:]...)
	if _, err := f.Write(head); err != nil {
		return fault.Wrap(fault.SignerJournal, errors.Join(err, f.Close()))
	}
	if err := errors.Join(f.Sync(), syncFolder(j.dir)); err != nil {
		return fault.Wrap(fault.SignerJournal, errors.Join(err, f.Close()))
	}
	if j.file != nil {
		if err := j.file.Close(); err != nil {
			return fault.Wrap(fault.SignerJournal, err)
		}
	}
	j.file, j.number, j.size = f, number, int64(len(head))
	return nil
}

func (j *Journal) path(number int) string {
	return filepath.Join(j.dir, fmt.Sprintf("%08d%s", number, segmentSuffix))
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// segments returns the numbers of the files, in order.
func segments(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		var n int
		name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if _, err := fmt.Sscanf(name, "%08d", &n); ok && err == nil && e.Type().IsRegular() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Append writes records and returns when they are on disk. Nothing may be signed
// before.
func (j *Journal) Append(at time.Time, records ...Record) error {
	j.mu.Lock()
	if j.failed != nil {
		j.mu.Unlock()
		return j.failed
	}
	g := j.join(at, records)
	g.sync = true
	j.mu.Unlock()
	return j.write(g)
}

// Note writes a record of what was not signed, without waiting for the disk. A
// flood of notes is not written; then it returns false.
func (j *Journal) Note(at time.Time, r Record) bool {
	j.mu.Lock()
	j.hour.renew(at.Unix()/3600, notesPerHour)
	if j.second.renew(at.Unix(), notesPerSecond) && j.lost > 0 {
		j.log.Warn("refusals were not written to the journal: too many", "lost", j.lost)
		j.lost = 0
	}
	if j.failed != nil || j.second.left == 0 || j.hour.left == 0 {
		j.lost++
		j.mu.Unlock()
		return false
	}
	j.second.left--
	j.hour.left--
	g := j.join(at, []Record{r})
	j.mu.Unlock()
	return j.write(g) == nil // the next Append meets the same error
}

// join adds records to the group that will be written next. The caller holds mu.
func (j *Journal) join(at time.Time, records []Record) *group {
	if j.queued == nil {
		j.queued = &group{buffer: make([]byte, 0, 256*len(records))}
	}
	for i := range records {
		records[i].At = at
		j.queued.last = len(j.queued.buffer)
		j.queued.buffer = records[i].appendTo(j.queued.buffer, &j.chain)
	}
	return j.queued
}

// write writes a group unless somebody else has.
func (j *Journal) write(g *group) error {
	j.writing.Lock()
	defer j.writing.Unlock()
	if g.written {
		return g.err
	}
	j.mu.Lock()
	if j.failed == nil && j.queued == g {
		j.queued = nil
	}
	failed := j.failed
	j.mu.Unlock()
	g.written, g.err = true, failed
	if g.err != nil {
		return g.err
	}
	err := j.put(g)
	if err == nil && j.size >= j.segment {
		err = j.rotate()
	}
	if err != nil {
		g.err = fault.Wrap(fault.SignerJournal, err)
		j.log.Error("the journal cannot be written; nothing is signed until a restart", "error", err)
		j.mu.Lock()
		j.failed = g.err
		j.mu.Unlock()
	}
	return g.err
}

// put writes a group behind one that is on disk: after a power cut only the
// newest may be torn. The caller holds writing.
func (j *Journal) put(g *group) (err error) {
	if j.dirty {
		if err := syncData(j.file); err != nil {
			return err
		}
	}
	g.written, j.dirty = true, true
	g.buffer[g.last] = markLast
	if _, err = j.file.Write(g.buffer); err == nil && g.sync {
		err = syncData(j.file)
		j.dirty = err != nil
	}
	j.size += int64(len(g.buffer))
	return err
}

// rotate goes on in a new file. What is queued already continues there. The
// caller holds writing.
func (j *Journal) rotate() error {
	states := j.snapshot()
	j.mu.Lock()
	defer j.mu.Unlock()
	// A group that is queued has its hashes already: the file's head needs the one
	// before it, so it is written to the old file first.
	if g := j.queued; g != nil {
		j.queued = nil
		if g.err = j.put(g); g.err != nil {
			return g.err
		}
	}
	if err := j.file.Sync(); err != nil {
		return err
	}
	j.dirty = false
	if err := j.begin(j.number + 1); err != nil {
		return err
	}
	if len(states) == 0 {
		return nil
	}
	g := &group{sync: true}
	for _, state := range states {
		r := Record{Outcome: State, State: state}
		g.last = len(g.buffer)
		g.buffer = r.appendTo(g.buffer, &j.chain)
	}
	return j.put(g)
}

// Close writes what is queued and closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	g := j.queued
	if j.failed == nil {
		j.failed = fault.New(fault.SignerJournal, "it is closed")
	}
	j.queued = nil
	j.mu.Unlock()
	j.writing.Lock()
	defer j.writing.Unlock()
	var err error
	if g != nil && !g.written {
		err = j.put(g)
	}
	return errors.Join(err, j.file.Sync(), j.file.Close(), j.lock.Close())
}

// Failed says why nothing can be appended; nil if something can.
func (j *Journal) Failed() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// walk reads a file's records. end is where the last one ends that is whole:
// what follows was torn off while it was written, and nobody relies on it. A
// record that is wrong while later groups are there is damage or an edit.
func walk(data []byte, visit func(*Record) error) (end int, last chain, err error) {
	if !bytes.HasPrefix(data, []byte(segmentMagic)) || len(data) < headSize {
		return 0, last, errors.New("it is no journal")
	}
	last = chain(data[len(segmentMagic):headSize])
	rest := data[headSize:]
	for len(rest) > 0 {
		body, after, _, tail, ok := cut(rest)
		var r Record
		if ok {
			r, ok = parseRecord(body)
		}
		if !ok || last.next(body) != after {
			break
		}
		if visit != nil {
			if err := visit(&r); err != nil {
				return 0, last, err
			}
		}
		last, rest = after, tail
	}
	end = len(data) - len(rest)
	if laterGroups(rest) {
		return end, last, fmt.Errorf("it was damaged or changed at offset %d", end)
	}
	return end, last, nil
}

// laterGroups reports whether bytes behind a bad record hold the end of a group
// and a record of the next that continues its chain. A crash tears the group
// that was being written, never one before it.
func laterGroups(data []byte) bool {
	for at := range data {
		_, before, last, rest, ok := cut(data[at:])
		if !ok || !last {
			continue
		}
		if body, after, _, _, ok := cut(rest); ok && before.next(body) == after {
			return true
		}
	}
	return false
}

// ReadJournal visits all records of the files in a folder, oldest first, and
// checks the chain from the oldest file that is there to the end. It may be used
// while the journal is being written: what is torn at the very end is not
// looked at.
func ReadJournal(dir string, visit func(*Record) error) error {
	numbers, err := segments(dir)
	if err != nil {
		return fault.Wrap(fault.SignerJournal, err)
	}
	return readSegments(dir, numbers, visit)
}

func readSegments(dir string, numbers []int, visit func(*Record) error) error {
	var before *chain
	for i, n := range numbers {
		name := fmt.Sprintf("%08d%s", n, segmentSuffix)
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fault.Wrap(fault.SignerJournal, err)
		}
		if len(data) < headSize && i == len(numbers)-1 {
			return nil
		}
		if before != nil && (len(data) < headSize || chain(data[len(segmentMagic):headSize]) != *before) {
			return fault.New(fault.SignerJournal, name, "does not continue the file before it")
		}
		end, last, err := walk(data, visit)
		if err != nil {
			return fault.Wrap(fault.SignerJournal, err, name)
		}
		if end < len(data) && i < len(numbers)-1 {
			return fault.New(fault.SignerJournal, name, "was cut or changed at offset", end)
		}
		before = &last
	}
	return nil
}
